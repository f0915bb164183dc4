"""The nodes in Chinese and Japanese, in the real frontend."""

import json
from pathlib import Path

import pytest

LOCALES = Path(__file__).resolve().parents[2] / "locales"
SHOWN = """(ids) => Object.fromEntries(ids.map((id) => {
    const node = LiteGraph.createNode(id)
    const label = (slot) => slot.label ?? slot.localized_name
    const inputs = [
        ...node.inputs.map((input) => [input.name, label(input)]),
        ...(node.widgets ?? []).map((widget) => [widget.name, widget.label]),
    ]
    const { description, category } = node.constructor.nodeData
    return [id, { display_name: node.title, description, category, inputs: Object.fromEntries(inputs), outputs: node.outputs.map(label) }]
}))"""
PLACE = """(id) => {
    app.graph.clear()
    app.canvas.ds.reset()
    const node = LiteGraph.createNode(id)
    node.pos = [300, 300]
    app.graph.add(node)
    const { left, top } = app.canvas.canvas.getBoundingClientRect()
    const onPage = (place) => { const [x, y] = app.canvas.ds.convertOffsetToCanvas(place); return [left + x, top + y] }
    return [onPage(node.getInputPos(0)), onPage(node.getOutputPos(0))]
}"""


@pytest.fixture(params=("zh-TW", "ja"))
def language(request, server):
    """The language of pages that are opened from here on."""
    server.client.post("/settings", {"Comfy.Locale": request.param})
    yield request.param
    server.client.post("/settings", {"Comfy.Locale": "en"})


def read(language, name):
    return json.loads((LOCALES / language / name).read_text(encoding="utf-8"))


def test_nodes_speak_the_users_language(language, page):
    from playwright.sync_api import expect

    nodes, category = read(language, "nodeDefs.json"), read(language, "main.json")["nodeCategories"]["semantic latents"]
    for name, shown in page.evaluate(SHOWN, list(nodes)).items():
        node = nodes[name]
        assert [shown[key] for key in ("display_name", "description", "category")] == [
            node["display_name"],
            node["description"],
            category,
        ], name
        for port, words in node["inputs"].items():
            assert shown["inputs"][port] == words["name"], f"{name}: {port}"
        assert shown["outputs"] == [words["name"] for words in node["outputs"].values()], name

    node = nodes["SemanticLatents_ApplyDirection"]
    tooltips = node["inputs"]["model"]["tooltip"], node["outputs"]["0"]["tooltip"]
    page.wait_for_function("() => !app.extensionManager.spinner")  # the first workflow is open; it would take the place of this node
    places = page.evaluate(PLACE, "SemanticLatents_ApplyDirection")
    page.wait_for_function("() => app.canvas.visible_nodes.some((node) => node.type === 'SemanticLatents_ApplyDirection')")
    for (x, y), tooltip in zip(places, tooltips, strict=True):
        page.mouse.move(x - 5, y - 5)
        page.mouse.move(x, y)
        expect(page.locator(".node-tooltip")).to_have_text(tooltip, timeout=30_000)
