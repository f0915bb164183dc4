"""Every sampler and scheduler of the host with the pack's edits, runs in two parts, and inpainting in every node that samples."""

import comfy.samplers
import pytest
import torch

from pack.host.samplers import traits_of
from pack.tests.attributes import train
from pack.tests.campaigns.demo_run import STEPS, Run
from pack.tests.rounding import close
from pack.tests.wiring import node, random

pytestmark = pytest.mark.campaign

SAMPLERS, SCHEDULERS = comfy.samplers.SAMPLER_NAMES, comfy.samplers.SCHEDULER_NAMES
HIDES_X_T = {"sa_solver", "sa_solver_pece", "uni_pc", "uni_pc_bh2", "dpm_fast", "dpm_adaptive"}
TWINS = {
    "euler_ancestral_cfg_pp",
    "dpmpp_2s_ancestral_cfg_pp",
    "dpmpp_sde_gpu",
    "dpmpp_2m_sde_gpu",
    "dpmpp_2m_sde_heun_gpu",
    "dpmpp_3m_sde_gpu",
    "res_multistep_cfg_pp",
    "gradient_estimation_cfg_pp",
    "res_multistep_ancestral_cfg_pp",
    "exp_heun_2_x0_sde",
    "sa_solver_pece",
}
TRIED = {}  # what was found for each sampler


@pytest.fixture(scope="module")
def one(run, demo, tmp_path_factory):
    import folder_paths

    folder_paths.set_temp_directory(str(tmp_path_factory.mktemp("temp")))
    with torch.inference_mode():
        euler = comfy.samplers.sampler_object("euler")
        return Run(run, demo, train(run, demo, euler, sigmas=demo.sigmas(STEPS), percent=0.3, steps=1)[0])


def differ(a, b):
    return float((a - b).abs().max()) > 0.01


def refused(act, words):
    with pytest.raises(ValueError, match=words):
        act()
    return "refused"


def test_the_samplers_that_hide_x_t_are_known_by_the_host_s_functions():
    found = {name for name in SAMPLERS if not traits_of(comfy.samplers.sampler_object(name).sampler_function).exposes_x_t}
    assert found == HIDES_X_T


@pytest.mark.campaign
@pytest.mark.parametrize("name", SAMPLERS)
def test_a_sampler_works_with_each_edit_or_refuses_it_by_name(one, name, rounds, figures):
    """Edit During Sampling has its own table for the well-known ones, so these are left out here but with --long."""
    sigmas, hides = one.sigmas(steps=3), name in HIDES_X_T
    plain, refusal = one.draw(name, sigmas=sigmas), r"sampler: \w+ evaluates the model away from its running latent.* Choose"

    def works(sampler, **inputs):
        picture = one.draw(sampler, sigmas=sigmas, **inputs)
        assert torch.isfinite(picture).all()
        assert differ(picture, plain)
        return "works"

    def followed():
        latent, trajectory = one.run("SampleTrajectory", **one.inputs(name, sigmas=sigmas))
        assert torch.equal(latent["samples"], plain)
        assert len(trajectory.x) == 4
        return "works"

    found = {
        "direction": works(name, model=one.moved()),
        "asymmetric": works(name, model=one.moved(asymmetric=True))
        if name in ("euler", "ddim")
        else refused(lambda: one.draw(name, model=one.moved(asymmetric=True)), r"sampler: the asymmetric form .* Choose euler or ddim"),
        "attribute": refused(lambda: one.attributed(name), refusal) if hides else works(one.attributed(name)),
        "slider": refused(lambda: one.draw(name, model=one.slid(), sigmas=sigmas), "hold_rest: the run with the slider asks")
        if name == "dpm_adaptive"
        else works(name, model=one.slid()),
        "trajectory": refused(followed, r"sampler: it reported \d+ of 3 steps.* choose another, such as euler")
        if name in ("dpm_fast", "dpm_adaptive")
        else followed(),
    }
    if rounds(name in TWINS, True):
        found |= {
            "x0": works(one.edited(name, "x0")),
            "x_t": refused(lambda: one.edited(name, "x_t"), refusal) if hides else works(one.edited(name, "x_t")),
        }
    TRIED[name] = list(found.values())
    figures(
        "samplers",
        f"{len(TRIED)} of the host's {len(SAMPLERS)}: {sum(f.count('works') for f in TRIED.values())} pairs with an edit work, "
        f"{sum(f.count('refused') for f in TRIED.values())} are refused by name",
    )


