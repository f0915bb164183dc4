"""The demo models' training: that each part learns, goes on where it stopped, and ends as a checkpoint the host loads."""

import dataclasses
import json
import sys
import time

import numpy as np
import pytest
import torch

pytest.importorskip("blend2d", reason="drawing faces needs the vector library")
from pack.demo import (
    JUDGES,
    WEIGHTS,
    assemble,
    captions,
    config,
    data,
    diffusion,
    judge,
    network,
    optimiser,
    readers,
    runs,
    scorer,
    text,
    vae,
)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    folder = tmp_path_factory.mktemp("faces")
    drawn = data.Store(folder / "train", 64, 1)
    data.draw(folder / "train", 0, data.TRAIN_SEED)
    return drawn


def test_a_face_depends_on_its_number_alone(store, tmp_path):
    other = data.Store(tmp_path / "train", 64, 2)
    data.draw(tmp_path / "train", 1, data.TRAIN_SEED)
    assert other.ready() == 0  # the first process's chunk is missing
    assert np.array_equal(other.pixels[data.CHUNK], store.pixels[data.CHUNK])
    assert np.array_equal(other.tokens[data.CHUNK], store.tokens[data.CHUNK])
    data.draw(tmp_path / "train", 0, data.TRAIN_SEED)
    assert other.ready() == 64
    assert np.array_equal(other.labels, store.labels)


def test_drawing_goes_on_where_it_was_stopped(tmp_path):
    store = data.Store(tmp_path / "train", 96, 1)
    (tmp_path / "stop").touch()
    data.draw(tmp_path / "train", 0, 1)
    assert store.ready() == 0
    (tmp_path / "stop").unlink()
    data.draw(tmp_path / "train", 0, 1)
    assert store.ready() == 96
    assert store.pixels[95].any()


def test_tokens_are_padded_as_the_host_pads_them():
    ids = data.padded("a portrait, smiling")
    assert len(ids) == captions.MAX_TOKENS
    assert ids[0] == captions.START
    assert ids[1 + len(captions.words_to_ids("a portrait, smiling")) :] == [captions.END] * (captions.MAX_TOKENS - 4)


def test_orthogonalised_matrices_have_singular_values_near_one():
    values = torch.linalg.svdvals(optimiser.orthogonalised(torch.randn(3, 8, 20)))
    assert values.min() > 0.5
    assert values.max() < 1.4
    tall = torch.randn(2, 20, 8)
    assert torch.allclose(optimiser.orthogonalised(tall).mT, optimiser.orthogonalised(tall.mT.contiguous()), atol=1e-5)


def test_the_optimiser_finds_a_least_squares_solution_and_restores():
    torch.manual_seed(0)
    network_, x = torch.nn.Linear(6, 4), torch.randn(64, 6)
    target = x @ torch.randn(6, 4)
    one = optimiser.Optimiser(network_, ema=0.9)
    losses = []
    for step in range(300):
        loss = (network_(x) - target).square().mean()
        loss.backward()
        one.step(0.05 * (1 - step / 300))
        losses.append(loss.item())
    assert losses[-1] < 0.02 * losses[0]
    other = optimiser.Optimiser(torch.nn.Linear(6, 4), ema=0.9)
    other.restore(one.state(), one.count)
    assert all(torch.equal(a, b) for a, b in zip(other.live, one.live))
    assert other.count == 300


def test_a_plan_cools_down_to_zero_by_samples_and_by_the_clock():
    plan = runs.Plan(total=1000, warm_up=1)
    assert plan.rate(0, 5, 2.0) == 2.0
    assert plan.rate(600, 5, 2.0) == 2.0
    assert plan.rate(1000, 5, 2.0) == 0.0
    assert plan.rate(800, 5, 2.0) == pytest.approx(1.0)
    clock = runs.Plan(end=time.time() - 1, start=time.time() - 2)
    assert clock.done(0) == 1.0
    assert clock.rate(0, 500, 1.0) == 0.0


def test_folding_the_latents_scale_changes_nothing():
    model, scaled = network.vae(), vae.Scaled(config.LATENT_CHANNELS)
    scaled.norm.running_mean.copy_(torch.randn(4))
    scaled.norm.running_var.copy_(torch.rand(4) + 0.5)
    scaled.eval()
    images = torch.rand(2, 3, 32, 32)
    before = scaled(model.taesd_encoder(images))
    scaled.fold(model.taesd_encoder[-1])
    assert torch.allclose(model.taesd_encoder(images), before, atol=1e-5)


