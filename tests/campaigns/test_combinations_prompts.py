"""Every node that reads prompts and learns takes prompts as users wire them, and patched models.

Users wire prompts with regions, times, LoRA and ControlNet.
"""

from dataclasses import replace

import pytest
import torch

from pack.tests.campaigns.learners import (
    LEARNERS,
    PROMPTS,
    TEXTS,
    Desk,
    combined,
    discovered,
    drawn,
    euler,
    learned_attribute,
    lora_on,
    three_steps,
    timed,
    trained,
)
from pack.tests.edits import with_slider
from pack.tests.wiring import node, random

pytestmark = pytest.mark.campaign

PLAIN = {}  # what each learner learns from plain prompts


@pytest.fixture(scope="module")
def desk(run, shaped, control_net, tmp_path_factory):
    import folder_paths

    folder_paths.set_temp_directory(str(tmp_path_factory.mktemp("temp")))
    bare = Desk(run, shaped("SD15"), shaped("SD15").model, control_net)
    with torch.inference_mode():
        return replace(bare, attribute=learned_attribute(bare))


def learned(desk, learner, change=None, place=0):
    """The learner's result, with one of its prompts changed."""
    learn, names = LEARNERS[learner]
    prompts = {name: desk.world.encode(TEXTS[name]) for name in names}
    if change:
        prompts[names[place]] = PROMPTS[change](desk, prompts[names[place]])
    return learn(desk, **prompts)


def outcome(desk, learner, change, place):
    """ "learned" something finite, or "refused" by an error that begins with the prompt's name; anything else is raised."""
    name = LEARNERS[learner][1][place]
    try:
        assert torch.isfinite(learned(desk, learner, change, place)).all(), f"{learner}: {change} on {name}"
    except ValueError as error:
        assert str(error).startswith(f"{name}:"), f"{learner}: {change} on {name}: {error}"
        return "refused"
    return "learned"


@pytest.mark.campaign
@pytest.mark.parametrize("learner", LEARNERS)
def test_a_prompt_of_any_kind_is_learned_from_or_refused_by_name(desk, learner, rounds, figures):
    PLAIN[learner] = learned(desk, learner)
    cases = [(change, place) for place in range(len(LEARNERS[learner][1])) for change in PROMPTS]
    first = list(LEARNERS).index(learner)
    found = [outcome(desk, learner, *case) for case in rounds(cases[first::16], cases)]
    assert "learned" in found
    figures(
        f"prompts of all kinds, {learner}",
        f"{len(found)} cases: {found.count('learned')} learned, {found.count('refused')} refused by name",
    )
    assert torch.equal(learned(desk, learner), PLAIN[learner]), "what was learned before changes what is learned now"


@pytest.mark.parametrize(
    "learner, change, place",
    [
        ("Direction From Prompts", "area", 1),
        ("Direction From Prompts", "mask bounds", 2),
        ("PCA", "area and a whole", 1),
        ("Jacobian", "mask bounds and a whole", 0),
        ("pullback", "area", 1),
        ("Train Direction", "mask bounds", 0),
        ("Train Direction", "area and a whole", 2),
    ],
)
def test_a_prompt_for_an_area_is_refused_where_h_is_looked_at(desk, learner, change, place):
    assert outcome(desk, learner, change, place) == "refused"


@pytest.mark.parametrize("method", ["Jacobian", "pullback"])
def test_the_step_that_is_looked_at_must_have_the_prompt(desk, method):
    with pytest.raises(ValueError, match="positive: it is not in force at the step"):
        discovered(method)(desk, positive=timed(desk.world.encode("a portrait"), 0.9, 1.0), negative=desk.world.encode(""))


def test_a_picture_is_inverted_with_a_control_net_for_both_prompts(desk):
    assert outcome(desk, "Invert", "ControlNet for both", 0) == "learned"


@pytest.mark.parametrize("change", [change for change in PROMPTS if "LoRA" not in change and "ControlNet" not in change])
def test_a_target_s_run_is_the_run_that_the_target_draws_as_a_prompt(desk, change):
    from comfy.samplers import KSAMPLER

    from pack.host.attributes import OnlyTarget

    target = PROMPTS[change](desk, desk.world.encode("a hat, a beard"))
    other = drawn(desk, KSAMPLER(OnlyTarget(euler().sampler_function, target)), desk.world.encode("a portrait"))
    expected = drawn(desk, euler(), target)
    assert torch.isfinite(other).all()
    torch.testing.assert_close(other, expected, rtol=0, atol=1e-5 * float(expected.abs().max()))


def patched(name, **inputs):
    return lambda model: node(name, model=model, **inputs)


def by_hand(patch):
    def patching(model):
        model = model.clone()
        patch(model)
        return model

    return patching


