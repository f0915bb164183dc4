"""The example workflows run after another checkpoint is chosen.

The checkpoints are Stable Diffusion 1.5 and SDXL in their own layouts, text encoders and VAE, with random weights.
"""

import io
import json
import os
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from pack.dev.server import Host
from pack.dev.workflow import to_prompt
from pack.tests.workflows import checkpoints
from pack.tests.workflows.conftest import WORKFLOWS
from pack.tests.workflows.graphs import base_directory, with_ours

pytestmark = pytest.mark.timeout(900)
SIZE = 64  # stands for a model's usual size
LESS = {"steps": 4, "images": 3, "seeds": 1, "epochs": 1, "batch_size": 2, "refinements": 1}  # a test's share of the work, in any node
FEWER = {
    "SemanticLatents_DiscoverDirections": {"count": 2},
    "SemanticLatents_ExploreSingularVectors": {"triplets": "1, 2", "gains": "0, 2"},
    "SemanticLatents_SliderStrip": {"strengths": "0, 2.4"},
    "SemanticLatents_TrainSliderLora": {"learning_rate": 0.05},  # as it is trained in few steps
}
STRONGER = 4  # random weights answer little to an edit


@pytest.fixture(scope="module", params=["SD15", pytest.param("SDXL", marks=[pytest.mark.campaign, pytest.mark.slow])])
def host(request, tmp_path_factory):
    """A server that has a checkpoint of a family, of its real size with --long, and a photograph."""
    base = tmp_path_factory.mktemp("base")
    arguments = base_directory(base, with_ours())
    folder = base / "models" / "checkpoints"
    folder.mkdir(parents=True)
    checkpoints.write(folder / f"{request.param}.safetensors", request.param, whole=request.config.getoption("--long"))
    with Host(os.environ["COMFYUI"], arguments=arguments) as host:
        noise = np.random.default_rng(0).integers(0, 255, (6, 8, 3), dtype=np.uint8)
        Image.fromarray(noise).resize((SIZE, 3 * SIZE // 4), Image.Resampling.BICUBIC).save(host.folder / "input" / "photograph.png")
        yield SimpleNamespace(client=host.client, checkpoint=f"{request.param}.safetensors", info=host.client.object_info())


def chosen(prompt, checkpoint):
    """A user changes the checkpoint, the size and the picture.

    The test asks for less work and stronger edits, and saves pictures one by one.
    """
    changes = {
        "CheckpointLoaderSimple": {"ckpt_name": checkpoint},
        "EmptyLatentImage": {"width": SIZE, "height": SIZE},
        "LoadImage": {"image": "photograph.png"},
        **FEWER,
    }
    for node in prompt.values():
        inputs = node["inputs"]
        inputs |= changes.get(node["class_type"], {})
        inputs |= {name: min(inputs[name], most) for name, most in LESS.items() if isinstance(inputs.get(name), int)}
        if node["class_type"] == "SemanticLatents_StrengthRange":
            inputs |= {"maximum": STRONGER * inputs["maximum"], "count": 2}
    for node in prompt.values():
        shown = prompt[node["inputs"]["images"][0]] if node["class_type"] == "SaveImage" else {}
        if shown.get("class_type") == "SemanticLatents_Grid":
            node["inputs"]["images"] = shown["inputs"]["images"]
        if shown.get("class_type") == "SemanticLatents_SliderStrip":
            node["inputs"]["images"] = [node["inputs"]["images"][0], 1]
    return prompt


# An attribute from a file fits the demo models' latents alone; random weights answer too little to words for a slider to get a unit.
DEMO_ALONE = ("SemanticLatents_LoadAttribute", "SemanticLatents_CalibrateSlider")
ANY_MODEL = [path for path in WORKFLOWS if not any(name in path.read_text() for name in DEMO_ALONE)]


ALIKE = ("4 ", "6 ")  # another goes through the same nodes


@pytest.mark.parametrize(
    "path",
    [pytest.param(path, marks=pytest.mark.slow if path.name.startswith(ALIKE) else ()) for path in ANY_MODEL],
    ids=lambda path: path.stem,
)
def test_runs_after_choosing_the_checkpoint(path, host):
    """Its pictures show something, and those of one sheet differ."""
    run = host.client.run(chosen(to_prompt(json.loads(path.read_text()), host.info), host.checkpoint))
    saved = [[image for image in output.get("images", []) if image["type"] == "output"] for output in run.outputs.values()]
    sheets = [
        [np.asarray(Image.open(io.BytesIO(host.client.image(reference)))).astype(int) for reference in sheet] for sheet in saved if sheet
    ]
    pictures = [picture for sheet in sheets for picture in sheet]
    assert len(pictures) > 1, "flat pictures"
    assert all(picture.std() > 1 for picture in pictures), "flat pictures"
    apart = [int(np.abs(one - sheet[0]).max()) for sheet in sheets for one in sheet[1:]]
    assert not apart or min(apart) > 2, f"pictures that should differ do so by {apart}"
