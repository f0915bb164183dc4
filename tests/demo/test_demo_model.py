"""The portrait checkpoints through the host's stock nodes: they load, draw, and draw what they are asked for."""

import pytest
import torch

from pack.tests.wiring import node, outputs

pytestmark = pytest.mark.usefixtures("inference", "pack_nodes")
CHECKPOINTS = ["semantic_latents_portrait.safetensors", "semantic_latents_portrait_dit.safetensors"]


class Portrait:
    """A checkpoint's parts, and pictures that stock nodes draw with them."""

    def __init__(self, name):
        from pack.demo import PORTRAITS
        from pack.demo import judge

        with torch.inference_mode():
            self.model, self.clip, self.vae = outputs("CheckpointLoaderSimple", ckpt_name=name)
        self.judge = judge.load(PORTRAITS.parent / "judges")

    def draw(self, prompt, *, count=3, steps=12, seed=50_000):
        latent = node("EmptyLatentImage", width=256, height=256, batch_size=count)
        positive, negative = (node("CLIPTextEncode", clip=self.clip, text=text) for text in (prompt, ""))
        settings = dict(sampler_name="dpmpp_2m", scheduler="normal", denoise=1.0)
        samples = node(
            "KSampler",
            model=self.model,
            seed=seed,
            steps=steps,
            cfg=3.0,
            positive=positive,
            negative=negative,
            latent_image=latent,
            **settings,
        )
        return node("VAEDecode", vae=self.vae, samples=samples)

    def read(self, pictures):
        return self.judge.read(pictures.movedim(-1, 1) * 2 - 1)


@pytest.fixture(scope="module", params=CHECKPOINTS)
def portrait(request, pack_nodes):
    return Portrait(request.param)


def test_the_prompt_decides_what_is_drawn(portrait):
    from pack.demo import captions, faces

    wanted = dict(glasses="sunglasses", background="green", smile=0.9)
    pictures = portrait.draw(captions.prompt_for(**wanted))
    assert pictures.shape == (3, 256, 256, 3)
    read = portrait.read(pictures)
    for name in ("glasses", "background"):
        assert (read[name] == faces.CATEGORICAL[name].index(wanted[name])).sum() >= 2, name
    frowning = portrait.read(portrait.draw(captions.prompt_for(**{**wanted, "smile": -0.9})))
    assert (read["smile"] - frowning["smile"]).mean() > 0.8


def test_the_same_seed_draws_the_same_bits(portrait):
    assert torch.equal(portrait.draw("a portrait", count=1, steps=3), portrait.draw("a portrait", count=1, steps=3))


def test_a_picture_comes_through_the_vae_as_it_was(portrait):
    import numpy as np

    from pack.demo.drawing import render
    from pack.demo.faces import sample_face

    picture = torch.from_numpy(render(sample_face(np.random.default_rng(5)))).float()[None] / 255
    back = node("VAEDecode", vae=portrait.vae, samples=node("VAEEncode", vae=portrait.vae, pixels=picture))
    assert -10 * (back - picture).square().mean().log10() > 33  # dB


def test_the_checkpoints_are_small_and_listed_without_their_judge():
    import folder_paths

    from pack.demo import PORTRAITS

    assert sorted(path.name for path in PORTRAITS.iterdir()) == sorted(CHECKPOINTS)
    assert set(CHECKPOINTS) <= set(folder_paths.get_filename_list("checkpoints"))
    assert all(path.stat().st_size < 25e6 for path in PORTRAITS.iterdir())


def test_the_families_are_registered_once():
    import comfy.supported_models

    from pack import demo

    demo.install()
    names = [model.__name__ for model in comfy.supported_models.models]
    assert names.count("Portrait") == names.count("PortraitDiT") == 1