def test_text_is_encoded_as_the_host_does():
    model = network.text_model()
    tokens = torch.tensor([data.padded("a portrait, smiling, red hair"), data.padded("")])
    context, pooled = model.encode(tokens)
    with torch.no_grad():
        hosts = model.text_model(tokens.clone())
    assert torch.allclose(context, hosts[0], atol=1e-5)
    assert torch.allclose(pooled, hosts[2], atol=1e-5)


def test_what_the_picture_cannot_show_teaches_the_judge_nothing(store):
    reader, count = judge.Judge(), 4
    images = runs.as_images(torch.from_numpy(np.array(store.pixels[:count])))
    known = [torch.from_numpy(np.array(getattr(store, name)[:count])) for name in ("labels", "shown", "numbers", "identity")]
    known[1] = torch.zeros_like(known[1])
    assert judge.loss_of(reader, images, *known).item() == 0.0


@pytest.mark.parametrize("kind", ["unet", "dit"])
def test_an_untrained_model_predicts_nothing_and_sampling_without_guidance_reads_no_empty_prompt(kind):
    model = diffusion.KINDS[kind](diffusion.RECIPES[kind], "cpu")
    context, pooled, noise = torch.randn(1, 32, config.WIDTH), torch.randn(1, config.WIDTH), torch.randn(1, 4, 32, 32)
    assert model.predict(noise, torch.tensor([0.5]), context, pooled).abs().max() == 0
    for parameter in model.network.parameters():
        torch.nn.init.normal_(parameter, std=0.02)
    first, second = (
        model.sample(noise, context, pooled, (empty, pooled), steps=2, cfg=1.0)
        for empty in (torch.zeros_like(context), torch.randn_like(context))
    )
    assert torch.isfinite(first).all()
    assert torch.allclose(first, second, atol=1e-4)


def test_a_perfect_predictor_of_one_picture_draws_it():
    clean = torch.randn(1, 4, 32, 32)
    unet, dit = (kind(diffusion.Recipe(), "cpu") for kind in (diffusion.UNet, diffusion.Transformer))

    def v(x, t, *_):
        a = unet.alpha_bar[t[0]]
        noise = (x - a.sqrt() * clean) / (1 - a).sqrt()
        return a.sqrt() * noise - (1 - a).sqrt() * clean

    unet.predict, dit.predict = v, lambda x, sigma, *_: (x - clean) / sigma[0]
    empty = torch.zeros(1, 32, config.WIDTH), torch.zeros(1, config.WIDTH)
    for model in (unet, dit):
        assert torch.allclose(model.sample(torch.randn(1, 4, 32, 32), *empty, empty, steps=5), clean, atol=1e-3)


def test_training_goes_on_where_it_stopped(store, tmp_path):
    model = network.text_model()
    runs.write(tmp_path / text.FILE, runs.half(model.state_dict()))
    store.latents[:] = np.random.default_rng(0).normal(size=store.latents.shape)
    store.encoded[0] = store.count
    recipe = dataclasses.replace(diffusion.RECIPES["dit"], batch=2)
    diffusion.train("dit", store, tmp_path, runs.Plan(total=4, warm_up=1), "cpu", recipe, at_least=8)
    _, counts = runs.read(tmp_path / "dit_state.safetensors")
    assert counts["step"] == "2"
    diffusion.train("dit", store, tmp_path, runs.Plan(total=6, warm_up=1), "cpu", recipe, at_least=8)
    _, counts = runs.read(tmp_path / "dit_state.safetensors")
    assert counts["step"] == "3"
    assert counts["seen"] == "6"
    assert all(torch.isfinite(value).all() for value in runs.read(tmp_path / diffusion.FILES["dit"])[0].values())


def test_what_was_kept_of_a_run_is_put_back(tmp_path):
    def parts():
        model = torch.nn.Linear(3, 2)
        return model, torch.optim.AdamW(model.parameters(), 0.1)

    model, optimiser_ = parts()
    model(torch.ones(1, 3)).sum().backward()
    optimiser_.step()
    runs.keep_state(tmp_path / "state", 7, model, optimiser_)
    again, other = parts()
    assert runs.restored(tmp_path / "state", again, other) == 7
    assert torch.equal(again.weight, model.weight)
    assert torch.equal(other.state[again.weight]["exp_avg"], optimiser_.state[model.weight]["exp_avg"])
    assert runs.restored(tmp_path / "none", *parts()) == 0


