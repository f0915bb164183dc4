"""The example workflows on a real server, over its API."""

import io
import json
import time

import numpy as np
import pytest
from PIL import Image

from pack.dev.server import failed_import
from pack.dev.workflow import to_prompt

pytestmark = pytest.mark.timeout(1200)
PREFIX = "SemanticLatents_"


def pixels(client, reference):
    return np.asarray(Image.open(io.BytesIO(client.image(reference))))


def run_afresh(client, prompt):
    """Run with nothing left in the server's cache of results."""
    client.post("/free", {"free_memory": True, "unload_models": True})
    time.sleep(2)  # the server frees when its worker wakes up, and does not say when it has
    return client.run(prompt)


def used_types(workflow):
    return {node["type"] for node in workflow["nodes"]}


def test_the_pack_is_loaded(server, object_info):
    assert failed_import(server.log) is None
    assert [name for name in object_info if name.startswith(PREFIX)]


def test_the_workflows_nodes_are_served(workflow_file, object_info):
    own = {name for name in used_types(json.loads(workflow_file.read_text())) if name.startswith(PREFIX)}
    assert own and own <= object_info.keys()


def test_runs_to_the_same_picture_twice(workflow_file, server, object_info):
    prompt = to_prompt(json.loads(workflow_file.read_text()), object_info)
    first, second = (run_afresh(server.client, prompt) for _ in range(2))
    for run in (first, second):
        assert run.of("execution_cached")[0]["nodes"] == []
        assert run.of("progress"), "no progress was reported"
    pairs = list(zip(first.images(), second.images(), strict=True))
    assert pairs, "no picture was saved"
    for one, other in pairs:
        assert np.array_equal(pixels(server.client, one), pixels(server.client, other))


def test_queued_again_runs_from_the_cache(workflow_file, server, object_info):
    prompt = to_prompt(json.loads(workflow_file.read_text()), object_info)
    first, again = server.client.run(prompt), server.client.run(prompt)
    assert again.of("executing") == [{"node": None, "prompt_id": again.prompt_id}]
    assert [len(run.images()) for run in (first, again)] == [len(first.images())] * 2
