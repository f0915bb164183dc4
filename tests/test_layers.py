"""The pack's rooms and the imports between them: nodes -> host -> core, one way. Run as a script, prints how many there are."""

import ast
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
LAYERS = ("core", "host", "nodes")
# What each layer may import from elsewhere, by the first name, beside Python's own library.
ELSEWHERE = {
    "core": {"torch", "numpy", "einops", "safetensors", "scipy", "matplotlib", "PIL"},
    "host": {"torch", "numpy", "einops", "safetensors", "PIL", "tqdm"}
    | {"comfy", "comfy_api", "comfyui_version", "folder_paths", "latent_preview"},
    "nodes": {"torch", "comfy_api"},
}


def files(root: Path = ROOT) -> dict[str, Path]:
    """The modules of the three layers, by dotted name; a package's __init__ has its package's name."""
    paths = [path for layer in LAYERS for path in sorted((root / layer).rglob("*.py"))]
    return {".".join(path.relative_to(root).with_suffix("").parts).removesuffix(".__init__"): path for path in paths}


def imports(name: str, path: Path) -> set[str]:
    """The dotted names that a module imports, wherever in it; those of the pack without "pack"."""
    package = name.split(".") if path.name == "__init__.py" else name.split(".")[:-1]
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level:
            base = package[: len(package) - node.level + 1] + (node.module.split(".") if node.module else [])
            found |= {".".join([*base, alias.name]) for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add(node.module)
    return found


def arrows(root: Path = ROOT) -> dict[str, set[str]]:
    """For each module, the modules of the three layers that it imports."""
    modules = files(root)
    within = {}
    for name, path in modules.items():
        targets = set()
        for found in imports(name, path):
            known = [found, found.rpartition(".")[0]]
            targets |= {next((one for one in known if one in modules), "")} - {"", name}
        within[name] = targets
    return within


def floors(graph: dict[str, set[str]]) -> int:
    """The length of the longest chain of imports, in modules. ValueError if some import each other in a circle."""
    heights: dict[str, int] = {}

    def height(name: str, above: tuple[str, ...] = ()) -> int:
        if name in above:
            raise ValueError(" -> ".join([*above[above.index(name) :], name]))
        if name not in heights:
            heights[name] = 1 + max((height(one, (*above, name)) for one in graph[name]), default=0)
        return heights[name]

    return max(map(height, graph))


def inside(layer: str, graph: dict[str, set[str]]) -> dict[str, set[str]]:
    """The part of the arrows that stays in one layer."""
    return {name: {one for one in to if one.split(".")[0] == layer} for name, to in graph.items() if name.split(".")[0] == layer}


def test_imports_go_one_way():
    wrong = [
        f"{name} imports {one}"
        for name, to in arrows().items()
        for one in to
        if LAYERS.index(one.split(".")[0]) > LAYERS.index(name.split(".")[0])
    ]
    assert not wrong, "\n".join(wrong)


def test_no_modules_import_each_other_in_a_circle():
    assert floors(arrows()) > 1


@pytest.mark.parametrize("layer", LAYERS)
def test_a_layer_imports_only_what_is_its_own_to_know(layer):
    """In core nothing of ComfyUI, in nodes its public node API alone."""
    allowed = ELSEWHERE[layer] | set(sys.stdlib_module_names) | set(LAYERS) | {"demo"} - ({"demo"} if layer != "nodes" else set())
    wrong = [
        f"{name} imports {one}"
        for name, path in files().items()
        if name.split(".")[0] == layer
        for one in imports(name, path)
        if one.split(".")[0] not in allowed
    ]
    assert not wrong, "\n".join(wrong)


def test_a_circle_is_found():
    with pytest.raises(ValueError, match="a -> b -> a"):
        floors({"a": {"b"}, "b": {"a"}})


if __name__ == "__main__":
    graph = arrows(Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT)
    for layer in LAYERS:
        part = inside(layer, graph)
        if part:
            print(f"{layer}: {len(part)} modules, {sum(map(len, part.values()))} arrows, {floors(part)} floors")
    across = sum(len(to) for to in graph.values()) - sum(len(to) for layer in LAYERS for to in inside(layer, graph).values())
    print(f"all: {len(graph)} modules, {sum(map(len, graph.values()))} arrows ({across} between layers), {floors(graph)} floors")