@pytest.mark.parametrize("kind, family", [("unet", "Portrait"), ("dit", "PortraitDiT")])
def test_the_parts_of_a_run_become_a_checkpoint_that_the_host_loads(kind, family, tmp_path, pack_nodes):
    import comfy.sd

    torch.manual_seed(4)
    part, codec, encoder = diffusion.KINDS[kind](diffusion.RECIPES[kind], "cpu").network, network.vae(), network.text_model()
    written = [runs.half(module.state_dict()) for module in (part, codec, encoder)]
    runs.write(tmp_path / diffusion.FILES[kind], written[0])
    shared = [{prefix + key: value for key, value in some.items()} for prefix, some in zip(("vae.", "text."), written[1:])]
    runs.write(tmp_path / "portrait_shared.safetensors", shared[0] | shared[1])
    (path,) = assemble.assemble(tmp_path, tmp_path)
    assert path.name in {file.name for file in WEIGHTS.iterdir()}
    model, clip, vae_ = comfy.sd.load_checkpoint_guess_config(str(path))[:3]
    assert type(model.model.model_config).__name__ == family
    loaded = model.model.diffusion_model, vae_.first_stage_model, clip.cond_stage_model.clip_l.transformer
    for module, given in zip(loaded, written):
        found = module.state_dict()
        assert given.keys() <= found.keys()
        assert all(torch.equal(found[key].half(), value) for key, value in given.items())


def test_a_fresh_scorer_looks_at_all_regions_of_a_picture():
    """In each layer, more than half of what a head of the class token sees is one of the 16 regions, and each region has its head."""
    torch.manual_seed(5)
    model, side = scorer.fresh(), config.SCORER_CONFIG["image_size"] // config.SCORER_CONFIG["patch_size"]
    heads, vision = config.SCORER_CONFIG["num_attention_heads"], model.vision_model
    with torch.no_grad():
        tokens = vision.pre_layrnorm(vision.embeddings(torch.rand(2, 3, 128, 128) * 2 - 1))
        layer = vision.encoder.layers[0]
        looked = layer.layer_norm1(tokens)
        q, k = (f(looked).unflatten(2, (heads, -1)).movedim(2, 1) for f in (layer.self_attn.q_proj, layer.self_attn.k_proj))
        seen = (q[:, :, :1] @ k.mT / k.shape[-1] ** 0.5).softmax(-1)[..., 0, 1:].mean(0)  # (heads, places)
    regions = seen.reshape(heads, 4, side // 4, 4, side // 4).sum((2, 4)).flatten(1)
    assert regions.argmax(1).tolist() == list(range(16))
    assert (regions.max(1).values > 0.5).all()


@pytest.mark.parametrize(
    ("options", "without", "words"),
    [
        ([], "", "choose --part judge, --part scorer or --figures"),
        (["--figures", "--drawn", "3"], "", "--drawn: got 3; choose 64 or more"),
        (["--figures"], "COMFYUI", "set COMFYUI to ComfyUI's folder"),
    ],
)
def test_readers_are_not_begun_without_what_they_need(tmp_path, monkeypatch, capsys, options, without, words):
    monkeypatch.setattr(sys, "argv", ["readers", str(tmp_path / "new"), *options])
    monkeypatch.delenv(without, raising=False)
    with pytest.raises(SystemExit):
        readers.main()
    assert words in capsys.readouterr().err
    assert not (tmp_path / "new").exists()


def test_judge_and_scorer_are_trained_further_on_the_checkpoint_s_vae_and_measured(tmp_path, monkeypatch, capsys):
    """One step of each, in which the judge hardly moves from where it began."""

    def told(*options):
        monkeypatch.setattr(sys, "argv", ["readers", str(tmp_path), "--drawn", "32", "--faces", "8", *options])
        readers.main()
        return capsys.readouterr().out

    monkeypatch.setattr(sys, "path", [*sys.path])
    for name, count in (("UNSEEN", 4), ("BATCH", 8), ("TRIPPED", 2)):
        monkeypatch.setattr(readers, name, count)
    assert "judge: 8 faces" in told("--part", "judge")
    begun, trained = judge.load(JUDGES).state_dict(), judge.load(tmp_path).state_dict()
    moves = [float((trained[name] - begun[name]).abs().max()) for name in begun]
    assert 0 < max(moves) < 1e-3
    assert "scorer: 8 faces" in told("--part", "scorer")
    assert not torch.equal(scorer.load(tmp_path).visual_projection.weight, network.scorer().visual_projection.weight)
    figures = json.loads((told("--figures"), (tmp_path / "figures_readers.json").read_text())[1])
    assert figures["vae"]["psnr_mean"] > 33
    assert figures["judge_mean_accuracy"] > 0.95
    assert 0 <= figures["scorer"]["mean"] <= 1