SEVERAL_EVALUATIONS = [
    "heun",
    "heunpp2",
    "exp_heun_2_x0",
    "exp_heun_2_x0_sde",
    "dpm_2",
    "dpm_2_ancestral",
    "dpmpp_2s_ancestral",
    "dpmpp_sde",
    "seeds_2",
    "seeds_3",
]


@pytest.mark.parametrize("name", SEVERAL_EVALUATIONS)
def test_the_last_step_can_be_edited(one, name):
    last = dict(start_percent=0.9, end_percent=1.0)
    assert differ(one.draw(one.edited(name, "x_t", **last)), one.draw(name))


@pytest.mark.parametrize("name", ["euler", "heun", "dpm_2", "euler_ancestral", "dpmpp_2m_sde", "lcm"])
def test_explored_variants_differ_by_their_edit_alone(one, name):
    """Two triplets, both multiplied by 1, are one picture."""
    first, second = one.explored(name)
    close(first, second)


@pytest.mark.campaign
@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_every_scheduler_works_with_each_edit(one, scheduler, rounds):
    sigmas = one.sigmas(scheduler, 50 if scheduler == "linear_quadratic" else STEPS)  # of fewer steps it has all near its first level
    steps, plain = dict(sigmas=sigmas), one.draw(sigmas=sigmas)
    edits = {
        "direction": lambda: one.draw(model=one.moved(), **steps),
        "asymmetric": lambda: one.draw(model=one.moved(asymmetric=True), **steps),
        "window": lambda: one.draw(model=one.moved(end_percent=0.6, ramp=0.2), **steps),
        "x0": lambda: one.draw(one.edited("euler", "x0"), **steps),
        "x_t": lambda: one.draw(one.edited("euler", "x_t", steps="first in range", end_percent=1.0), **steps),
        "attribute": lambda: one.draw(one.attributed("euler"), **steps),
        "attribute of a target": lambda: one.draw(one.attributed("euler", target="a portrait, blue hair"), **steps),
        "variants": lambda: one.explored(gains="2", **steps)[:1],
    }
    for name in rounds(list(edits)[SCHEDULERS.index(scheduler) % 2 :: 2], edits):
        picture = edits[name]()
        assert torch.isfinite(picture).all(), name
        assert differ(picture, plain), name
    latent, trajectory = one.run("SampleTrajectory", **one.inputs(**steps))
    assert torch.equal(latent["samples"], plain)
    assert list(trajectory.percents) == sorted(trajectory.percents)
    assert trajectory.percents[-1] == 1
    close(one.draw(one.run("DDIMSampler", eta=0.0, boost_percent=1.0)[0], **steps), plain, 3e-5)
    picture = {"samples": 0.4 * torch.nn.functional.interpolate(random(8, 1, 4, 4, 4), 8, mode="bicubic")}
    noise, _, exact, _ = one.run(
        "Invert", model=one.demo.model, positive=one.demo.encode("a portrait"), latent=picture, sigmas=sigmas, refinements=1, tolerance=1e-4
    )
    close(one.draw(exact, noise=noise, latent=picture, cfg=1.0, **steps), picture["samples"], 1e-5)


def in_two(one, sampler, model=None, second=None):
    """A run whose sigmas are split, as two sampler nodes draw it."""
    sigmas = one.sigmas()
    half = one.draw(sampler, model=model, sigmas=sigmas[:3])
    quiet = node("custom_sampler.DisableNoise")
    return one.draw(second or sampler, model=model, sigmas=sigmas[2:], latent={"samples": half}, noise=quiet)


def test_a_run_split_in_two_is_the_whole_run(one):
    """A symmetric direction and an edit of each step; an asymmetric edit is scaled to the run it is in, so it only has to act."""
    close(in_two(one, "euler", one.moved()), one.draw(model=one.moved()))
    close(in_two(one, one.edited("euler", "x0")), one.draw(one.edited("euler", "x0")))
    plain = in_two(one, "euler")
    assert differ(in_two(one, "euler", one.moved(asymmetric=True)), plain)
    assert torch.equal(in_two(one, "euler", one.moved(0.0, asymmetric=True)), plain)
    assert differ(in_two(one, "euler", second=one.edited("heun", "x_t")), plain)
    assert differ(in_two(one, one.attributed("euler"), second="euler"), plain)


def test_a_part_of_a_run_outside_of_a_window_is_drawn_as_it_is(one):
    early, late = one.sigmas()[:2], one.sigmas()[2:]
    plain = one.draw(sigmas=late)
    assert torch.equal(one.draw(model=one.moved(end_percent=0.3), sigmas=late), plain)
    assert torch.equal(one.draw(one.edited("euler", "x_t", end_percent=0.3), sigmas=late), plain)
    assert torch.equal(one.draw(one.attributed("euler"), sigmas=early), one.draw(sigmas=early))


