"""Servers in other modes draw the same edits; a server whose copy of the pack is broken says why, and serves the rest.

Without a GPU the host takes neither --lowvram nor --novram (with --cpu it refuses them, without it does not start). What they
do with a model, weights that stay where they are and are cast layer by layer when used, a small pack beside ours switches on.
"""

import os
import shutil
from pathlib import Path

import pytest

from pack.dev.server import Host, failed_import
from pack.tests.workflows.graphs import PREFIX, ROOT, DemoGraph, base_directory, latents, with_ours

pytestmark = [pytest.mark.timeout(600), pytest.mark.campaign]
LOW_VRAM = """
import comfy.model_management

load = comfy.model_management.LoadedModel.model_load


def model_load(self, lowvram_model_memory=0, force_patch_weights=False):
    return load(self, 0.1, force_patch_weights)  # as for --novram


comfy.model_management.LoadedModel.model_load = model_load
NODE_CLASS_MAPPINGS = {}
"""
BESIDE = """
class Beside:
    RETURN_TYPES, FUNCTION, CATEGORY, OUTPUT_NODE = (), "run", "test", True

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"text": ("STRING", {"default": ""})}}

    def run(self, text):
        return {"ui": {"text": [text]}}


NODE_CLASS_MAPPINGS = {"Beside": Beside}
"""


def merged(graph):
    """The model with weights patched by the host, which a mode may apply when it loads the model or when it uses them."""
    return graph.out("ModelMergeSimple", model1=graph.model, model2=graph.model, ratio=0.7)


def with_direction(graph):
    """h-space: a direction found, trained further and applied, asymmetrically too, on a model with patched weights."""
    graph.model = merged(graph)
    inputs = {"model": graph.model, **graph.prompts, "latent": graph.empty(), "steps": 3}
    found = graph.own("DirectionFromPrompts", **inputs, images=2)
    trained = graph.own("TrainDirection", **inputs, vae=graph.vae, images=2, epochs=1)
    once = graph.own("ApplyDirection", model=graph.model, direction=[found, 0], asymmetric=True)
    twice = graph.own("ApplyDirection", model=[once, 0], direction=[trained, 0])
    return graph.drawn(model=[twice, 0], sampler=graph.sampler("ddim"), steps=5)


def with_attribute(graph):
    """AVI: an attribute learned, and applied with its target."""
    inputs = {"sampler": graph.sampler(), "target": graph.prompts["target"]}
    learned = graph.own(
        "TrainAttribute",
        model=graph.model,
        **{**graph.prompts, **inputs},
        vae=graph.vae,
        sigmas=graph.sigmas(5),
        latent=graph.empty(),
        seeds=2,
    )
    return graph.drawn(sampler=[graph.own("ApplyAttribute", attribute=[learned, 0], **inputs), 0], steps=5)


EDITS = [with_direction, with_attribute]


def drawn(host, edit):
    """The latent that an example gives on a server."""
    graph = DemoGraph(host.client.object_info())
    run = host.client.run(graph.save(edit(graph)))
    return latents(host.client, run)[0]


@pytest.fixture(scope="module")
def expected(server):
    """The examples' latents on a plain server."""
    return [drawn(server, edit) for edit in EDITS]


def differences(host, expected):
    """How far each example's latent is from the plain server's, as a share of its size."""
    found = [drawn(host, edit) for edit in EDITS]
    return [float((a.float() - b).norm() / b.norm()) for a, b in zip(found, expected, strict=True)]


@pytest.mark.slow  # two servers; the matrix has casts of each group of nodes
def test_weights_that_are_cast_when_used_draw_the_same(expected, tmp_path):
    with Host(os.environ["COMFYUI"], arguments=base_directory(tmp_path, with_ours(low_vram=LOW_VRAM))) as host:
        apart = differences(host, expected)
        assert "loaded partially" in host.log
        assert "full load: True" not in host.log
    assert apart == [0, 0]


@pytest.fixture(scope="module")
def broken(tmp_path_factory):
    """A server with two copies of the pack, one broken when imported and one when loaded, and another pack beside them."""
    folder = tmp_path_factory.mktemp("broken")
    copies = {name: folder / name for name in ("at_import", "at_load")}
    for copy in copies.values():
        copy.mkdir()
        shutil.copy(ROOT / "__init__.py", copy)
        for part in ("core", "host", "nodes", "demo"):
            shutil.copytree(ROOT / part, copy / part, ignore=shutil.ignore_patterns("__pycache__"))
    spoil(copies["at_import"] / "nodes" / "svd.py", "raise RuntimeError('broken when imported')")
    spoil(copies["at_load"] / "demo" / "__init__.py", "def install():\n    raise RuntimeError('broken when loaded')")
    base = tmp_path_factory.mktemp("base")
    with Host(os.environ["COMFYUI"], arguments=base_directory(base, {**copies, "beside": BESIDE})) as host:
        yield host


def spoil(module, line):
    module.write_text(f"{module.read_text()}\n\n{line}\n")


def test_a_pack_that_cannot_be_imported_says_where(broken):
    told = failed_import(broken.log, "at_import")
    assert "Traceback (most recent call last)" in told
    assert "RuntimeError: broken when imported" in told
    assert str(Path("at_import", "nodes", "svd.py")) in told


def test_a_pack_that_cannot_be_loaded_says_where(broken):
    assert failed_import(broken.log, "at_load")
    assert "RuntimeError: broken when loaded" in broken.log
    assert str(Path("at_load", "demo", "__init__.py")) in broken.log


def test_a_broken_pack_takes_no_other_down(broken):
    known = broken.client.object_info()
    assert not [name for name in known if name.startswith(PREFIX)]
    assert {"Beside", "KSampler"} <= known.keys()
    run = broken.client.run({"1": {"class_type": "Beside", "inputs": {"text": "still here"}}})
    assert run.outputs["1"]["text"] == ["still here"]
