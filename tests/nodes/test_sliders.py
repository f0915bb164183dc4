"""Make Slider in the real host: its two places against their formulas, on every kind of model."""

import pytest
import torch

pytestmark = pytest.mark.usefixtures("inference")
UNETS, OTHERS = ("demo", "SD15", "SD20", "SDXL", "SD15 inpaint"), ("SD3", "Flux", "WAN21_T2V")


@pytest.fixture
def world(request, demo, shaped):
    return demo if request.param == "demo" else shaped(request.param)


def slid(run, world, strength=1.0, *, model=None, without="a portrait", wanted="a portrait, blue hair", start=0.0, end=1.0, **changes):
    settings = dict(start_percent=start, end_percent=end, **{"focus": 0.0, **changes})
    return run("MakeSlider", model=model or world.model, clip=world.clip, strength=strength, without=without, wanted=wanted, **settings)[0]


def first_step(world, sampler_of, model=None, *, cfg=1.0, prompt="a portrait, smiling", latent=None):
    """What the model foresees at the start of a run: one step of euler from there to the end."""
    return world.sample(sampler_of("euler"), steps=1, cfg=cfg, prompt=prompt, model=model, latent=latent).double()


def close(found, expected, base):
    """Equal to rounding, by the size of the change."""
    torch.testing.assert_close(found, expected, rtol=0, atol=2e-3 * float((expected - base).abs().max()))


@pytest.mark.parametrize("world", [*UNETS, *OTHERS], indirect=True)
@pytest.mark.parametrize("cfg", [1.0, 3.0])
def test_the_prediction_moves_by_the_contrast_of_what_the_two_prompts_foresee(world, run, sampler_of, cfg):
    base = first_step(world, sampler_of, cfg=cfg)
    plus, minus = (first_step(world, sampler_of, prompt=words) for words in ("a portrait, blue hair", "a portrait"))
    assert float((plus - minus).abs().max()) > 1e-4
    for strength in (1.5, -0.5):
        found = first_step(world, sampler_of, slid(run, world, strength, place="prediction"), cfg=cfg)
        close(found, base + cfg * strength * (plus - minus), base)


@pytest.mark.parametrize("world", UNETS, indirect=True)
@pytest.mark.parametrize("cfg", [1.0, 3.0])
def test_each_cross_attention_moves_by_its_contrast_at_its_own_input(world, run, sampler_of, cfg):
    """Against forward hooks on the layers, by hand."""
    contexts = [world.encode(words)[0][0] for words in ("a portrait, blue hair", "a portrait")]
    base, strength = first_step(world, sampler_of, cfg=cfg), 0.7
    layers = [part for name, part in world.model.model.diffusion_model.named_modules() if name.endswith("attn2")]
    assert len(layers) >= 4

    def hook(layer, args, kwargs, out):
        plus, minus = (type(layer).forward(layer, args[0], context=c.to(args[0]).expand(len(args[0]), -1, -1)) for c in contexts)
        return out + strength * (plus - minus)

    handles = [layer.register_forward_hook(hook, with_kwargs=True) for layer in layers]
    try:
        expected = first_step(world, sampler_of, cfg=cfg)
    finally:
        for handle in handles:
            handle.remove()
    assert float((expected - base).abs().max()) > 1e-4
    close(first_step(world, sampler_of, slid(run, world, strength, place="cross-attention"), cfg=cfg), expected, base)


@pytest.mark.parametrize("world", ["demo", "Flux"], indirect=True)
def test_strength_0_is_the_model_itself(world, run):
    assert slid(run, world, 0.0) is world.model


@pytest.mark.parametrize("world", ["demo", "SDXL", "Flux", "WAN21_T2V"], indirect=True)
def test_a_second_run_equals_the_first_and_the_model_stays_as_it_was(world, run, sampler_of):
    before = world.sample(sampler_of("euler"), steps=3)
    model = slid(run, world)
    first, second = (world.sample(sampler_of("euler"), steps=3, model=model) for _ in range(2))
    assert torch.equal(first, second)
    assert not torch.equal(first, before)
    assert torch.equal(world.sample(sampler_of("euler"), steps=3), before)


@pytest.mark.parametrize("world", ["demo", "Flux"], indirect=True)
def test_auto_is_the_prediction(world, run, sampler_of):
    auto, named = (first_step(world, sampler_of, slid(run, world, place=place)) for place in ("auto", "prediction"))
    assert torch.equal(auto, named)