def test_a_window_between_two_steps_is_refused_by_name(one):
    narrow = dict(start_percent=0.45, end_percent=0.46)
    refused(lambda: one.draw(model=one.moved(**narrow)), "start_percent, end_percent: no step of this run")
    refused(lambda: one.draw(one.edited("euler", "x_t", **narrow)), "start_percent, end_percent: no step of this run")
    refused(lambda: one.draw(one.attributed("euler"), sigmas=one.sigmas()[[0, -1]]), "attribute: this run ends before")


@pytest.mark.parametrize("asymmetric", [False, True])
def test_the_stock_samplers_draw_what_the_custom_ones_draw(one, asymmetric):
    model, prompts = one.moved(asymmetric=asymmetric), dict(positive=one.demo.encode("a portrait"), negative=one.demo.encode(""))
    stock = dict(steps=STEPS, cfg=2.0, sampler_name="euler", scheduler="normal", latent_image=one.demo.empty(), **prompts)
    drawn = one.draw(model=model)
    assert torch.equal(node("KSampler", model=model, seed=1, denoise=1.0, **stock)["samples"], drawn)
    settings = dict(noise_seed=1, start_at_step=0, end_at_step=10000, return_with_leftover_noise="disable", add_noise="enable")
    assert torch.equal(node("KSamplerAdvanced", model=model, **settings, **stock)["samples"], drawn)
    if not asymmetric:
        first = node("KSamplerAdvanced", model=model, **{**settings, "end_at_step": 2, "return_with_leftover_noise": "enable"}, **stock)
        close(
            node(
                "KSamplerAdvanced",
                model=model,
                **{**settings, "start_at_step": 2, "add_noise": "disable"},
                **{**stock, "latent_image": first},
            )["samples"],
            drawn,
        )


def exact(one, given):
    """The way back to an inverted picture, under a noise mask."""
    noise, _, sampler, _ = one.run(
        "Invert",
        model=one.demo.model,
        positive=one.demo.encode("a portrait"),
        latent=given,
        sigmas=one.sigmas(),
        refinements=2,
        tolerance=1e-4,
    )
    return one.draw(sampler, model=one.moved(), noise=noise, latent=given, cfg=1.0)


INPAINTING = {
    "direction": lambda one, given: one.draw(model=one.moved(), latent=given),
    "asymmetric direction": lambda one, given: one.draw(model=one.moved(asymmetric=True), latent=given),
    "x0": lambda one, given: one.draw(one.edited("euler", "x0"), latent=given),
    "x_t": lambda one, given: one.draw(one.edited("dpmpp_2m", "x_t"), latent=given),
    "stored attribute": lambda one, given: one.draw(one.attributed("heun"), latent=given),
    "attribute of a target": lambda one, given: one.draw(one.attributed("euler", target="a portrait, blue hair"), latent=given),
    "DDIM Sampler": lambda one, given: one.draw(one.run("DDIMSampler", eta=1.0, boost_percent=0.5)[0], latent=given),
    "Sample Trajectory": lambda one, given: one.run("SampleTrajectory", **one.inputs(latent=given))[0]["samples"],
    "Explore Singular Vectors": lambda one, given: one.explored(gains="0, 2", latent=given),
    "Invert's noise": lambda one, given: one.draw(
        model=one.moved(),
        noise=one.run(
            "Invert",
            model=one.demo.model,
            positive=one.demo.encode("a portrait"),
            latent=given,
            sigmas=one.sigmas(),
            refinements=2,
            tolerance=1e-4,
        )[0],
        latent=given,
    ),
    "Invert's exact sampler": exact,
}


@pytest.mark.parametrize("way", INPAINTING)
def test_inpainting_keeps_what_lies_outside_the_noise_mask(one, way):
    mask = torch.zeros(1, 8, 8)
    mask[..., :4] = 1
    picture = 0.4 * torch.nn.functional.interpolate(random(8, 1, 4, 4, 4), 8, mode="bicubic")
    given = node("SetLatentNoiseMask", samples={"samples": picture}, mask=mask)
    drawn = INPAINTING[way](one, given)
    close(drawn[..., 4:], picture[..., 4:].expand_as(drawn[..., 4:]), 1e-5)
    assert differ(drawn[..., :4], picture[..., :4].expand_as(drawn[..., :4]))
