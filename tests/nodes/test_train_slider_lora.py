"""Train Slider LoRA in the real host."""

import hashlib

import pytest
import torch

from pack.tests.models import known
from pack.tests.wiring import node

pytestmark = pytest.mark.usefixtures("short_slider_training")
SETTINGS = dict(
    neutral="a portrait",
    wanted="a portrait, smiling",
    opposite="",
    keep="",
    rank=2,
    steps=4,
    learning_rate=1e-3,
    scale=2.0,
    start_percent=0.2,
    end_percent=0.8,
    layers="attention",
    seed=0,
    cfg=2.0,
)
STANDARD = {  # how files for other tools name a layer
    "SD15": "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn2_to_k.lora_down.weight",
    "SDXL": "lora_unet_middle_block_1_transformer_blocks_0_attn2_to_k.lora_down.weight",
    "Flux": "lora_unet_double_blocks_0_img_attn_qkv.lora_down.weight",
    "SD3": "diffusion_model.joint_blocks.0.x_block.attn.qkv.lora_A.weight",
    "WAN21_T2V": "diffusion_model.blocks.0.cross_attn.k.lora_A.weight",
    "ZImage": "diffusion_model.layers.0.attention.qkv.lora_A.weight",
    "demo": "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn2_to_k.lora_down.weight",
}


@pytest.fixture
def of(shaped, demo):
    def call(family="SD15", *more):
        if family == "demo":
            return demo
        if not known(family):
            pytest.skip(f"this host has no {family}")
        return shaped(family, *more)

    return call


@pytest.fixture
def train(run):
    def call(world, **changes):
        return run(
            "TrainSliderLora",
            **{**dict(model=world.model, clip=world.clip, vae=world.vae, latent=world.empty()), **SETTINGS, **changes},
        )

    return call


def bits(model):
    """A hash of all that a model's network holds with the model's own patches, and of what is hung on its layers."""
    import comfy.model_management

    comfy.model_management.load_models_gpu([model])
    digest = hashlib.sha256()
    for name, tensor in sorted(model.model.state_dict().items()):
        digest.update(name.encode() + tensor.contiguous().view(torch.uint8).numpy().tobytes())
    hooks = [(name, "forward" in vars(part), len(part._forward_pre_hooks)) for name, part in model.model.named_modules()]
    return digest.hexdigest(), hooks


def predicted(world, model, seed=3):
    """What a run of two steps ends at."""
    from comfy.samplers import sampler_object

    return world.sample(sampler_object("euler"), model=model, steps=2, prompt="a portrait", seed=seed, cfg=1.0)


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


@pytest.mark.parametrize("family", list(STANDARD))
def test_it_trains_on_every_class_and_core_s_loader_takes_every_tensor(of, train, family, caplog):
    import comfy.sd

    from pack.host.lora_layers import chosen_layers

    world = of(family)
    before, patches = bits(world.model), dict(world.model.patches)
    lora, curve, picture, slider = train(world)
    assert bits(world.model) == before
    assert world.model.patches == patches
    assert len(curve["loss"]) == 4
    assert curve["loss"][0] == pytest.approx(1.0, rel=0.02 if family == "demo" else 1e-3)  # no more of it than nothing done
    assert STANDARD[family] in lora
    assert picture.shape[0] == 1
    assert torch.isfinite(picture).all()
    loaded = comfy.sd.load_lora_for_models(world.model, None, lora, 1.0, 0.0)[0]
    assert not [record for record in caplog.records if "lora key not loaded" in record.getMessage()]
    assert set(loaded.patches) == set(chosen_layers(world.model, "attention"))
    assert torch.equal(predicted(world, slider.on(world.model, 1.0)), predicted(world, loaded))


class Look:
    """A sampler function that asks for what a model foresees of one latent, and keeps it."""

    def __init__(self, drawn):
        self.drawn, self.found = drawn, None

    def __call__(self, model, x, sigmas, extra_args, **more):
        self.found = model(self.drawn.x, torch.full((1,), self.drawn.sigma), **extra_args)
        return x


def foreseen(world, model, drawn):
    """What a model foresees of a drawn x_t under the neutral prompt, in a run of the host's."""
    from pack.host.runs import guided, run
    from pack.host.samplers import sampler_of

    guider, look = guided(model, {"positive": world.encode("a portrait"), "negative": world.encode("")}), Look(drawn)
    run(guider, torch.zeros_like(drawn.x), sampler_of(look), torch.tensor([1.0, 0.0]))
    return look.found


