"""The demo checkpoints through the host's stock nodes: they load, draw, and draw what they are asked for."""

import json
import struct

import numpy as np
import pytest
import torch

from pack.tests.wiring import node, outputs

pytestmark = pytest.mark.usefixtures("inference", "pack_nodes")
UNET, DIT = CHECKPOINTS = "semantic_latents_portrait.safetensors", "semantic_latents_portrait_dit.safetensors"
READERS = {"portrait_judge.safetensors", "portrait_scorer.safetensors"}


class Portrait:
    """A checkpoint's parts, and pictures that stock nodes draw with them."""

    def __init__(self, name):
        with torch.inference_mode():
            self.model, self.clip, self.vae = outputs("CheckpointLoaderSimple", ckpt_name=name)

    def encode(self, prompt):
        return node("CLIPTextEncode", clip=self.clip, text=prompt)

    def draw(self, prompt, *, count=2, steps=8, sampler="dpmpp_2m", seed=50_000):
        settings = dict(seed=seed, steps=steps, cfg=3.0, sampler_name=sampler, scheduler="normal", denoise=1.0)
        prompts = dict(positive=self.encode(prompt), negative=self.encode(""))
        latent = node("EmptyLatentImage", width=256, height=256, batch_size=count)
        samples = node("KSampler", model=self.model, latent_image=latent, **prompts, **settings)
        assert samples["samples"].shape == (count, 4, 32, 32)
        return node("VAEDecode", vae=self.vae, samples=samples)


@pytest.fixture(scope="module", params=CHECKPOINTS)
def portrait(request, pack_nodes):
    return Portrait(request.param)


@pytest.fixture(scope="module")
def judge():
    from pack import demo
    from pack.demo import judge

    return judge.load(demo.JUDGES)


@pytest.mark.parametrize("sampler", ["euler", "dpmpp_2m", "ddim"])
def test_stock_samplers_draw_finite_varied_pictures(portrait, sampler):
    images = portrait.draw("a portrait", steps=4, sampler=sampler)
    assert images.shape == (2, 256, 256, 3)
    assert torch.isfinite(images).all()
    assert images.std() > 0.1
    assert (images[0] - images[1]).abs().mean() > 0.02


def test_the_prompt_decides_what_is_drawn(portrait, judge):
    """Each label once, and the smile: a broad one and its contrary."""
    from pack.demo import captions, faces

    smiles = []
    for wanted in (
        dict(glasses="sunglasses", background="green", hair="red", smile=0.9),
        dict(hat="cap", shirt="yellow", earrings="earrings", smile=-0.9),
        dict(style="curly", glasses="glasses", hair="blue"),
    ):
        read = judge.read(portrait.draw(captions.prompt_for(**wanted)).movedim(-1, 1) * 2 - 1)
        smiles.append(read["smile"])
        for name in wanted.keys() & faces.CATEGORICAL.keys():
            assert (read[name] == faces.CATEGORICAL[name].index(wanted[name])).all(), name
    assert smiles[0].min() - smiles[1].max() > 0.8


def test_the_same_seed_draws_the_same_bits(portrait):
    assert torch.equal(portrait.draw("a portrait", count=1, steps=3), portrait.draw("a portrait", count=1, steps=3))


def test_a_picture_comes_through_the_vae_as_it_was(portrait):
    from pack.demo.drawing import render
    from pack.demo.faces import sample_face

    picture = torch.from_numpy(render(sample_face(np.random.default_rng(5)))).float()[None] / 255
    latent = node("VAEEncode", vae=portrait.vae, pixels=picture)
    assert latent["samples"].shape == (1, 4, 32, 32)
    back = node("VAEDecode", vae=portrait.vae, samples=latent)
    assert -10 * (back - picture).square().mean().log10() > 33  # dB


def test_the_judge_knows_drawn_faces(judge, tmp_path):
    from pack.demo import data, runs
    from pack.demo.faces import CATEGORICAL, CONTINUOUS
    from pack.demo.judge import figures

    unseen = data.Store(tmp_path / "unseen", 96)
    data.draw(tmp_path / "unseen", 0, data.UNSEEN_SEED)
    found = figures(judge, unseen, runs.as_images(torch.from_numpy(np.array(unseen.pixels))))
    assert min(found[name] for name in CATEGORICAL) >= 0.97, found
    assert np.mean([found[name] for name in CONTINUOUS]) > 0.9, found


def test_host_and_trainer_tokenise_alike(portrait):
    from pack.demo import captions, data

    text = "A portrait, with CURLY grey hair; xylophone"
    tokens = portrait.clip.tokenize(text)["l"][0]
    assert [token for token, _ in tokens] == data.padded(text)
    assert [token for token, _ in tokens] == [
        captions.START,
        *captions.words_to_ids("a portrait with curly grey hair"),
        *[captions.END] * (captions.MAX_TOKENS - 7),
    ]
    assert captions.words_to_ids("xylophone") == []


def test_prompt_weights_act(portrait):
    plain, heavy = (portrait.encode(text)[0][0] for text in ("a portrait, smiling", "a portrait, (smiling:1.5)"))
    assert plain.shape == (1, 32, 128)
    assert not torch.allclose(plain, heavy)


def test_weights_are_small_safetensors_in_half_precision():
    from pack import demo

    assert sorted(path.name for path in demo.WEIGHTS.iterdir()) == sorted(CHECKPOINTS)
    assert {path.name for path in demo.JUDGES.glob("*.safetensors")} == READERS
    sizes = {path: path.stat().st_size for path in (*demo.WEIGHTS.iterdir(), *(demo.JUDGES / name for name in READERS))}
    assert sizes[demo.WEIGHTS / UNET] <= 25e6
    assert sizes[demo.WEIGHTS / DIT] <= 20e6
    assert sum(sizes.values()) <= 46e6
    for path in sizes:
        with path.open("rb") as file:
            header = json.loads(file.read(struct.unpack("<Q", file.read(8))[0]))
        assert {entry["dtype"] for name, entry in header.items() if name != "__metadata__"} == {"F16"}


def test_the_checkpoints_are_listed_without_their_readers():
    import folder_paths

    listed = set(folder_paths.get_filename_list("checkpoints"))
    assert listed >= set(CHECKPOINTS)
    assert not listed & READERS


def test_installing_twice_registers_once():
    import comfy.supported_models

    from pack import demo

    demo.install()
    names = [model.__name__ for model in comfy.supported_models.models]
    assert names.count("Portrait") == names.count("PortraitDiT") == 1


def test_the_example_pictures_are_offered_once_and_a_user_s_own_is_left_alone(tmp_path):
    from pack.demo import PICTURES, offer_pictures

    names = sorted(path.name for path in PICTURES.glob("*.png"))
    assert len(names) == 2
    assert all(name.startswith("semantic_latents_") for name in names)
    (tmp_path / names[0]).write_bytes(b"mine")
    for _ in range(2):
        offer_pictures(tmp_path / "input")
        offer_pictures(tmp_path)
    assert sorted(path.name for path in (tmp_path / "input").iterdir()) == names
    assert (tmp_path / names[0]).read_bytes() == b"mine"
    assert (tmp_path / names[1]).read_bytes() == (PICTURES / names[1]).read_bytes()


def test_an_input_folder_that_cannot_be_written_stops_nothing(monkeypatch, caplog):
    import folder_paths

    from pack import demo

    def full(folder):
        raise OSError("no space left")

    monkeypatch.setattr(demo, "offer_pictures", full)
    demo.install()
    assert "example pictures could not be put" in caplog.text
    assert folder_paths.get_full_path("checkpoints", UNET)
