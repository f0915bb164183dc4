"""The pages for who carries on with the pack say what the code says: its files, its formats, and the words of its refusals."""

import ast
import json
import re
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parent.parent
ARCHITECTURE, FORMATS = ((ROOT / "docs" / name).read_text() for name in ("architecture.md", "formats.md"))
# Whose refusals the page of formats lists.
REFUSERS = (
    "core/files.py",
    "core/slider_file.py",
    "core/lora/file.py",
    "core/avi/file.py",
    "core/hspace/file.py",
    "core/hspace/published.py",
    "core/hspace/released.py",
    "core/pixel/file.py",
    "host/folders.py",
    "host/slider_files.py",
)


def section(page, heading):
    """What a page says below a heading, up to the next one of its rank."""
    rank = heading.partition(" ")[0]
    return re.split(rf"^{rank} ", page.partition(f"{heading}\n")[2], maxsplit=1, flags=re.M)[0]


def module_named(room, cell):
    """The path of a module by its name in the table of a room; a folder's is that of its package."""
    return cell + "__init__.py" if cell.endswith("/") else cell


@pytest.mark.parametrize("room", ["core", "host", "nodes"])
def test_each_module_has_its_line(room):
    named = [module_named(room, cell) for cell in re.findall(r"^\| `(.+?)` \|", section(ARCHITECTURE, f"### {room}"), flags=re.M)]
    assert sorted(named) == sorted(str(path.relative_to(ROOT)) for path in (ROOT / room).rglob("*.py"))


def test_the_files_on_the_way_of_the_data_are_there():
    """By their paths, or by their names beside one of the same folder."""
    found = set(re.findall(r"`([\w/]+\.py)`", section(ARCHITECTURE, "## How data flows")))
    names = {path.name for path in ROOT.glob("core/**/*.py")}
    assert found
    assert all((ROOT / name).exists() or name in names for name in found)


def test_the_names_on_the_way_of_the_data_are_in_the_code():
    text = "".join(path.read_text() for room in ("core", "host", "nodes") for path in (ROOT / room).rglob("*.py"))
    names = re.findall(r"`(\w+(?:\.\w+)?)`", section(ARCHITECTURE, "## How data flows"))
    assert names
    assert not [name for name in names if not re.search(rf"\b{name.rpartition('.')[2]}\b", text)]


def directions():
    """A table, a mix of it with a network, and a mix of that with a block."""
    from pack.core.hspace.delta_block import DeltaBlock
    from pack.core.hspace.direction import Direction, Family
    from pack.core.hspace.network import ImplicitNetwork
    from pack.core.hspace.trained import BlockDirection, TrainedDirection, mixed

    table = Direction(torch.ones(2, 32, 4, 4), (10.0, 1.0), Family("Pixel", "EPS", 32), "PCA", {})
    trained = TrainedDirection(ImplicitNetwork(32), table)
    block = BlockDirection(DeltaBlock("ADM", 32, 64), table.family, "published")
    return table, mixed([trained, table], [1.0, 1.0]), mixed([trained, block], [1.0, 1.0])


def attribute():
    """A mix of one attribute, with a network."""
    from pack.core.avi.attribute import Attribute, LatentKind, Mixture, Recipe, mean_change
    from pack.core.avi.network import ValueNetwork

    recipe, stored = Recipe(source_rank=2, target_rank=2), mean_change([torch.eye(8).expand(1, 4, 8, 8)], 2)
    return Mixture(((Attribute(recipe, stored, LatentKind("SD15", 4), ValueNetwork(4, 4), {}, {}), 1.0),))


def keys_in(value):
    """The keys of mappings in each other; those of notes and losses are the user's."""
    if isinstance(value, list):
        return {key for one in value for key in keys_in(one)}
    if not isinstance(value, dict):
        return set()
    return set(value) | {key for name, one in value.items() if name not in ("notes", "losses") for key in keys_in(one)}


def written(tensors, metadata):
    """All names in a file: of metadata, of what is in them as JSON, and of tensors with N for a part's number."""
    inside = keys_in([json.loads(metadata[name]) for name in ("tree", "parts") if name in metadata])
    return {*metadata, *inside, *(re.sub(r"^\d+\.", "N.", name) for name in tensors)}


