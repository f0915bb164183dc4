"""The subgraph blueprints in the real frontend: offered, placed as one node, and run."""

import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pack.tests.workflows.graphs import DemoGraph

ROOT = Path(__file__).resolve().parents[2]
BLUEPRINTS = sorted((ROOT / "subgraphs").glob("*.json"))
OPEN = "async (graph) => { await app.loadGraphData(graph, true, true, 'blueprint') }"
SET = """async (values) => {
    const node = app.graph.nodes.find((node) => node.isSubgraphNode?.())
    for (const [name, value] of Object.entries(values)) node.widgets.find((widget) => widget.name === name).value = value
    return (await app.graphToPrompt()).output
}"""
PICTURE = "semantic_latents_portrait_drawn.png"
pytestmark = pytest.mark.timeout(600)


@pytest.fixture(params=BLUEPRINTS, ids=lambda path: path.stem)
def blueprint(request):
    return request.param


def around(blueprint):
    """A workflow of Load Image, the blueprint as it comes, and Save Image."""
    workflow = json.loads(blueprint.read_text())
    node = workflow["nodes"][0]
    node["inputs"][0]["link"], node["outputs"][0]["links"] = 1, [2]
    load = {
        "id": 2,
        "type": "LoadImage",
        "pos": [-360, 0],
        "size": [320, 330],
        "mode": 0,
        "inputs": [],
        "properties": {},
        "widgets_values": [PICTURE, "image"],
        "outputs": [{"name": "IMAGE", "type": "IMAGE", "links": [1]}, {"name": "MASK", "type": "MASK", "links": []}],
    }
    save = {
        "id": 3,
        "type": "SaveImage",
        "pos": [460, 0],
        "size": [320, 330],
        "mode": 0,
        "outputs": [],
        "properties": {},
        "widgets_values": ["blueprint"],
        "inputs": [{"name": "images", "type": "IMAGE", "link": 2}],
    }
    return {
        **workflow,
        "nodes": [node, load, save],
        "links": [[1, 2, 0, node["id"], 0, "IMAGE"], [2, node["id"], 0, 3, 0, "IMAGE"]],
        "last_node_id": 3,
        "last_link_id": 2,
    }


def run(page, server, **values):
    """Set widgets of the blueprint's node, convert as the page does, and run: the picture, values 0 to 255, and the prompt."""
    prompt = page.evaluate(SET, values)
    done = server.client.run(prompt)
    return last_picture(server, done), prompt


def spoken(prompt):
    """The words that a model gets to read: prompts, and those of a slider."""
    return {
        node["inputs"][slot] for node in prompt.values() for slot in ("text", "without", "wanted", "opposite") if slot in node["inputs"]
    }


def last_picture(server, done):
    return np.asarray(Image.open(io.BytesIO(server.client.image(done.images()[-1])))).astype(float)


def through_the_vae(server, object_info):
    """The given picture as the demo model's VAE gives it back, values 0 to 255."""
    graph = DemoGraph(object_info)
    latent = graph.out("VAEEncode", pixels=graph.out("LoadImage", image=PICTURE), vae=graph.vae)
    graph.add("SaveImage", images=graph.out("VAEDecode", samples=latent, vae=graph.vae), filename_prefix="through")
    return last_picture(server, server.client.run(graph))


def test_is_offered(blueprint, server):
    offered = server.client.get("/global_subgraphs")
    assert any(entry["name"] == blueprint.stem for entry in offered.values())


def test_shows_only_what_a_user_sets(blueprint, page):
    page.evaluate(OPEN, around(blueprint))
    node = page.evaluate(
        "() => { const node = app.graph.nodes.find((node) => node.isSubgraphNode?.()); "
        "return [node.title, node.inputs.map((slot) => slot.name), node.widgets.map((widget) => widget.name)] }"
    )
    assert node == ["Edit an attribute", ["picture", "source", "target", "strength"], ["source", "target", "strength"]]


def test_strength_0_gives_the_picture_back_and_another_edits_it(blueprint, page, server, object_info):
    """Back as the VAE gives it, which is not without loss."""
    given = through_the_vae(server, object_info)
    page.evaluate(OPEN, around(blueprint))
    unchanged, prompt = run(page, server, strength=0.0)
    words = spoken(prompt)
    edited, _ = run(page, server, strength=1.5)
    bearded, prompt = run(page, server, target="a portrait, long beard")
    assert words == {"a portrait", "a portrait, sunglasses", ""}
    assert spoken(prompt) == {"a portrait", "a portrait, long beard", ""}
    assert np.abs(unchanged - given).max() <= 2
    assert np.abs(edited - given).max() > 60 < np.abs(bearded - edited).max()
