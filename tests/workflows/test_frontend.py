"""The example workflows in the real frontend, in a browser."""

import json
import os
from pathlib import Path

import pytest

from pack.dev.workflow import to_prompt

pytestmark = pytest.mark.timeout(1200)
PACK = "semantic_latents"
HOST = Path(os.environ["COMFYUI"]).parent
OPEN = """async ([address, name]) => {
    const workflow = await (await fetch(address)).json()
    await app.loadGraphData(workflow, true, true, name)
}"""
MISSING = "() => app.graph.nodes.filter((node) => !LiteGraph.registered_node_types[node.type]).map((node) => node.type)"
WATCH = """() => {
    window.ended = null
    const end = (kind) => app.api.addEventListener(kind, (event) => { window.ended = [kind, event.detail] })
    ;["execution_success", "execution_error", "execution_interrupted"].forEach(end)
}"""
SHOWN = """(ids) => ids.every((id) => app.graph.getNodeById(id).imgs?.some((image) => image.naturalWidth > 0))"""

OVERLAPS = """() => app.graph.nodes.flatMap((one, i, nodes) => nodes.slice(i + 1).filter((other) => {
    const [[x, y, width, height], [left, top, across, down]] = [one.boundingRect, other.boundingRect]
    return x < left + across && left < x + width && y < top + down && top < y + height
}).map((other) => `${one.title} and ${other.title}`))"""


def open_template(page, stem):
    """Open a workflow as the frontend's template browser does."""
    page.evaluate(OPEN, [f"/api/workflow_templates/{PACK}/{stem}.json", stem])


def screenshot(page, name):
    folder = HOST.parent / "screenshots" / HOST.name
    folder.mkdir(parents=True, exist_ok=True)
    page.evaluate("() => app.extensionManager.command.execute('Comfy.Canvas.FitView')")
    page.wait_for_timeout(1000)  # the view moves there slowly
    page.screenshot(path=folder / f"{name}.png")


def problems_of_the_pack(page):
    return [text for text in page.problems if PACK in text.lower() or "semanticlatents" in text.lower()]


def test_is_offered_as_a_template(workflow_file, server):
    assert workflow_file.stem in server.client.get("/api/workflow_templates")[PACK]
    picture = server.client.read(f"/api/workflow_templates/{PACK}/{workflow_file.stem}.jpg")
    assert picture.startswith(b"\xff\xd8"), "a template's picture is a JPEG"


def test_opens_and_converts_as_the_frontend_does(workflow_file, page, object_info):
    open_template(page, workflow_file.stem)
    assert page.evaluate(MISSING) == []
    theirs = page.evaluate("async () => (await app.graphToPrompt()).output")
    ours = to_prompt(json.loads(workflow_file.read_text()), object_info)
    for prompt in (theirs, ours):
        for node in prompt.values():
            del node["_meta"]
    assert ours == theirs
    assert problems_of_the_pack(page) == []


def savers(workflow):
    """The nodes that save a picture when the workflow runs."""
    return [node["id"] for node in workflow["nodes"] if node["type"] == "SaveImage" and node.get("mode", 0) == 0]


def test_runs_from_the_page(workflow_file, page):
    open_template(page, workflow_file.stem)
    page.evaluate(WATCH)
    page.locator("#graph-canvas").press("Control+Enter")
    page.wait_for_function("() => window.ended", timeout=900_000)
    kind, detail = page.evaluate("() => window.ended")
    assert kind == "execution_success", detail
    page.wait_for_function(SHOWN, arg=savers(json.loads(workflow_file.read_text())))
    screenshot(page, workflow_file.stem)
    assert page.evaluate(OVERLAPS) == [], "nodes lie over each other"
    assert problems_of_the_pack(page) == []