def test_the_page_names_each_key_of_directions():
    from pack.core.hspace.file import DIRECTION, direction_tensors

    text = section(FORMATS, "## Directions") + section(FORMATS, "## What all safetensors of the pack have in common")
    for version, direction in enumerate(directions(), 1):
        tensors, metadata = direction_tensors(direction)
        assert metadata["version"] == str(version)
        assert f"### Version {version}:" in text
        assert not [name for name in written(tensors, metadata) if f"`{name}`" not in text]
    assert version == DIRECTION.version
    assert f"`{DIRECTION.name}`, written by Save Direction," in text


def test_the_page_names_each_key_of_attributes():
    from pack.core.avi.file import ATTRIBUTE, attribute_tensors

    text = section(FORMATS, "## Attributes and mixes") + section(FORMATS, "## What all safetensors of the pack have in common")
    tensors, metadata = attribute_tensors(attribute())
    assert not [name for name in written(tensors, metadata) if f"`{name}`" not in text]
    assert f"`{ATTRIBUTE.name}`, version {ATTRIBUTE.version}, written by Save Attribute," in text


def test_the_page_names_each_key_of_sliders():
    from pack.core.hspace.injection import Window
    from pack.core.slider_file import SIDES, SLIDER, KeptSlider, slider_tensors

    text = section(FORMATS, "## Sliders from words") + section(FORMATS, "## What all safetensors of the pack have in common")
    prompt = [[torch.ones(1, 2, 3), {"pooled_output": torch.ones(1, 3)}]]
    words = {"without": "a", "wanted": "b", "opposite": "c"}
    tensors, metadata = slider_tensors(KeptSlider("b", words, "prediction", Window(), "SD15", dict.fromkeys(SIDES, prompt)))
    parts = [part for side in json.loads(metadata["prompts"]).values() for part in side]
    names = {*metadata, *words, *SIDES, *json.loads(metadata["window"]), *keys_in(parts), metadata["place"]}
    names |= {re.sub(r"^\w+\.\d+\.", "SIDE.N.", name).replace("pooled_output", "NAME") for name in tensors}
    assert not [name for name in names - {"extras.pooled_output"} if f"`{name}`" not in text]
    assert f"`{SLIDER.name}`, version {SLIDER.version}, written by Save Slider," in text


def test_the_page_has_the_limits_of_files():
    from pack.core.avi.file import PARTS
    from pack.core.files import LARGEST, LONGEST_TEXT, READABLE
    from pack.core.hspace.file import DEPTH
    from pack.core.hspace.file import PARTS as DIRECTIONS
    from pack.core.hspace.published import PUBLISHED, PUBLISHED_CONCEPTS
    from pack.core.slider_file import PARTS as SLIDERS

    assert (LARGEST, LONGEST_TEXT) == (2**30, 2**20)
    assert "(2^30)" in FORMATS
    assert "(2^20 characters)" in FORMATS
    assert f"longer than {READABLE} characters" in FORMATS
    assert f"a list of 1 to {DIRECTIONS} leaves or mixes; mixes lie at most {DEPTH} deep" in FORMATS
    assert f"a list of 1 to {PARTS} attributes" in FORMATS
    assert f"a list of 1 to {SLIDERS} parts" in FORMATS
    assert all(f"`{name}`" in section(FORMATS, "## Published vectors and blocks") for name in (PUBLISHED, *PUBLISHED_CONCEPTS))


def messages(path):
    """The sentences that a module may put into an error, with ... for what differs."""
    nodes = list(ast.walk(ast.parse(path.read_text())))
    plain = [one.exc.args[0] for one in nodes if isinstance(one, ast.Raise) and isinstance(one.exc, ast.Call) and one.exc.args]
    for node in [*plain, *(one for one in nodes if isinstance(one, ast.JoinedStr))]:
        parts = node.values if isinstance(node, ast.JoinedStr) else [node]
        text = "".join(part.value if isinstance(part, ast.Constant) else "..." for part in parts)
        if len(text.replace("...", "")) >= 15:  # not names of tensors and files
            yield text


