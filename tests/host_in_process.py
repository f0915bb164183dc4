"""Fixtures of all tests that need ComfyUI: the real host in process, its models, and what is learned on the demo model."""

import asyncio

import pytest
import torch
from comfy.cli_args import args

from pack.tests.attributes import train
from pack.tests.models import SMALL, Demo, Shaped
from pack.tests.training import SETTINGS

args.cpu = not torch.cuda.is_available()  # before anything else of the host is imported


@pytest.fixture(scope="session")
def pack_nodes():
    """Every node class of the pack, by id."""
    from pack import comfy_entrypoint

    async def load():
        extension = await comfy_entrypoint()
        await extension.on_load()
        return await extension.get_node_list()

    return {node.define_schema().node_id: node for node in asyncio.run(load())}


@pytest.fixture
def inference(tmp_path):
    """As the host runs a prompt: without gradients, with a folder of its own for previews."""
    import folder_paths

    folder_paths.set_temp_directory(str(tmp_path))
    with torch.inference_mode():
        yield


@pytest.fixture(scope="session")
def run(pack_nodes):
    """`run("Decompose", samples=...)`: the outputs of one of the pack's nodes."""

    def call(name, **inputs):
        return pack_nodes[f"SemanticLatents_{name}"].execute(**inputs).args

    return call


@pytest.fixture(scope="session")
def demo(pack_nodes):
    return Demo()


@pytest.fixture(scope="session")
def scorer(run):
    """Both towers of the demo scorer, by the inputs that they go into."""
    with torch.inference_mode():
        return dict(zip(("clip_vision", "clip"), run("DemoScorer")))


@pytest.fixture
def sampler_of():
    """A stock SAMPLER by its name."""
    import comfy.samplers

    return comfy.samplers.sampler_object


@pytest.fixture(scope="session")
def shaped(pack_nodes):
    """`shaped("SDXL")`: a model of that family, made once; dtype is that of its weights, cast that of the computation if it is another."""
    made = {}

    def make(family, dtype=torch.float32, cast=None):
        if (family, dtype, cast) not in made:
            with torch.inference_mode():
                made[family, dtype, cast] = Shaped(family, dtype, cast)
        return made[family, dtype, cast]

    return make


@pytest.fixture
def folders(tmp_path, monkeypatch):
    """The host's output and models folders, empty."""
    import folder_paths

    from pack.demo import SLIDERS
    from pack.host.folders import FOLDER, register_folders

    monkeypatch.setattr(folder_paths, "output_directory", str(tmp_path / "output"))
    monkeypatch.setattr(folder_paths, "models_dir", str(tmp_path / "models"))
    monkeypatch.delitem(folder_paths.folder_names_and_paths, FOLDER, raising=False)
    (tmp_path / "models" / FOLDER).mkdir(parents=True)
    register_folders(SLIDERS)
    return tmp_path


@pytest.fixture(scope="session")
def control_net(shaped):
    """A ControlNet of the host's own class for the SD 1.5-shaped model, with random weights."""
    import comfy.cldm.cldm
    import comfy.controlnet
    import comfy.ops

    settings = {key: value for key, value in SMALL.items() if key not in ("out_channels", "transformer_depth_output")}
    with torch.inference_mode():
        network = comfy.cldm.cldm.ControlNet(
            hint_channels=3, context_dim=768, dtype=torch.float32, operations=comfy.ops.manual_cast, **settings
        )
        generator = torch.Generator().manual_seed(9)
        for weight in network.parameters():
            weight.requires_grad_(False).copy_(
                torch.randn(weight.shape, generator=generator) / max(1, weight[0].numel()) ** 0.5
                if weight.ndim > 1
                else torch.zeros(weight.shape)
            )
    return comfy.controlnet.ControlNet(network, load_device=torch.device("cpu"))


@pytest.fixture
def short_slider_training(monkeypatch):
    """Train Slider LoRA draws its pictures in four steps, in place of sixteen."""
    from pack.host import slider_training

    monkeypatch.setattr(slider_training, "GRID", 4)


@pytest.fixture(scope="session")
def sd3(shaped):
    """A network of random weights, which takes a fifth of the demo model's time."""
    return shaped("SD3")


@pytest.fixture(scope="session")
def learned_on(run, tmp_path_factory):
    """`learned_on(world)`: an attribute learned there."""
    import comfy.samplers
    import folder_paths

    def learn(world):
        folder_paths.set_temp_directory(str(tmp_path_factory.mktemp("temp")))
        with torch.inference_mode():
            return train(run, world, comfy.samplers.sampler_object("euler"))[0]

    return learn


@pytest.fixture(scope="session")
def attribute(demo, learned_on):
    """An attribute learned on the demo model."""
    return learned_on(demo)


@pytest.fixture(scope="session")
def trained(demo, run, tmp_path_factory):
    """What Train Direction gives on the demo model: the direction, its losses, and the picture."""
    import folder_paths

    folder_paths.set_temp_directory(str(tmp_path_factory.mktemp("temp")))
    settings = dict(
        model=demo.model,
        source=demo.encode("a portrait"),
        negative=demo.encode(""),
        target=demo.encode("a portrait, blue hair"),
        vae=demo.vae,
        latent=demo.empty(),
    )
    with torch.inference_mode():
        return run("TrainDirection", **{key: [value] for key, value in {**settings, **SETTINGS, "epochs": 3}.items()})
