"""Every program of this checkout that a user may run for figures, pictures or weights, at its smallest size, in an interpreter of its own.

The programs of one kind share it, one after another: importing the host takes longer than most of them.
"""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGES, SETTINGS = ["--smallest", "--out"], ["--smallest"]  # a folder follows --out
KINDS = {
    "benches": {
        "bench/hspace.py": PAGES,
        "bench/attributes.py": PAGES,
        "bench/attributes.py --model portrait-dit": PAGES,
        "bench/training.py": PAGES,
        "bench/guidance.py": PAGES,
        "bench/spaces.py": PAGES,
        "bench/properties.py": PAGES,
        "bench/properties.py --model portrait-dit": PAGES,
        "bench/evidence.py --model portrait-dit": PAGES,
        "bench/evidence.py": PAGES,
        "bench/evidence.py --cost": PAGES,
        "bench/sheets.py": PAGES,
        "bench/families.py": PAGES,
        "bench/slider_lora.py": PAGES,
        "bench/slider_lora.py --model portrait-dit": PAGES,
        "bench/places.py": PAGES,
        "bench/places.py --model portrait-dit": PAGES,
        "bench/speed.py": SETTINGS,
        "bench/passes.py": SETTINGS,
        "bench/training_cost.py sd15": SETTINGS,
    },
    "loading": {"bench/loading.py --one": []},  # one of its measurements
    "demo": {"demo/sliders.py": PAGES},
    "help pictures": {"-m dev.help_pictures": PAGES, "-m demo.photograph": ["--out"]},
}
BOTH = ("bench/evidence.py", "bench/places.py")  # their pages are about both models
EVERY = [program for programs in KINDS.values() for program in programs]
SLOW = (*KINDS["help pictures"], *KINDS["loading"], "bench/hspace.py")  # each a minute, and about what others go through, too
KEPT = ("docs", "nodes/web/docs", "demo", "bench/.cache")  # what users have of the real sizes
ANSWER = "ended: "
RUNNER = f"""
import contextlib, io, json, runpy, sys, traceback
for line in sys.stdin:
    words, folder = json.loads(line)
    sys.argv, problem = words[words[0] == "-m":], ""
    sys.path.insert(0, folder)
    with contextlib.redirect_stdout(io.StringIO()) as told:
        try:
            if words[0] == "-m":
                runpy.run_module(words[1], run_name="__main__", alter_sys=True)
            else:
                runpy.run_path(words[0], run_name="__main__")
        except SystemExit as end:
            problem = f"exit {{end.code}}" if end.code else ""
        except BaseException:
            problem = traceback.format_exc()
    print({ANSWER!r} + json.dumps([problem, told.getvalue()]), flush=True)
"""


class Interpreter:
    """A Python that runs the programs of one kind, each when it is first asked for."""

    def __init__(self, folder):
        self.ends, self.log = {}, folder / "stderr"
        with self.log.open("w") as log:
            pipes = dict(stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log)
            self.process = subprocess.Popen([sys.executable, "-c", RUNNER], **pipes, text=True, cwd=ROOT)

    def run(self, program, options, out):
        """How a program ended, if not well, what it told, and the folder that it wrote to."""
        if program not in self.ends:
            words = [*program.split(), *options, *([str(out)] if "--out" in options else [])]
            self.process.stdin.write(json.dumps([words, str(ROOT if words[0] == "-m" else ROOT / Path(words[0]).parent)]) + "\n")
            self.process.stdin.flush()
            answer = next((line for line in self.process.stdout if line.startswith(ANSWER)), None)
            died = [f"the interpreter ended: {self.log.read_text()[-3000:]}", ""]
            self.ends[program] = json.loads(answer.removeprefix(ANSWER)) if answer else died
        return *self.ends[program], out

    def close(self):
        self.process.kill()
        self.process.wait()


def files():
    found = (path for name in KEPT for path in (ROOT / name).rglob("*") if "__pycache__" not in path.parts)
    return {path: (path.stat().st_size, path.stat().st_mtime_ns) for path in found if path.is_file()}


@pytest.fixture(scope="module")
def run_smallest(tmp_path_factory):
    """`run_smallest("demo/sliders.py")`: how a program ended, if not well, what it told, and the folder that it wrote to."""
    interpreters = dict.fromkeys(KINDS)
    folders = {}

    def call(program):
        kind = next(kind for kind, programs in KINDS.items() if program in programs)
        interpreters[kind] = interpreters[kind] or Interpreter(tmp_path_factory.mktemp("interpreter"))
        script = program.split(" --")[0]
        if program.endswith(" --cost"):
            call(script)  # its page needs what was drawn, too, on both models
            call(f"{script} --model portrait-dit")
        home = script if script in BOTH else program
        out = folders.setdefault(home, tmp_path_factory.mktemp("out"))
        return interpreters[kind].run(program, KINDS[kind][program], out)

    yield call
    for interpreter in filter(None, interpreters.values()):
        interpreter.close()