@pytest.mark.parametrize("spread", [False, True])
@pytest.mark.parametrize("world", ["demo", "SD3", "WAN21_T2V"], indirect=True)
def test_a_focus_leaves_alone_where_the_words_change_little(world, run, sampler_of, spread):
    """The contrast by hand, whole from 0.7 of its largest size up, nothing below 0.35; or, spread, whole in what is joined to that."""
    from pack.core.sampling.focus import SPREAD, focus_weights, size_of_change

    own = world.model.get_model_object("latent_format").process_in  # the contrast is taken in the model's own units
    model = slid(run, world, 0.8, place="prediction", focus=0.7, spread=spread)
    found, base = (own(first_step(world, sampler_of, each)) for each in (model, None))
    plus, minus = (own(first_step(world, sampler_of, prompt=words)) for words in ("a portrait, blue hair", "a portrait"))
    change, weights = plus - minus, focus_weights(size_of_change(plus - minus), 0.7, SPREAD if spread else 1.0)
    assert float(weights.max()) == 1.0
    assert float(weights.min()) < 1.0
    torch.testing.assert_close(found, base + 0.8 * weights * change, rtol=0, atol=0.02 * float(change.abs().max()))


def test_a_focus_looks_at_the_whole_run_so_far(demo, run, sampler_of):
    """It differs from the focus of each step by itself, and a second run starts afresh."""
    steps = 6
    whole = moments(demo, sampler_of, slid(run, demo, place="prediction", focus=0.7), steps)
    again = moments(demo, sampler_of, slid(run, demo, place="prediction", focus=0.7), steps)
    late = moments(demo, sampler_of, slid(run, demo, place="prediction", focus=0.7, start=0.5), steps)
    assert all(map(torch.equal, whole, again))
    assert not torch.equal(whole[-1], late[-1])


def rows_of(world, sampler_of, model, **changes):
    """How many rows of latents the network is given in two steps at cfg 3, and what is drawn."""
    from comfy.patcher_extension import WrappersMP

    counted, model = [], model.clone()

    def count(executor, x, *args, **kwargs):
        counted.append(len(x))
        return executor(x, *args, **kwargs)

    model.add_wrapper(WrappersMP.DIFFUSION_MODEL, count)
    found = world.sample(sampler_of("euler"), steps=2, cfg=3.0, model=model, **changes)
    return sum(counted), found


@pytest.mark.parametrize("world", ["demo", "SDXL", "Flux", "WAN21_T2V"], indirect=True)
def test_a_prompt_that_is_the_run_s_own_is_not_asked_again(world, run, sampler_of, monkeypatch):
    """Two rows of the guidance, and one for each side that is another prompt; the picture is the same."""
    from pack.host import contrasts

    model = slid(run, world, wanted="a portrait, blue hair", focus=0.6, hold_rest=False)
    found = {words: rows_of(world, sampler_of, model, prompt=words) for words in ("a portrait", "a portrait, blue hair", "a portrait, old")}
    assert {words: rows for words, (rows, _) in found.items()} == {"a portrait": 6, "a portrait, blue hair": 6, "a portrait, old": 8}
    monkeypatch.setattr(contrasts, "the_same", lambda conds, prompt: None)
    for words in ("a portrait", "a portrait, blue hair"):
        rows, expected = rows_of(world, sampler_of, model, prompt=words)
        assert rows == 8
        torch.testing.assert_close(found[words][1], expected, rtol=0, atol=1e-3 * float(expected.abs().max()))


def test_a_prompt_that_another_node_exchanges_in_the_run_is_asked_beside_it(demo, run, sampler_of):
    """The slider compares what it was given, and not what took the place of the run's own prompt."""
    from comfy.patcher_extension import WrappersMP

    other, model = demo.encode("a portrait, old")[0][0], slid(run, demo).clone()

    def exchange(executor, network, conds, *args):
        swapped = [[{**cond[0], "model_conds": {**cond[0]["model_conds"]}}] for cond in conds]
        for cond, entry in zip(conds, swapped):
            if len(conds) == 2 and cond is conds[0]:
                kind = type(cond[0]["model_conds"]["c_crossattn"])
                entry[0]["model_conds"]["c_crossattn"] = kind(other.to(cond[0]["model_conds"]["c_crossattn"].cond))
        return executor(network, swapped, *args)

    model.wrappers[WrappersMP.CALC_COND_BATCH] = {"other": [exchange], **model.wrappers[WrappersMP.CALC_COND_BATCH]}
    rows, found = rows_of(demo, sampler_of, model, prompt="a portrait")
    assert rows == 8
    expected = rows_of(demo, sampler_of, slid(run, demo), prompt="a portrait, old")[1]
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-3 * float(expected.abs().max()))