# What other nodes do to the model.
PATCHES = {
    "LoRA": lora_on,
    "FreeU": patched("freelunch.FreeU", b1=1.1, b2=1.2, s1=0.9, s2=0.2),
    "FreeU V2": patched("freelunch.FreeU_V2", b1=1.3, b2=1.4, s1=0.9, s2=0.2),
    "deep shrink": patched(
        "model_downscale.PatchModelAddDownscale",
        block_number=2,
        downscale_factor=2.0,
        start_percent=0.0,
        end_percent=0.4,
        downscale_after_skip=True,
        downscale_method="bicubic",
        upscale_method="bicubic",
    ),
    "normalized attention guidance": patched("nag.NAGuidance", nag_scale=5.0, nag_alpha=0.5, nag_tau=1.5),
    "perturbed attention guidance": patched("pag.PerturbedAttentionGuidance", scale=3.0),
    "rescaled guidance": patched("model_advanced.RescaleCFG", multiplier=0.7),
    "HyperTile": patched("hypertile.HyperTile", tile_size=32, swap_size=2, max_depth=1, scale_depth=False),
    "zero terminal SNR": patched("model_advanced.ModelSamplingDiscrete", sampling="v_prediction", zsnr=True),
    "EasyCache": patched("easycache.EasyCacheNode", reuse_threshold=3.0, start_percent=0.0, end_percent=1.0, verbose=False),
    "attn1 patch": by_hand(lambda model: model.set_model_attn1_patch(lambda n, context, value, options: (1.5 * n, context, value))),
    "unet function wrapper": by_hand(
        lambda model: model.set_model_unet_function_wrapper(lambda apply, args: 1.05 * apply(args["input"], args["timestep"], **args["c"]))
    ),
    "middle block patch": by_hand(lambda model: model.set_model_middle_block_after_patch(lambda args: {"h": 1.3 * args["h"]})),
}


def learned_with(desk, learner, patch):
    """The learner's result on a patched model; None if it was refused by an input's name."""
    try:
        return learned(replace(desk, model=PATCHES[patch](desk.model)), learner)
    except ValueError as error:
        assert str(error).split(":")[0] in ("model", *LEARNERS[learner][1]), f"{learner}, {patch}: {error}"


@pytest.mark.campaign
@pytest.mark.parametrize("learner", LEARNERS)
def test_a_patched_model_is_learned_from_as_it_is(desk, learner, rounds, figures):
    """A patch shows in what is learned; one of the guidance may not where there is none, nor may skipped steps."""
    plain = PLAIN[learner] if learner in PLAIN else learned(desk, learner)
    found = {
        patch: learned_with(desk, learner, patch) for patch in rounds(list(PATCHES)[list(LEARNERS).index(learner) % 6 :: 5], list(PATCHES))
    }
    for patch, result in found.items():
        assert result is None or torch.isfinite(result).all(), f"{learner}, {patch}"
        assert ("guidance" in patch and learner == "Invert") or patch == "EasyCache" or result is None or not torch.equal(result, plain), (
            f"{learner}, {patch}: the patch is lost"
        )
    figures(
        f"patched models, {learner}", f"{len(found)} of {len(PATCHES)}: {sum(result is not None for result in found.values())} learned from"
    )


@pytest.mark.parametrize(
    "learner, patch", [("Train Direction", "FreeU V2"), ("Train Direction", "normalized attention guidance"), ("Jacobian", "FreeU V2")]
)
def test_patches_that_write_in_place_are_learned_from(desk, learner, patch):
    result = learned_with(desk, learner, patch)
    assert torch.isfinite(result).all()
    assert not torch.equal(result, learned(desk, learner))


@pytest.mark.parametrize("place", ["cross-attention", "prediction"])
@pytest.mark.parametrize("learner", LEARNERS)
def test_a_model_with_a_slider_is_learned_from(desk, learner, place):
    """Gradients, too, pass its layers."""
    slid = with_slider(desk.run, desk.model, desk.world.clip, place=place)
    result = learned(replace(desk, model=slid), learner)
    assert torch.isfinite(result).all()
    assert not torch.equal(result, learned(desk, learner))


@pytest.mark.parametrize("patch", ["deep shrink", "EasyCache"])
def test_training_refuses_steps_that_are_skipped_or_of_another_size(desk, patch):
    assert learned_with(desk, "Train Direction", patch) is None


@pytest.mark.parametrize("patch", ["perturbed attention guidance", "rescaled guidance"])
@pytest.mark.parametrize("learner", ["Direction From Prompts", "PCA", "Jacobian", "Train Direction"])
def test_what_is_learned_is_learned_on_runs_with_the_model_s_own_guidance(desk, learner, patch):
    assert not torch.equal(learned_with(desk, learner, patch), learned(desk, learner))


