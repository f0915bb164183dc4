"""The demo checkpoint through the host's stock nodes: it loads, draws, and draws what it is asked for."""

import json
import struct

import numpy as np
import pytest
import torch

pytestmark = pytest.mark.usefixtures("inference")


@pytest.fixture(scope="module")
def judge():
    from pack import demo
    from pack.demo import classifier

    return classifier.load(demo.JUDGES)


def draw(demo, prompt, *, count=4, steps=12, sampler="dpmpp_2m", seed=50_000):
    latent = {"samples": torch.zeros(count, 4, 4, 4), "downscale_ratio_spacial": 8}  # as Empty Latent Image makes 32 x 32
    (samples,) = demo.nodes.KSampler().sample(
        demo.model, seed, steps, 3.0, sampler, "normal", demo.encode(prompt), demo.encode(""), latent, 1.0
    )
    assert samples["samples"].shape == (count, 3, 32, 32)
    return demo.nodes.VAEDecode().decode(demo.vae, samples)[0]


@pytest.mark.parametrize("sampler", ["euler", "dpmpp_2m", "ddim"])
def test_stock_samplers_draw_finite_varied_pictures(demo, sampler):
    images = draw(demo, "a face", count=2, sampler=sampler)
    assert images.shape == (2, 32, 32, 3)
    assert torch.isfinite(images).all()
    assert images.std() > 0.1
    assert (images[0] - images[1]).abs().mean() > 0.02


@pytest.mark.parametrize(
    "wanted",
    [
        dict(hair="blue", background="pink"),
        dict(skin="dark", shirt="yellow"),
        dict(hat="hat", background="green"),
        dict(hair="red", shirt="white"),
        dict(glasses="glasses", style="bald"),
        dict(glasses="sunglasses", gaze="left"),
        dict(gaze="right", style="long"),
        dict(beard="beard", hair="gray"),
    ],
)
def test_the_prompt_decides_what_is_drawn(demo, judge, wanted):
    from pack.demo import faces, prompts

    labels = judge.label(draw(demo, prompts.prompt_for(wanted)).movedim(-1, 1) * 2 - 1)
    for name, value in wanted.items():
        assert (labels[name] == faces.ATTRIBUTES[name].index(value)).sum() >= 3, name


def test_the_same_seed_draws_the_same_bits(demo):
    assert torch.equal(draw(demo, "a face", count=1, steps=4), draw(demo, "a face", count=1, steps=4))


def test_the_codec_loses_nothing(demo):
    from pack.demo import faces

    pixels = torch.tensor(faces.render(faces.sample_face(np.random.default_rng(3)))).float()[None] / 255
    latent = demo.nodes.VAEEncode().encode(demo.vae, pixels)[0]
    assert latent["samples"].shape == (1, 3, 32, 32)
    torch.testing.assert_close(demo.nodes.VAEDecode().decode(demo.vae, latent)[0], pixels, rtol=0, atol=1e-6)


def test_the_judge_knows_drawn_faces(judge):
    from pack.demo import classifier, faces

    rng = np.random.default_rng(31_337)
    shown = [faces.sample_face(rng) for _ in range(300)]
    images = torch.from_numpy(np.stack([faces.render(face) for face in shown])).movedim(-1, 1).float() / 127.5 - 1
    labels, targets = judge.label(images), classifier.targets_of(shown)
    accuracy = {name: (labels[name] == target)[target >= 0].float().mean().item() for name, target in targets.items()}
    assert np.mean(list(accuracy.values())) >= 0.98
    assert min(accuracy.values()) >= 0.97, accuracy


def test_host_and_trainer_tokenise_alike(demo):
    from pack.demo import prompts

    tokens = demo.clip.tokenize("A face, with a CURLY grey hair; xylophone")["l"][0]
    assert [token for token, _ in tokens] == [
        prompts.START,
        *prompts.words_to_ids("a face with a curly gray hair"),
        *[prompts.END] * (32 - 8),
    ]
    assert prompts.words_to_ids("xylophone") == []


def test_prompt_weights_act(demo):
    plain, heavy = demo.encode("a face, smiling")[0][0], demo.encode("a face, (smiling:1.5)")[0][0]
    assert plain.shape == (1, 32, 128)
    assert not torch.allclose(plain, heavy)


def test_weights_are_small_safetensors_in_half_precision():
    from pack import demo

    files = [*demo.WEIGHTS.iterdir(), *demo.JUDGES.glob("*.safetensors")]
    assert {path.suffix for path in files} == {".safetensors"}
    assert len(files) == 3
    assert sum(path.stat().st_size for path in files) <= 15e6
    for path in files:
        with path.open("rb") as file:
            header = json.loads(file.read(struct.unpack("<Q", file.read(8))[0]))
        assert {entry["dtype"] for name, entry in header.items() if name != "__metadata__"} == {"F16"}


def test_installing_twice_registers_once(demo):
    import comfy.supported_models

    from pack import demo as pack_demo

    pack_demo.install()
    names = [model.__name__ for model in comfy.supported_models.models]
    assert names.count("DemoFaces") == 1


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
    assert folder_paths.get_full_path("checkpoints", "semantic_latents_demo.safetensors")