def test_the_page_has_the_words_of_each_refusal():
    code = {text for name in REFUSERS for text in messages(ROOT / name)}
    page = set(re.findall(r'^\| "(.+?)" \|', section(FORMATS, "## What is refused"), flags=re.M))
    assert page == code


def test_the_page_names_what_demo_files_say_of_themselves():
    from safetensors import safe_open

    text = section(FORMATS, "## What comes with the demo models")
    for folder in ("weights", "judges"):
        for path in (ROOT / "demo" / folder).glob("*.safetensors"):
            (line,) = [line for line in text.splitlines() if f"`demo/{folder}/{path.name}`" in line]
            with safe_open(path, "pt") as file:
                assert all(f"`{key}`" in line for key in file.metadata() or {})
                assert all(any(key.startswith(name) for name in re.findall(r"`([\w.]+?)\*?`", line)) for key in file.keys())


PAGES = {name: (ROOT / name).read_text() for name in ("README.md", "CONTRIBUTING.md", "docs/architecture.md", "docs/formats.md")}
PATH = re.compile(
    r"`((?:\.github|core|host|nodes|demo|dev|bench|tests|docs|locales|workflows|subgraphs)/[\w./-]*|\.[\w-]+\.yaml|\w+\.toml)`"
)


@pytest.mark.parametrize("page", PAGES)
def test_paths_and_links_of_a_page_lead_somewhere(page):
    links = re.findall(r"\]\(([^)#:]+)(?:#[\w-]*)?\)", PAGES[page])
    gone = [path for path in PATH.findall(PAGES[page]) if not (ROOT / path).exists()]
    assert not gone + [link for link in links if not (ROOT / page).parent.joinpath(link).exists()]


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md"])
def test_commands_of_a_page_are_there(page):
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), flags=re.M))
    asked = set(re.findall(r"^make ([a-z][\w-]*)|`make ([a-z][\w-]*)", PAGES[page], flags=re.M))
    assert asked
    assert {one or other for one, other in asked} <= targets


def test_the_steps_to_add_a_node_name_what_is_there():
    steps = section(PAGES["CONTRIBUTING.md"], "## To add a node")
    named = {
        "tests/campaigns/rows.py": ("ROWS",),
        "tests/campaigns/test_invariants.py": ("MASKED", "CHAINED"),
        "tests/nodes/test_schema.py": ("IDS",),
    }
    for path, names in named.items():
        assert all(f"`{name}`" in steps and re.search(rf"^{name}\b", (ROOT / path).read_text(), flags=re.M) for name in names)


def pins():
    """The version of each package in dev/requirements.txt."""
    lines = (ROOT / "dev/requirements.txt").read_text().splitlines()
    return dict(line.split("==") for line in lines if "==" in line)


def test_the_hooks_have_the_pinned_ruff():
    hooks = (ROOT / ".pre-commit-config.yaml").read_text()
    assert set(re.findall(r"ruff==([\d.]+)", hooks)) == {pins()["ruff"]}


def read_yaml(path):
    return pytest.importorskip("yaml").safe_load((ROOT / path).read_text())


def test_workflows_and_templates_are_yaml_and_have_their_parts():
    jobs = read_yaml(".github/workflows/test.yml")["jobs"]
    from pack.dev.host import SOURCES

    assert set(jobs) == {"lint", "core", "host"}
    assert set(jobs["host"]["strategy"]["matrix"]["host"]) == set(SOURCES)
    assert set(jobs["core"]["env"]["PACKAGES"].split("|")) <= set(pins())
    (job,) = read_yaml(".github/workflows/publish.yml")["jobs"].values()
    assert job["steps"][-1]["with"]["personal_access_token"] == "${{ secrets.REGISTRY_ACCESS_TOKEN }}"
    for kind in ("bug", "feature"):
        form = read_yaml(f".github/ISSUE_TEMPLATE/{kind}.yml")
        ids = [part["id"] for part in form["body"]]
        assert form["name"]
        assert form["description"]
        assert len(ids) == len(set(ids))
    assert {hook["id"] for hook in read_yaml(".pre-commit-config.yaml")["repos"][0]["hooks"]} == {"ruff-check", "ruff-format"}
