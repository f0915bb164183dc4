"""The example workflows: in the real frontend, in a browser, and over the server's API."""

import io
import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pack.dev.workflow import to_prompt

pytestmark = pytest.mark.timeout(1200)
PACK = "semantic_latents"
PREFIX = "SemanticLatents_"
SMALLEST = {
    "1": {"class_type": "EmptyImage", "inputs": {"width": 1, "height": 1, "batch_size": 1, "color": 0}},
    "2": {"class_type": "PreviewImage", "inputs": {"images": ["1", 0]}},
}
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
LESS = {"steps": 6, "seeds": 2, "images": 6, "width": 64, "height": 64}  # a test's share of the work, in any node
STORED = "SemanticLatents_LoadAttribute"  # keeps to the size that its attribute was learned at
SPARE = """(less) => app.graph.nodes.forEach((node) => (node.widgets ?? []).forEach((widget) => {
    if (typeof widget.value === 'number' && widget.value > less[widget.name]) widget.value = less[widget.name]
}))"""
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


def savers(workflow):
    """The nodes that save a picture when the workflow runs."""
    return [node["id"] for node in workflow["nodes"] if node["type"] == "SaveImage" and node.get("mode", 0) == 0]


def less_for(kinds):
    """The most that nodes of a graph are asked for."""
    return {name: most for name, most in LESS.items() if STORED not in kinds or name not in ("width", "height")}


def spared(prompt):
    """The prompt with less work."""
    less = less_for({node["class_type"] for node in prompt.values()})
    for node in prompt.values():
        given = {name: value for name, value in node["inputs"].items() if name in less and isinstance(value, int)}
        node["inputs"] |= {name: min(value, less[name]) for name, value in given.items()}
    return prompt


def converted(prompt):
    """A prompt without what is not run."""
    return {name: {key: value for key, value in node.items() if key != "_meta"} for name, node in prompt.items()}


def test_opens_converts_and_runs_in_the_page(workflow_file, page, object_info):
    open_template(page, workflow_file.stem)
    assert page.evaluate(MISSING) == []
    theirs = page.evaluate("async () => (await app.graphToPrompt()).output")
    assert converted(to_prompt(json.loads(workflow_file.read_text()), object_info)) == converted(theirs)
    page.evaluate(SPARE, less_for({node["class_type"] for node in theirs.values()}))
    page.evaluate(WATCH)
    page.locator("#graph-canvas").press("Control+Enter")
    page.wait_for_function("() => window.ended", timeout=900_000)
    kind, detail = page.evaluate("() => window.ended")
    assert kind == "execution_success", detail
    page.wait_for_function(SHOWN, arg=savers(json.loads(workflow_file.read_text())))
    screenshot(page, workflow_file.stem)
    assert page.evaluate(OVERLAPS) == [], "nodes lie over each other"
    assert problems_of_the_pack(page) == []


# Over the API: the server still has the results of the page


def pictures(client, run):
    return [np.asarray(Image.open(io.BytesIO(client.image(reference)))) for reference in run.images()]


def run_afresh(client, prompt):
    """Run with nothing left in the server's cache of results."""
    client.post("/free", {"free_memory": True})
    client.run(SMALLEST)  # the server may free only after its next prompt
    run = client.run(prompt)
    assert run.of("execution_cached")[0]["nodes"] == []
    return run


def test_the_workflows_nodes_are_served(workflow_file, object_info):
    used = {node["type"] for node in json.loads(workflow_file.read_text())["nodes"]}
    own = {name for name in used if name.startswith(PREFIX)}
    assert own
    assert own <= object_info.keys()


@pytest.mark.slow
def test_gives_the_same_pictures_each_time(workflow_file, server, object_info):
    prompt = spared(to_prompt(json.loads(workflow_file.read_text()), object_info))
    first = server.client.run(prompt)
    afresh = run_afresh(server.client, prompt)
    cached = server.client.run(prompt)
    assert afresh.of("progress"), "no progress was reported"
    assert [event["node"] for event in cached.of("executing")] == [None], "nodes ran again without a change"
    expected, *others = (pictures(server.client, run) for run in (first, afresh, cached))
    assert expected, "no picture was saved"
    for found in others:
        assert all(map(np.array_equal, expected, found))
        assert len(found) == len(expected)
