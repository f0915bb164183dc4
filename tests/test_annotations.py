"""Every parameter and every result of the functions and methods of core, host and nodes has its type; `make lint` checks these types."""

import ast
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def parameters(function: ast.FunctionDef | ast.AsyncFunctionDef, *, method: bool) -> list[ast.arg]:
    """The parameters of a function but a method's first, which Python gives it."""
    given = function.args
    several = [one for one in (given.vararg, given.kwarg) if one]
    static = any(isinstance(by, ast.Name) and by.id == "staticmethod" for by in function.decorator_list)
    return [*given.posonlyargs, *given.args, *given.kwonlyargs, *several][method and not static :]


def without_types(source: str) -> tuple[list[str], int, int]:
    """What has no type in a module, by line and name; how many parameters the module has, and how many functions and methods."""
    tree, found, count = ast.parse(source), [], 0
    methods = {id(part) for one in ast.walk(tree) if isinstance(one, ast.ClassDef) for part in one.body}
    functions = [one for one in ast.walk(tree) if isinstance(one, (ast.FunctionDef, ast.AsyncFunctionDef))]
    for function in functions:
        own = parameters(function, method=id(function) in methods)
        count += len(own)
        found += [f"{function.lineno}: {one.arg} of {function.name}" for one in own if one.annotation is None]
        found += [f"{function.lineno}: the result of {function.name}"] if function.returns is None else []
    return found, count, len(functions)


def test_every_parameter_and_result_has_a_type():
    counts, missing = [], []
    for path in (path for layer in ("core", "host", "nodes") for path in sorted((ROOT / layer).rglob("*.py"))):
        found, *count = without_types(path.read_text())
        missing += [f"{path.relative_to(ROOT)}:{one}" for one in found]
        counts.append(count)
    parameters, functions = map(sum, zip(*counts))
    print(f"types: {parameters} parameters and {functions} results in core, host and nodes, {len(missing)} of them without")
    assert parameters > 1000
    assert not missing, "\n".join(missing)


def test_what_has_no_type_is_found():
    source = "class A:\n    def b(self, c, *d: int, **e) -> None:\n        def f(g: int): ...\n    @staticmethod\n    def h(i): ..."
    expected = ["2: c of b", "2: e of b", "5: i of h", "5: the result of h", "3: the result of f"]
    assert without_types(source) == (expected, 5, 3)