def test_sliders_that_share_a_prompt_ask_it_once(demo, run, sampler_of):
    first = slid(run, demo)
    both = slid(run, demo, wanted="a portrait, hat", model=first)
    assert rows_of(demo, sampler_of, both, prompt="a portrait, old")[0] == 2 * (2 + 3)
    assert rows_of(demo, sampler_of, both, prompt="a portrait")[0] == 2 * (2 + 2)


def test_a_prompt_for_a_part_of_the_run_or_of_the_picture_is_asked_again(demo, run, sampler_of, monkeypatch):
    """The slider's own prompt is for all of it; so is what it compares."""
    from nodes import ConditioningSetArea, ConditioningSetTimestepRange
    from pack.host import contrasts

    model, prompt, encode = slid(run, demo), demo.encode("a portrait"), demo.encode
    for own in (
        ConditioningSetTimestepRange().set_range(prompt, 0.0, 1.0)[0],
        ConditioningSetArea().append(prompt, 128, 128, 0, 0, 1.0)[0],
    ):
        with monkeypatch.context() as patches:
            patches.setattr(demo, "encode", lambda words, own=own: own if words == "a portrait" else encode(words))
            rows, found = rows_of(demo, sampler_of, model, prompt="a portrait")
            patches.setattr(contrasts, "the_same", lambda conds, prompt: None)
            asked, expected = rows_of(demo, sampler_of, model, prompt="a portrait")
        assert rows == asked >= 8
        assert torch.equal(found, expected)


def test_at_strength_1_a_run_under_the_words_without_is_one_under_the_wanted_words(demo, run, sampler_of):
    """Guidance multiplies the contrast as it does the words."""
    model = slid(run, demo, 1.0, place="prediction")
    found = demo.sample(sampler_of("euler"), steps=4, cfg=3.0, prompt="a portrait", model=model)
    expected = demo.sample(sampler_of("euler"), steps=4, cfg=3.0, prompt="a portrait, blue hair")
    assert not torch.equal(expected, demo.sample(sampler_of("euler"), steps=4, cfg=3.0, prompt="a portrait"))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-3 * float(expected.abs().max()))


@pytest.mark.parametrize("world", OTHERS, indirect=True)
def test_a_model_without_known_cross_attention_refuses_that_place(world, run):
    with pytest.raises(ValueError, match="place: cross-attention is known in the UNets"):
        slid(run, world, place="cross-attention")


@pytest.mark.parametrize("place", ["cross-attention", "prediction"])
def test_it_acts_in_its_window_alone(demo, run, sampler_of, place):
    steps, early = 6, slid(run, demo, place=place, start=0.0, end=0.4)
    late = slid(run, demo, place=place, start=0.6, end=1.0)
    plain, first, second = (moments(demo, sampler_of, model, steps) for model in (demo.model, early, late))
    assert not torch.equal(first[0], plain[0])
    assert torch.equal(second[0], plain[0])
    assert torch.equal(second[2], plain[2])
    assert not torch.equal(second[-1], plain[-1])


def moments(demo, sampler_of, model, steps):
    """What the run foresaw at each step."""
    import comfy.sample

    seen, noise = [], comfy.sample.prepare_noise(demo.empty()["samples"], 1)
    comfy.sample.sample_custom(
        model,
        noise,
        2.0,
        sampler_of("euler"),
        demo.sigmas(steps),
        demo.encode("a portrait"),
        demo.encode(""),
        demo.empty()["samples"],
        callback=lambda step, x0, x, total: seen.append(x0.clone()),
        disable_pbar=True,
    )
    return seen


def test_a_window_without_a_step_is_refused(demo, run, sampler_of):
    model = slid(run, demo, start=0.45, end=0.46)
    with pytest.raises(ValueError, match="start_percent, end_percent: no step of this run starts in"):
        demo.sample(sampler_of("euler"), steps=3, model=model)


def test_below_0_the_opposite_is_drawn_if_it_is_named(demo, run, sampler_of):
    words = dict(wanted="a portrait, blue hair", opposite="a portrait, red hair")
    found = first_step(demo, sampler_of, slid(run, demo, -0.8, **words))
    assert torch.equal(found, first_step(demo, sampler_of, slid(run, demo, 0.8, wanted="a portrait, red hair")))
    above = first_step(demo, sampler_of, slid(run, demo, 0.8, **words))
    assert torch.equal(above, first_step(demo, sampler_of, slid(run, demo, 0.8)))