def test_the_file_acts_as_the_training_did(of, train, monkeypatch):
    """What core's loader puts on the weights is what the adapters add beside them, at both signs."""
    from pack.host import slider_training

    world, seen, edited = of(), [], slider_training._Calls.edited
    lora, *_ = train(world, steps=6, learning_rate=1e-2)
    monkeypatch.setattr(
        slider_training._Calls,
        "edited",
        lambda self, drawn, roles, strength: seen.append((drawn, strength, edited(self, drawn, roles, strength))) or seen[-1][2],
    )
    train(world, steps=1, resume=lora)  # its calls of the first update are of the finished LoRA
    assert [strength for _, strength, _ in seen[-2:]] == [1.0, -1.0]
    for drawn, strength, (result, *_) in seen[-2:]:
        patched = node("train.LoraModelLoader", model=world.model, lora=lora, strength_model=strength)
        change = float((result - drawn.foreseen["positive"]).abs().max())
        assert change > 0
        torch.testing.assert_close(foreseen(world, patched, drawn), result.detach(), rtol=0, atol=0.02 * change)
        torch.testing.assert_close(foreseen(world, world.model, drawn), drawn.foreseen["positive"], rtol=0, atol=0.02 * change)


def test_training_lowers_the_loss(of, train):
    losses = train(of("WAN21_T2V"), steps=40, learning_rate=3e-3, layers="all linear")[1]["loss"]
    assert sum(losses[-10:]) < 0.9 * sum(losses[:10])


def test_the_signs_move_apart(of, train):
    world = of("WAN21_T2V")
    slider = train(world, steps=20, learning_rate=3e-3)[3]
    minus, still, plus = (predicted(world, slider.on(world.model, strength)) for strength in (-1.0, 0.0, 1.0))
    assert torch.equal(still, predicted(world, world.model))
    moves = plus - still, minus - still
    assert float((moves[0] * moves[1]).sum() / moves[0].norm() / moves[1].norm()) < 0


def test_the_same_seed_gives_the_same_bits(of, train):
    world = of("SD3")
    first, again, other = (train(world, seed=seed)[0] for seed in (0, 0, 1))
    assert same(first, again)
    assert not same(first, other)


@pytest.mark.parametrize(
    "changes",
    [
        dict(keep="a landscape"),
        dict(opposite="a portrait, frowning"),
        dict(scale=1.0),
        dict(batch_size=2),
        dict(cfg=1.0),
        dict(start_percent=0.5),
    ],
)
def test_every_setting_matters(of, train, changes):
    world = of("SD3")
    assert not same(train(world)[0], train(world, **changes)[0])


def test_prompts_to_keep_hold_the_lora_back(of, train):
    world = of("SD3")
    losses = [
        train(world, keep="a landscape\na street", keep_weight=weight, steps=8, learning_rate=1e-2)[1]["loss"] for weight in (0.0, 9.0)
    ]
    assert losses[0][0] == pytest.approx(losses[1][0])  # nothing has moved yet
    assert losses[1][1] > losses[0][1]


def test_a_mask_keeps_the_rest_in_the_targets(of, train, monkeypatch):
    from pack.host import slider_training

    world, seen = of("SD3"), []
    real = slider_training.contrast_target
    monkeypatch.setattr(slider_training, "contrast_target", lambda *given: seen.append((given[0], real(*given))) or seen[-1][1])
    mask = torch.zeros(1, 128, 128)
    mask[..., :64] = 1
    masked = train(world, mask=mask)[0]
    assert seen
    for neutral, target in seen:
        assert torch.equal(target[..., 8:], neutral[..., 8:])
        assert not torch.equal(target[..., :8], neutral[..., :8])
    assert not same(masked, train(world)[0])
    assert same(train(world, mask=torch.ones(1, 128, 128))[0], train(world)[0])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_trains(of, train, dtype):
    world = of("SD15", dtype)
    lora, curve, *_ = train(world, latent=world.empty(size=8))
    assert all(torch.isfinite(value).all() for value in lora.values())
    assert any(value.any() for key, value in lora.items() if "lora_down" in key)
    assert {value.dtype for value in lora.values()} == {torch.float32}
    assert curve["loss"][0] == pytest.approx(1.0, rel=0.05)