@pytest.mark.parametrize("patch", [None, "perturbed attention guidance", "rescaled guidance", "normalized attention guidance"])
def test_a_run_that_is_looked_at_is_the_host_s(desk, patch):
    from comfy.samplers import CFGGuider

    from pack.host.watching import WatchedGuider

    model, noise = PATCHES[patch](desk.model) if patch else desk.model, random(4, 1, 4, 16, 16)
    prompts = {"positive": desk.world.encode("a portrait"), "negative": desk.world.encode("")}
    host = CFGGuider(model)
    host.inner_set_conds(prompts)
    host.set_cfg(2.0)
    for further in ({}, {"target": desk.world.encode("a hat")}):
        seen, drawn = WatchedGuider(model, {**prompts, **further}, 2.0, lambda parts, sigma: None), []
        for guider in (host, seen):
            drawn.append(guider.sample(noise, torch.zeros_like(noise), euler(), three_steps(desk), disable_pbar=True))
        torch.testing.assert_close(*drawn, rtol=0, atol=1e-5 * float(drawn[0].abs().max()))


@pytest.mark.parametrize("change", ["combine", "mask and a whole", "ControlNet"])
def test_training_starts_where_nothing_is_edited(desk, change):
    """The first loss is 1: the pass that gradients go through is the model's own."""
    prompts = {name: desk.world.encode(TEXTS[name]) for name in ("source", "target", "negative")}
    assert trained(desk, **{**prompts, "source": PROMPTS[change](desk, prompts["source"])})[1]["loss"][0] == pytest.approx(1.0, abs=1e-4)


@pytest.mark.parametrize("place", [0, 2])
def test_training_refuses_a_prompt_with_a_lora_of_its_own(desk, place):
    """One copy of the decoder serves all prompts."""
    assert outcome(desk, "Train Direction", "LoRA (hook)", place) == "refused"


@pytest.mark.parametrize("patch", ["LoRA", "FreeU", "middle block patch", "attn1 patch"])
def test_training_starts_where_nothing_is_edited_on_a_patched_model(desk, patch):
    prompts = {name: desk.world.encode(TEXTS[name]) for name in ("source", "target", "negative")}
    assert trained(replace(desk, model=PATCHES[patch](desk.model)), **prompts)[1]["loss"][0] == pytest.approx(1.0, abs=1e-4)


@pytest.mark.parametrize("place", [0, 2])
def test_training_takes_a_control_net_as_the_host_loads_it(desk, place):
    """Its weights ask for gradients, as those of every module do."""
    network = desk.control_net.control_model
    with torch.inference_mode(False):
        flags = [weight.requires_grad for weight in network.parameters()]
    network.requires_grad_(True)
    try:
        assert outcome(desk, "Train Direction", "ControlNet", place) == "learned"
    finally:
        for weight, flag in zip(network.parameters(), flags, strict=True):
            weight.requires_grad_(flag)


@pytest.mark.parametrize("cfg", [1.0, 2.0])
@pytest.mark.parametrize("name", ["source", "target", "negative"])
def test_training_refuses_a_prompt_that_is_not_in_force_at_every_step(desk, name, cfg):
    """Unless it is the negative one where it is not read."""
    prompts = {name: desk.world.encode(TEXTS[name]) for name in ("source", "target", "negative")}
    whole, part = ({**prompts, name: combined(timed(prompts[name], 0.0, 0.4), timed(prompts[name], start, 1.0))} for start in (0.4, 0.9))
    trained(desk, **whole, cfg=cfg)
    if (name, cfg) == ("negative", 1.0):
        trained(desk, **part, cfg=cfg)
    else:
        with pytest.raises(ValueError, match=f"{name}: it is not in force at every step"):
            trained(desk, **part, cfg=cfg)


@pytest.mark.parametrize("patch", ["LoRA", "deep shrink", "perturbed attention guidance", "zero terminal SNR"])
def test_a_picture_inverted_on_a_patched_model_is_found_again(desk, patch):
    model, picture = PATCHES[patch](desk.model), {"samples": 0.4 * random(8, 1, 4, 16, 16)}
    sigmas = three_steps(replace(desk, model=model))
    noise, _, exact, _ = desk.run(
        "Invert", model=model, positive=desk.world.encode("a portrait"), latent=picture, sigmas=sigmas, refinements=1, tolerance=1e-4
    )
    guider = node("custom_sampler.BasicGuider", model=model, conditioning=desk.world.encode("a portrait"))
    back = node("custom_sampler.SamplerCustomAdvanced", noise=noise, guider=guider, sampler=exact, sigmas=sigmas, latent_image=picture)[
        "samples"
    ]
    torch.testing.assert_close(back, picture["samples"], rtol=0, atol=1e-5 * float(picture["samples"].abs().max()))