@pytest.mark.parametrize("words", ["a portrait", "a portrait, xylophone"])
def test_words_that_change_nothing_are_refused(demo, run, words):
    with pytest.raises(ValueError, match="wanted: .* conditions this model exactly as without"):
        slid(run, demo, wanted=words)
    with pytest.raises(ValueError, match="opposite: .* conditions this model exactly as without"):
        slid(run, demo, -1.0, opposite=words)


@pytest.mark.parametrize(
    ("place", "world"), [("cross-attention", "demo"), ("prediction", "demo"), ("prediction", "WAN21_T2V")], indirect=["world"]
)
def test_the_mask_says_where(world, run, sampler_of, place):
    """One latent of two is masked; then the half of each."""
    latent = world.empty(batch=2)
    height, width = latent["samples"].shape[-2:]
    base, whole = (first_step(world, sampler_of, model, latent=latent) for model in (None, slid(run, world, place=place)))
    one = torch.stack([torch.ones(height, width), torch.zeros(height, width)])
    found = first_step(world, sampler_of, slid(run, world, place=place, mask=one), latent=latent)
    close(found[0], whole[0], base[0])
    torch.testing.assert_close(found[1], base[1], rtol=0, atol=1e-5)
    left = torch.zeros(1, height, width)
    left[..., : width // 2] = 1
    half = first_step(world, sampler_of, slid(run, world, place=place, mask=left), latent=latent)
    outside = slice(width // 2, width)
    kept, moved = ((found - base)[..., outside].abs().mean() for found in (half, whole))
    assert float(kept) < (0.6 if place == "cross-attention" else 1e-4) * float(moved)  # layers after it look across the mask's edge


def test_two_sliders_on_the_prediction_add_up(demo, run, sampler_of):
    base = first_step(demo, sampler_of)
    first = slid(run, demo, 0.6, place="prediction")
    both = slid(run, demo, 1.2, model=first, wanted="a portrait, sunglasses", place="prediction")
    alone = slid(run, demo, 1.2, wanted="a portrait, sunglasses", place="prediction")
    moved = [first_step(demo, sampler_of, model) - base for model in (first, alone, both)]
    close(base + moved[2], base + moved[0] + moved[1], base)


def test_two_sliders_in_the_cross_attention_stack(demo, run, sampler_of):
    first = slid(run, demo, 0.6)
    both = slid(run, demo, 1.2, model=first, wanted="a portrait, sunglasses")
    found = [first_step(demo, sampler_of, model) for model in (first, both, slid(run, demo, 0.0, model=both))]
    assert not torch.equal(found[0], found[1])
    assert torch.equal(found[1], found[2])


def test_a_patch_that_answers_in_the_model_s_place_is_told(demo, run, sampler_of):
    model = slid(run, demo, place="cross-attention")
    model.set_model_unet_function_wrapper(lambda apply, args: torch.zeros_like(args["input"]))
    with pytest.raises(ValueError, match="model: a slider did not act"):
        demo.sample(sampler_of("euler"), steps=2, model=model)
    model = slid(run, demo, place="prediction").clone()
    model.model_options["sampler_calc_cond_batch_function"] = lambda args: [torch.zeros_like(args["input"]) for _ in args["conds"]]
    with pytest.raises(ValueError, match="model: a slider did not act"):
        demo.sample(sampler_of("euler"), steps=2, model=model)


@pytest.mark.parametrize("place", ["cross-attention", "prediction"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_it_acts_in_half_precision(shaped, run, sampler_of, place, dtype):
    world = shaped("SD15", dtype)
    base, moved = (first_step(world, sampler_of, model) for model in (None, slid(run, world, place=place)))
    assert torch.isfinite(moved).all()
    assert not torch.equal(base, moved)


def test_the_contrast_is_taken_under_the_run_s_own_controlnet(shaped, control_net, run):
    """The two prompts of the slider come with all that the run's prompt comes with, but its area and steps."""
    from pack.host.contrasts import beside

    world = shaped("SD15")
    own = {"cross_attn": world.encode("a")[0][0], "control": control_net, "area": (1, 1, 0, 0), "strength": 0.5, "start_percent": 0.5}
    (found,) = beside({"positive": [own]}, world.encode("a portrait"))
    assert found["control"] is control_net
    assert torch.equal(found["cross_attn"], world.encode("a portrait")[0][0])
    assert not {"area", "strength", "start_percent"} & set(found)