def test_a_lora_on_the_model_stays_and_is_trained_through(of, train):
    import comfy.sd

    from pack.tests.campaigns.lora import random_lora

    world = of("SD15")
    patched = comfy.sd.load_lora_for_models(world.model, None, random_lora(world.model), 1.0, 0.0)[0]
    patches, plain = {key: list(value) for key, value in patched.patches.items()}, predicted(world, world.model)
    drawn = predicted(world, patched)
    lora = train(world, model=patched)[0]
    assert {key: list(value) for key, value in patched.patches.items()} == patches
    assert torch.equal(predicted(world, patched), drawn)
    assert torch.equal(predicted(world, world.model), plain)
    assert not same(lora, train(world)[0])


@pytest.fixture
def loras(tmp_path, monkeypatch):
    """The host's output folder, and the loras folder in it."""
    import folder_paths

    monkeypatch.setattr(folder_paths, "output_directory", str(tmp_path / "output"))
    kept, suffixes = folder_paths.folder_names_and_paths["loras"]
    folder = tmp_path / "output" / "loras"
    monkeypatch.setitem(folder_paths.folder_names_and_paths, "loras", ([*kept, str(folder)], suffixes))
    folder_paths.filename_list_cache.pop("loras", None)
    return folder


@pytest.fixture
def cancelled(monkeypatch):
    """`cancelled(n)`: the user cancels before the n-th tick of the bar."""
    import comfy.model_management

    from pack.host import progress

    def after(count):
        asked = []

        def ask():
            asked.append(1)
            if len(asked) == count:
                raise comfy.model_management.InterruptProcessingException

        monkeypatch.setattr(progress, "check_cancelled", ask)
        return comfy.model_management.InterruptProcessingException

    return after


@pytest.mark.parametrize("save", [False, True])
def test_cancel_keeps_what_was_asked_for_alone(of, train, loras, cancelled, save):
    from pack.host.slider_files import slider_of

    world = of("SD3")
    before, changes = bits(world.model), dict(on_cancel="save", filename_prefix="mine") if save else {}
    with pytest.raises(cancelled(14)):
        train(world, steps=40, **changes)
    assert bits(world.model) == before
    files = list(loras.rglob("*"))
    assert len(files) == save
    if save:
        slider = slider_of("loras/mine_00001_.safetensors")
        assert 0 < int(slider.notes.settings["steps"]) < 40
        assert slider.notes.words["wanted"] == SETTINGS["wanted"]
        train(world, steps=1, resume_slider=slider)


def test_cancel_is_asked_for_at_every_call_of_the_model(of, train, monkeypatch):
    from pack.host import progress, slider_training

    order = []
    ask, check = slider_training._Calls.ask, progress.check_cancelled
    monkeypatch.setattr(slider_training._Calls, "ask", lambda self, *given: order.append("call") or ask(self, *given))
    monkeypatch.setattr(progress, "check_cancelled", lambda: order.append("check") or check())
    train(of("SD3"))
    told = "".join(word[1] for word in order)  # a: call, h: check
    assert "aaa" not in told


def test_the_bar_shows_three_strengths_and_reaches_its_end(of, train, monkeypatch):
    import comfy.utils

    from pack.host.progress import Bar

    world, shown, seen = of("SD15"), [], []
    tick = Bar.tick
    monkeypatch.setattr(Bar, "tick", lambda self, latents=None, columns=0: shown.append(latents) or tick(self, latents, columns))
    update = comfy.utils.ProgressBar.update_absolute
    monkeypatch.setattr(
        comfy.utils.ProgressBar,
        "update_absolute",
        lambda self, value, total=None, preview=None: seen.append((value, self.total)) or update(self, value, total, preview),
    )
    train(world)
    assert [len(latents) for latents in shown if latents is not None] == [3] * 4
    assert seen[-1][0] == seen[-1][1]


def test_blocks_that_run_again_learn_the_same(of, train):
    for family in ("SD15", "Flux"):  # blocks of the latter add to their input in place
        kept, again = (train(of(family), steps=1, gradient_checkpointing=how)[0] for how in ("off", "on"))
        for key, value in kept.items():
            torch.testing.assert_close(again[key], value, rtol=0, atol=1e-4)


def test_too_little_memory_is_told_before_the_first_step(of, train, monkeypatch):
    from pack.host import slider_training

    world, updates = of("SD3"), []
    monkeypatch.setattr(slider_training, "free_memory", lambda device: 1000.0)
    monkeypatch.setattr("pack.core.lora.training.LoraTraining.update", lambda self: updates.append(1))
    for how in ("auto", "on", "off"):
        with pytest.raises(ValueError, match="batch_size: an update needs about"):
            train(world, gradient_checkpointing=how)
    assert not updates


