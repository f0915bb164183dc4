"""What every node owes its users: fixed ids, tooltips, a help page, and inputs that its code really takes."""

import ast
import inspect
import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
IDS = {
    "MakeSlider",
    "ApplySlider",
    "CalibrateSlider",
    "SliderStrip",
    "LoadPixelModel",
    "Decompose",
    "Compose",
    "RescaleSingularValues",
    "ExchangeSingularVectors",
    "SpectrumOperation",
    "EditDuringSampling",
    "DirectionFromPrompts",
    "DiscoverDirections",
    "ApplyDirection",
    "CombineDirections",
    "SaveSlider",
    "LoadSlider",
    "SaveDirection",
    "LoadDirection",
    "DDIMSampler",
    "Invert",
    "TrainDirection",
    "TrainSliderLora",
    "DemoScorer",
    "EditingSchedule",
    "ImageGuidance",
    "ClassifierGuidance",
    "SampleTrajectory",
    "SubspaceDistance",
    "VectorMobility",
    "ExploreSingularVectors",
    "CompareEdit",
    "TrainAttribute",
    "ApplyAttribute",
    "ApplyAttributeToModel",
    "MixAttributes",
    "SaveAttribute",
    "LoadAttribute",
    "StrengthRange",
    "Grid",
}
# Of contrasts of two prompts and trained directions, which show nothing on the demo models, of checkpoints that do not come with the pack,
# of a LoRA that takes minutes to train, and of guidance, which is there to be compared with; examples promise what shows soon.
NOTHING_TO_SEE = {"DirectionFromPrompts", "TrainDirection", "CombineDirections", "LoadDirection", "LoadPixelModel"} | {
    "ImageGuidance",
    "ClassifierGuidance",
}
PARTS = (  # of a help page, in this order
    "**What you will see.** ",
    "![",
    "**When to use it.** ",
    "| input | useful range |",
    "| output | what it is |",
    "**When nothing happens.** ",
)


def schemas(pack_nodes):
    return {name: node.define_schema() for name, node in pack_nodes.items()}


def help_page(name):
    return ROOT / "nodes/web/docs" / f"{name}.md"


def test_node_ids_never_change(pack_nodes):
    """Saved workflows hold these; a node may be added, none renamed or removed."""
    assert set(pack_nodes) == {f"SemanticLatents_{name}" for name in IDS}


def test_node_ids_are_literals():
    """A reader (and the registry) finds every id by searching for it."""
    literals = set()
    for path in (ROOT / "nodes").glob("*.py"):
        for call in (n for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.Call)):
            literals |= {k.value.value for k in call.keywords if k.arg == "node_id" and isinstance(k.value, ast.Constant)}
    assert literals == {f"SemanticLatents_{name}" for name in IDS}


def test_every_input_and_output_has_a_tooltip(pack_nodes, figures):
    ports = {
        f"{name}: {port.id}": port.tooltip for name, schema in schemas(pack_nodes).items() for port in (*schema.inputs, *schema.outputs)
    }
    missing = [place for place, tooltip in ports.items() if not tooltip or len(tooltip) <= 15]
    figures("tooltips", f"{len(ports) - len(missing)} of {len(ports)} inputs and outputs of {len(pack_nodes)} nodes")
    assert not missing


def test_every_node_has_words_to_be_found_by(pack_nodes):
    for name, schema in schemas(pack_nodes).items():
        assert schema.description, name
        assert schema.display_name, name
        assert schema.category == "semantic latents", name
        assert len(schema.search_aliases) >= 2, name


@pytest.mark.parametrize(
    ("words", "name"),
    [(text, "MakeSlider") for text in ("face", "expression", "age", "older", "beard", "edit face", "attribute slider", "concept slider")]
    + [("unsampler", "Invert"), ("noise inversion", "Invert"), ("lora slider", "LoadSlider"), ("train lora", "TrainSliderLora")],
)
def test_what_people_type_finds_the_node(pack_nodes, words, name):
    assert words in schemas(pack_nodes)[f"SemanticLatents_{name}"].search_aliases


def test_every_node_has_a_help_page_that_explains_every_input_and_output(pack_nodes):
    for name, schema in schemas(pack_nodes).items():
        page = help_page(name).read_text()
        assert page.startswith(f"# {schema.display_name}\n"), name
        for port in (*schema.inputs, *schema.outputs):
            assert f"`{port.id}`" in page, f"{name}: {port.id}"


def test_every_help_page_is_of_a_node(pack_nodes, figures):
    pages = {page.stem for page in help_page("x").parent.glob("*.md")}
    figures("help pages", f"{len(pages & set(pack_nodes))} of {len(pack_nodes)} nodes")
    assert pages == set(pack_nodes)


def test_every_help_page_has_all_parts_in_one_order(pack_nodes):
    for name, schema in schemas(pack_nodes).items():
        page = help_page(name).read_text()
        expected = [part for part in PARTS if schema.inputs or "input" not in part]
        assert sorted(expected, key=page.find) == expected, name
        assert all(page.count(part) == 1 for part in expected), name


def test_every_help_page_has_a_picture_of_its_own(pack_nodes):
    shown = {}
    for name in pack_nodes:
        ((caption, link),) = re.findall(r"!\[(.*)\]\((.*)\)", help_page(name).read_text())
        picture = help_page(name).parent / link
        assert len(caption) > 15, name
        assert picture.read_bytes().startswith(b"\xff\xd8"), name
        assert picture.stat().st_size < 60_000, name
        shown[name] = picture
    assert sorted(shown.values()) == sorted((help_page("x").parent / "images").iterdir()), "each picture is on one page"


def test_schema_inputs_are_the_parameters_of_execute(pack_nodes):
    for name, node in pack_nodes.items():
        schema, parameters = node.define_schema(), inspect.signature(node.execute).parameters
        assert [i.id for i in schema.inputs] == list(parameters), name
        optional = {p.name for p in parameters.values() if p.default is not p.empty}
        assert optional == {i.id for i in schema.inputs if i.optional}, name


def test_every_node_that_shows_something_is_in_an_example_workflow(pack_nodes):
    used = {node["type"] for path in (ROOT / "workflows").glob("*.json") for node in json.loads(path.read_text())["nodes"]}
    assert set(pack_nodes) - used == {f"SemanticLatents_{name}" for name in NOTHING_TO_SEE}


def test_every_workflow_has_its_picture():
    for path in (ROOT / "workflows").glob("*.json"):
        assert path.with_suffix(".jpg").exists(), path.name