@pytest.fixture(scope="module", autouse=True)
def nothing_else_written():
    """Figures of the smallest size mean nothing: they replace no real ones."""
    before = files()
    yield
    assert files() == before


@pytest.mark.parametrize("program", [pytest.param(one, marks=pytest.mark.slow) if one in SLOW else one for one in EVERY])
def test_runs_to_its_end(run_smallest, program):
    problem, told, out = run_smallest(program)
    assert not problem, problem
    assert told.strip() or any(out.iterdir()), "it told and wrote nothing"


@pytest.mark.parametrize(
    "name", [pytest.param("hspace", marks=pytest.mark.slow), "attributes", "attributes-dit", "training", "properties", "properties-dit"]
)
def test_a_page_has_the_sections_and_pictures_of_the_one_in_docs(run_smallest, name):
    script, _, model = name.partition("-")
    out = run_smallest(f"bench/{script}.py" + (f" --model portrait-{model}" if model else ""))[2]
    page, kept = ((folder / f"{name}.md") for folder in (out, ROOT / "docs"))
    page = page.read_text()
    assert re.findall(r"^## .*", page, re.M)
    if kept.exists():  # a page that is to be measured yet is in no docs
        assert set(re.findall(r"^## .*", page, re.M)) == set(re.findall(r"^## .*", kept.read_text(), re.M))
    pictures = set(re.findall(r"\]\(([\w-]+\.(?:jpg|png))\)", page))
    assert pictures
    assert pictures == {path.name for path in out.iterdir()} - {f"{name}.md"}


def test_the_page_of_evidence_has_all_its_sections_and_a_row_for_each_way(run_smallest):
    out = run_smallest("bench/evidence.py --cost")[2]
    page, kept = ((folder / "evidence.md").read_text() for folder in (out, ROOT / "docs"))
    assert re.findall(r"^## .*", page, re.M) == re.findall(r"^## .*", kept, re.M)
    frontiers = [text.split("\n## ")[1] for text in (page, kept)]
    ways = [re.findall(r"^\| (.*?)(?:, by .*?)? \| (?:[\d.]+: )?\d+% / ", text, re.M) for text in frontiers]
    assert len(ways[0]) == 13
    assert len(ways[1]) > 10
    assert ways[1] == [way for way in ways[0] if way in ways[1]]  # what is not drawn yet has no row in docs
    said = [[re.sub(r"[\d.]+", "", part) for part in text.split("\n\n") if not part.startswith("|")] for text in frontiers]
    assert said[0] == said[1], "what a reader of the figures has to know is written with them"


@pytest.mark.slow
def test_there_is_a_help_picture_for_each_page(run_smallest):
    out = run_smallest("-m dev.help_pictures")[2]
    assert {path.name for path in out.iterdir()} == {path.name for path in (ROOT / "nodes/web/docs/images").iterdir()}


def test_the_sliders_that_ship_are_made_again(run_smallest):
    made = {path.name for path in run_smallest("demo/sliders.py")[2].iterdir()}
    assert made == {"portrait_direction_sunglasses.safetensors", "portrait_attribute_smile.safetensors"}
    assert made <= {path.name for path in (ROOT / "demo/sliders").iterdir()}


@pytest.mark.parametrize(
    "words, problem",
    [
        (["--smallest"], "choose another folder than docs/ with --out"),
        (["--smallest", "--out", "docs"], "choose another folder than docs/ with --out"),
        (["--small", "--out", "elsewhere"], "unrecognized arguments: --small"),
    ],
)
def test_the_smallest_size_does_not_go_where_real_figures_are(words, problem):
    code = "import argparse, sys; sys.path.insert(0, 'bench'); import sizes; sizes.parsed(argparse.ArgumentParser(), sizes.DOCS)"
    run = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, cwd=ROOT)
    assert run.returncode == 2
    assert problem in run.stderr


def test_every_program_is_run_here():
    """Those of the Makefile but demo, training and server, which other tests run, and lint; and every bench that can be started."""
    targets = set(re.findall(r"^\t@\$\(host\) run (-m \S+|\S+\.py)", (ROOT / "Makefile").read_text(), re.M))
    targets -= {"-m dev.demo", "-m demo.train", "-m dev.server", "-m ruff", "-m mypy"}
    benches = {f"bench/{path.name}" for path in (ROOT / "bench").glob("*.py") if "__main__" in path.read_text()}
    here = {re.match(r"-m \S+|\S+", program)[0] for program in EVERY}
    assert targets
    assert targets | benches <= here


def test_help_names_every_target_of_the_makefile():
    text = (ROOT / "Makefile").read_text()
    targets = set(re.findall(r"^([a-z-]+):", text, re.M)) - {"help"}
    assert targets == set(re.findall(r'^\t@echo "make ([a-z-]+) ', text, re.M))