def test_blocks_run_again_by_themselves_where_memory_asks_for_it(of, train, monkeypatch):
    from pack.host import slider_training

    world, counts, again = of("SD3"), [], []
    count = slider_training._Calls._kept_for_gradient
    monkeypatch.setattr(slider_training._Calls, "_kept_for_gradient", lambda *given: counts.append(count(*given)) or counts[-1])
    run_again = slider_training.run_again
    monkeypatch.setattr(slider_training, "run_again", lambda forward: again.append(1) or run_again(forward))
    train(world, steps=1)
    assert not again
    monkeypatch.setattr(slider_training, "free_memory", lambda device: counts[0] / 1.5)
    train(world, steps=1)
    assert again
    assert counts[-1] < counts[0] / 1.5


def test_what_is_no_number_stops_with_a_message(of, train):
    world = of("SD15")
    broken = world.model.clone()
    broken.set_model_unet_function_wrapper(lambda apply, args: apply(args["input"], args["timestep"], **args["c"]) * torch.nan)
    with pytest.raises(ValueError, match="learning_rate: the loss became nan at update 1"):
        train(world, model=broken)


def test_training_goes_on_with_a_lora_or_a_file(of, train, run, loras):
    world = of("SD3")
    lora, _, _, slider = train(world, steps=8, learning_rate=1e-2)
    assert same(train(world, resume=lora)[0], train(world, resume_slider=slider)[0])
    still = train(world, steps=1, learning_rate=1e-6, resume=lora)[0]
    for key, value in lora.items():
        torch.testing.assert_close(still[key], value, rtol=0, atol=1e-4)
    for changes, words in (
        (dict(rank=3), "resume: this LoRA has rank 2, and rank is 3"),
        (dict(layers="all linear"), "resume: this LoRA is on .* layers, and layers chooses"),
        (dict(resume={"x": torch.zeros(1)}), "resume: none of the 1 tensors"),
        (dict(resume_slider=slider), "resume_slider: there is a LoRA in resume, too"),
    ):
        with pytest.raises(ValueError, match=words):
            train(world, **{"resume": lora, **changes})


def test_a_slider_that_is_no_lora_cannot_be_gone_on_with(of, train, run):
    world = of("SD15")
    other = run("MakeSlider", model=world.model, clip=world.clip, strength=1.0, without="a", wanted="b")[1]
    with pytest.raises(ValueError, match="resume_slider: 'b' is no LoRA"):
        train(world, resume_slider=other)


def test_files_keep_words_settings_and_unit(of, train, run, loras):
    from pack.core.dial import Dial
    from pack.host.slider_files import slider_of
    from pack.host.sliders import CalibratedSlider

    world = of("SD3")
    lora, _, _, slider = train(world)
    dial = Dial(((-1.0, -2.0), (0.0, 0.0), (1.0, 1.5)))
    for given, name in ((slider, "plain"), (CalibratedSlider(slider, dial), "unit")):
        run("SaveSlider", slider=given, filename_prefix=f"mine/{name}")
    plain, unit = slider_of("loras/mine/plain_00001_.safetensors"), slider_of("loras/mine/unit_00001_.safetensors")
    assert plain.notes == slider.notes
    assert same(plain.weights, lora)
    assert unit.dial == dial
    assert slider.notes.words == {"neutral": "a portrait", "wanted": "a portrait, smiling", "opposite": "", "keep": ""}
    assert slider.notes.settings["rank"] == "2"
    assert len(slider.notes.base) == 12
    assert torch.equal(predicted(world, unit.on(world.model, 1.0)), predicted(world, slider.on(world.model, 1.5)))


def test_core_s_nodes_save_and_load_it(of, train, loras):
    from comfy_extras.nodes_train import SaveLoRA

    import nodes
    from pack.host.slider_files import slider_of

    world = of("SD3")
    lora, *_ = train(world)
    SaveLoRA.execute(lora, "loras/cores", 4)
    (path,) = loras.glob("cores*")
    assert slider_of(f"loras/{path.name}").notes is None  # its node keeps tensors alone
    loaded = nodes.LoraLoaderModelOnly().load_lora_model_only(world.model, path.name, 1.0)[0]
    direct = node("train.LoraModelLoader", model=world.model, lora=lora, strength_model=1.0)
    assert torch.equal(predicted(world, loaded), predicted(world, direct))


def test_the_base_is_the_checkpoint_s_whatever_is_on_it(of, train):
    import comfy.sd

    from pack.tests.campaigns.lora import random_lora

    world = of("SD15")
    patched = comfy.sd.load_lora_for_models(world.model, None, random_lora(world.model), 1.0, 0.0)[0]
    predicted(world, patched)  # which loads it
    bases = {train(world, model=model, steps=1)[3].notes.base for model in (patched, world.model)}
    assert len(bases) == 1
    assert bases != {train(of("SDXL"), steps=1)[3].notes.base}


