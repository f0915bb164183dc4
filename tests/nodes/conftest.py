"""The real host in process, with the demo model loaded by its own nodes."""

import asyncio

import pytest
import torch
from comfy.cli_args import args

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


@pytest.fixture(autouse=True)
def inference(tmp_path, request):
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


class Demo:
    """The demo checkpoint as the host's stock nodes load and use it."""

    def __init__(self):
        import nodes

        self.nodes = nodes
        with torch.inference_mode():
            self.model, self.clip, self.vae = nodes.CheckpointLoaderSimple().load_checkpoint("semantic_latents_demo.safetensors")

    def encode(self, prompt):
        with torch.inference_mode():
            return self.nodes.CLIPTextEncode().encode(self.clip, prompt)[0]

    def empty(self, batch=1, size=16, width=None):
        return {"samples": torch.zeros(batch, 3, size, width or size)}

    def sample(self, sampler, *, steps=6, latent=None, seed=1, cfg=2.0, prompt="a face, red hair", model=None, scheduler="normal"):
        """SamplerCustom's latent for a SAMPLER."""
        from comfy_extras.nodes_custom_sampler import BasicScheduler, SamplerCustom

        model = model or self.model
        sigmas = BasicScheduler.execute(model, scheduler, steps, 1.0).args[0]
        latent = latent or self.empty()
        return SamplerCustom.execute(model, True, seed, cfg, self.encode(prompt), self.encode(""), sampler, sigmas, latent).args[0]["samples"]


@pytest.fixture(scope="session")
def demo(pack_nodes):
    return Demo()


@pytest.fixture
def sampler_of():
    """A stock SAMPLER by its name."""
    import comfy.samplers

    return comfy.samplers.sampler_object
