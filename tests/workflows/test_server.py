"""The example workflows on a real server, over its API."""

import io
import json
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from pack.dev.server import failed_import, with_parent
from pack.dev.workflow import to_prompt

pytestmark = pytest.mark.timeout(1200)
PREFIX = "SemanticLatents_"
SMALLEST = {
    "1": {"class_type": "EmptyImage", "inputs": {"width": 1, "height": 1, "batch_size": 1, "color": 0}},
    "2": {"class_type": "PreviewImage", "inputs": {"images": ["1", 0]}},
}


def pictures(client, run):
    return [np.asarray(Image.open(io.BytesIO(client.image(reference)))) for reference in run.images()]


def run_afresh(client, prompt):
    """Run with nothing left in the server's cache of results."""
    client.post("/free", {"free_memory": True})
    client.run(SMALLEST)  # the server may free only after its next prompt
    run = client.run(prompt)
    assert run.of("execution_cached")[0]["nodes"] == []
    return run


def test_the_pack_is_loaded(server, object_info):
    assert failed_import(server.log) is None
    assert [name for name in object_info if name.startswith(PREFIX)]


def test_the_workflows_nodes_are_served(workflow_file, object_info):
    used = {node["type"] for node in json.loads(workflow_file.read_text())["nodes"]}
    own = {name for name in used if name.startswith(PREFIX)}
    assert own and own <= object_info.keys()


def test_gives_the_same_pictures_each_time(workflow_file, server, object_info):
    prompt = to_prompt(json.loads(workflow_file.read_text()), object_info)
    first = server.client.run(prompt)
    afresh = run_afresh(server.client, prompt)
    cached = server.client.run(prompt)
    assert afresh.of("progress"), "no progress was reported"
    assert [event["node"] for event in cached.of("executing")] == [None], "nodes ran again without a change"
    expected, *others = (pictures(server.client, run) for run in (first, afresh, cached))
    assert expected, "no picture was saved"
    for found in others:
        assert all(map(np.array_equal, expected, found)) and len(found) == len(expected)


def test_a_server_ends_with_its_parent():
    sleeper = [sys.executable, "-c", "import time; print('asleep', flush=True); time.sleep(60); print('awake')"]
    parent = [sys.executable, "-c", "import subprocess, sys; subprocess.run(sys.argv[1:])", *with_parent(sleeper)]
    with subprocess.Popen(parent, stdout=subprocess.PIPE, text=True) as running:
        assert running.stdout.readline() == "asleep\n"
        running.kill()
        assert running.stdout.read() == "", "it slept on"