def test_a_scorer_s_objective_moves_pictures_as_its_texts_differ(of, train, scorer, monkeypatch):
    from pack.host import slider_training

    monkeypatch.setattr(slider_training, "seeds_from", lambda seed, count: [seed] * count)  # the same picture in every update
    world = of("demo")
    settings = dict(objective="CLIP directional", clip_vision=scorer["clip_vision"], scorer_clip=scorer["clip"], keep_weight=0.0)
    losses = train(world, wanted="a portrait, blue hair", steps=8, **settings)[1]["loss"]
    assert sum(losses[-2:]) < sum(losses[:2]) - 0.2
    for missing in ("clip_vision", "scorer_clip"):
        with pytest.raises(ValueError, match="clip"):
            train(world, **{**settings, missing: None})


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (dict(wanted="a portrait"), "wanted: 'a portrait' conditions this model exactly as neutral"),
        (dict(opposite="a portrait"), "opposite: 'a portrait' conditions this model exactly as neutral"),
        (dict(opposite="a portrait, smiling"), "opposite: 'a portrait, smiling' conditions this model exactly as wanted"),
        (dict(start_percent=0.8), "end_percent: got 0.8 with a start_percent of 0.8"),
        (dict(mask=torch.ones(1, 64, 128)), "mask: it has the form 128 x 64, and the latent 16 x 16"),
        (dict(mask=torch.zeros(1, 64, 64)), "mask: it is empty"),
        (dict(mask=torch.ones(2, 64, 64)), "mask: got a batch of 2"),
        (dict(layers="cross-attention"), "layers: this model .SD3. has no layers"),
        (dict(rank=0), "rank: got 0"),
        (dict(on_cancel="save", filename_prefix=""), "filename_prefix: '' has no name"),
    ],
)
def test_bad_input_is_named(of, train, changes, words):
    with pytest.raises(ValueError, match=words):
        train(of("SD3"), **changes)


def test_words_that_draw_the_same_are_refused(of, train, monkeypatch):
    world = of("SD15")
    deaf = world.model.clone()
    deaf.set_model_attn2_patch(lambda q, k, v, extra: (q, 0 * k, 0 * v))
    with pytest.raises(ValueError, match="wanted: the model foresees the same"):
        train(world, model=deaf)


def test_what_a_model_carries_that_cannot_be_trained_through_is_named(of, train, run):
    import comfy.sd

    world = of("SD15")
    slider = run("MakeSlider", model=world.model, clip=world.clip, strength=1.0, without="a", wanted="b")[0]
    lora = train(world, steps=1)[0]
    bypass = comfy.sd.load_bypass_lora_for_models(world.model, None, lora, 1.0, 0.0)[0]
    cache = node("easycache.EasyCacheNode", model=world.model, reuse_threshold=0.2, start_percent=0.1, end_percent=0.9, verbose=False)
    kept = torch.randn(1, 1, 1)  # of inference mode, as what other packs compute
    patched = world.model.clone()
    patched.set_model_attn1_output_patch(lambda x, extra: x * kept)
    for model, words in (
        (slider, "model: it carries a slider"),
        (bypass, "model: it carries a LoRA in bypass mode"),
        (cache, "model: it carries EasyCache"),
        (patched, "model: no gradient passes through what it carries .patches attn1_output_patch"),
    ):
        with pytest.raises(ValueError, match=words):
            train(world, model=model)


def test_a_family_without_gradients_in_this_host_is_named(of, train):
    with pytest.raises(ValueError, match=r"model: no gradient passes through the networks of its family .LTXV"):
        train(of("LTXV"))


def test_weights_that_are_brought_along_learn_the_same(of, train, monkeypatch):
    """As where the host keeps them away from the device: its buffers hold a weight until the next layer's alone."""
    from pack.host import copies

    world, calls, recomputed = of("SD15"), [], copies._Recomputed.backward
    own = train(world, steps=2)[0]
    monkeypatch.setattr(copies, "is_elsewhere", lambda layer, device: layer.weight is not None)
    monkeypatch.setattr(copies._Recomputed, "backward", staticmethod(lambda ctx, given: calls.append(1) or recomputed(ctx, given)))
    along = train(world, steps=2)[0]
    assert calls
    for key, value in own.items():
        torch.testing.assert_close(along[key], value, rtol=0, atol=1e-4)
