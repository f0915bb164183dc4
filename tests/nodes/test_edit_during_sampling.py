"""EditDuringSampling inside the host's own samplers, on the demo model at a small size."""

import functools

import pytest
import torch

FIRST_ORDER_AND_MULTISTEP = [
    "euler",
    "ddim",
    "euler_ancestral",
    "euler_cfg_pp",
    "lms",
    "dpmpp_2m",
    "dpmpp_2m_cfg_pp",
    "dpmpp_2m_sde",
    "dpmpp_2m_sde_heun",
    "dpmpp_3m_sde",
    "ddpm",
    "lcm",
    "ipndm",
    "ipndm_v",
    "deis",
    "res_multistep",
    "res_multistep_ancestral",
    "gradient_estimation",
    "er_sde",
]
SINGLE_STEP = ["heun", "heunpp2", "exp_heun_2_x0", "dpm_2", "dpm_2_ancestral", "dpmpp_2s_ancestral", "dpmpp_sde", "seeds_2", "seeds_3"]
NOT_STEERABLE = ["sa_solver", "uni_pc", "uni_pc_bh2", "dpm_fast", "dpm_adaptive"]


def brighter(latent, **context):
    return latent * 1.2


def identity(latent, **context):
    return latent.clone()


def edit(run, sampler, operation=brighter, target="x0", steps="all in range", start_percent=0.2, end_percent=0.8, mask=None):
    return run(
        "EditDuringSampling",
        sampler=sampler,
        operation=operation,
        target=target,
        steps=steps,
        start_percent=start_percent,
        end_percent=end_percent,
        mask=mask,
    )[0]


@pytest.fixture(scope="module")
def unedited(demo):
    """The latent that a stock sampler draws, by its name; each is drawn once."""
    import comfy.samplers

    return functools.cache(lambda name: demo.sample(comfy.samplers.sampler_object(name)))


@pytest.mark.parametrize("target", ["x0", "x_t"])
@pytest.mark.parametrize("name", FIRST_ORDER_AND_MULTISTEP + SINGLE_STEP)
def test_identity_changes_no_bit_and_an_edit_changes_the_picture(run, demo, sampler_of, unedited, name, target):
    assert torch.equal(demo.sample(edit(run, sampler_of(name), identity, target)), unedited(name))
    edited = demo.sample(edit(run, sampler_of(name), brighter, target))
    assert torch.isfinite(edited).all()
    assert (edited - unedited(name)).abs().max() > 1e-2


@pytest.mark.parametrize("name", NOT_STEERABLE)
def test_samplers_that_hide_their_latent_are_refused_on_x_t_and_work_on_x0(run, demo, sampler_of, unedited, name):
    with pytest.raises(ValueError, match="Choose target x0"):
        edit(run, sampler_of(name), target="x_t")
    edited = demo.sample(edit(run, sampler_of(name)))
    assert torch.isfinite(edited).all()
    assert not torch.allclose(edited, unedited(name), atol=1e-2)


def test_every_sampler_of_the_host_is_known_here():
    import comfy.samplers

    untested_twins = {
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
    assert set(comfy.samplers.SAMPLER_NAMES) <= {*FIRST_ORDER_AND_MULTISTEP, *SINGLE_STEP, *NOT_STEERABLE, *untested_twins}


def test_one_edited_step_of_euler_is_two_runs_with_the_edit_between(run, demo, sampler_of):
    """x_t edited at the third step equals stopping there, editing, and going on without new noise."""
    from comfy_extras.nodes_custom_sampler import SamplerCustom

    euler = sampler_of("euler")
    sigmas = demo.sigmas(6)
    conditioning = demo.encode("a portrait, red hair"), demo.encode("")
    first = SamplerCustom.execute(demo.model, True, 1, 2.0, *conditioning, euler, sigmas[:3], demo.empty()).args[0]
    between = brighter(demo.model.model.process_latent_in(first["samples"]))
    between = {"samples": demo.model.model.process_latent_out(between)}
    by_hand = SamplerCustom.execute(demo.model, False, 1, 2.0, *conditioning, euler, sigmas[2:], between).args[0]["samples"]

    levels = demo.model.get_model_object("model_sampling")
    percent = 1 - levels.timestep(sigmas[2]).item() / 999
    wrapped = demo.sample(edit(run, euler, target="x_t", steps="first in range", start_percent=percent - 0.01, end_percent=1.0))
    torch.testing.assert_close(wrapped, by_hand, rtol=1e-4, atol=1e-4)


def test_mask_of_zeros_is_off_and_of_ones_is_no_mask(run, demo, sampler_of, unedited):
    unmasked = demo.sample(edit(run, sampler_of("dpmpp_2m")))
    off = demo.sample(edit(run, sampler_of("dpmpp_2m"), mask=torch.zeros(1, 40, 40)))
    on = demo.sample(edit(run, sampler_of("dpmpp_2m"), mask=torch.ones(1, 40, 40)))
    assert torch.equal(off, unedited("dpmpp_2m"))
    assert torch.equal(on, unmasked)


def test_mask_keeps_the_edit_inside(run, demo, sampler_of, unedited):
    mask = torch.zeros(1, 8, 8)
    mask[:, :, 4:] = 1
    at_the_end = dict(start_percent=0.9, end_percent=1.0)
    edited = demo.sample(edit(run, sampler_of("euler"), mask=mask, **at_the_end))
    change = (edited - unedited("euler")).abs().mean((0, 1, 2))
    assert change[4:].mean() > 20 * change[:4].mean()


def test_inpainting_keeps_what_the_noise_mask_protects(run, demo, sampler_of):
    keep = torch.randn(1, 4, 8, 8) * 0.3
    noise_mask = torch.zeros(1, 1, 8, 8)
    noise_mask[..., :4] = 1
    latent = {"samples": keep, "noise_mask": noise_mask}
    edited = demo.sample(edit(run, sampler_of("euler"), end_percent=1.0), latent=latent)
    plain = demo.sample(sampler_of("euler"), latent=latent)
    torch.testing.assert_close(edited[..., 4:], plain[..., 4:], rtol=1e-5, atol=1e-5)
    assert not torch.allclose(edited[..., :4], plain[..., :4], atol=1e-2)


def test_a_batch_equals_its_singles(run, demo, sampler_of):
    (operation,) = run(
        "SpectrumOperation",
        mode="gain",
        first=1,
        last=2,
        gain=1.5,
        exponent=1.0,
        threshold=1.0,
        keep_energy=True,
        strength=1.0,
        layout="channel",
    )
    sampler = edit(run, sampler_of("dpmpp_2m"), operation, "x_t")
    together = demo.sample(sampler, latent={"samples": torch.zeros(2, 4, 8, 8), "batch_index": [0, 1]})
    alone = [demo.sample(sampler, latent={"samples": torch.zeros(1, 4, 8, 8), "batch_index": [i]}) for i in (0, 1)]
    torch.testing.assert_close(together, torch.cat(alone), rtol=1e-3, atol=1e-3)


def test_the_second_run_equals_the_first_and_the_plain_sampler_is_untouched(run, demo, sampler_of):
    sampler = sampler_of("dpmpp_2m_sde")
    plain = demo.sample(sampler)
    wrapped = edit(run, sampler, target="x_t")
    assert torch.equal(demo.sample(wrapped), demo.sample(wrapped))
    assert torch.equal(demo.sample(sampler), plain)


def test_chained_edits_both_act(run, demo, sampler_of):
    euler = sampler_of("euler")
    once = demo.sample(edit(run, euler, target="x_t"))
    twice = demo.sample(edit(run, edit(run, euler, target="x_t"), target="x_t"))
    undone = demo.sample(edit(run, edit(run, euler, target="x_t"), lambda latent, **_: latent / 1.2, target="x_t"))
    assert (twice - once).abs().max() > 1e-2
    torch.testing.assert_close(undone, demo.sample(euler), rtol=1e-3, atol=1e-3)


def test_progress_and_previews_go_on(run, demo, sampler_of):
    import comfy.samplers

    seen = []
    sigmas = comfy.samplers.calculate_sigmas(demo.model.get_model_object("model_sampling"), "normal", 5)
    guider = comfy.samplers.CFGGuider(demo.model)
    guider.set_conds(demo.encode("a portrait"), demo.encode(""))
    guider.sample(
        torch.randn(1, 4, 8, 8),
        torch.zeros(1, 4, 8, 8),
        edit(run, sampler_of("dpmpp_2m"), target="x_t"),
        sigmas,
        callback=lambda step, x0, x, total: seen.append((step, x0.shape, total)),
        disable_pbar=True,
    )
    assert seen == [(i, (1, 4, 8, 8), 5) for i in range(5)]


@pytest.mark.parametrize("name, target", [("euler", "x0"), *((name, "x_t") for name in ["euler", "dpmpp_2m", *SINGLE_STEP])])
def test_the_range_is_the_hosts_percent_range_and_each_step_is_edited_once(run, demo, sampler_of, name, target):
    """The edited steps are those whose sigma lies between the two percents' sigmas."""
    import comfy.samplers

    levels, seen = demo.model.get_model_object("model_sampling"), []

    def spy(latent, **context):
        seen.append(latent.std().item())
        return latent

    demo.sample(edit(run, sampler_of(name), spy, target, start_percent=0.25, end_percent=0.75), steps=8)
    sigmas = comfy.samplers.calculate_sigmas(levels, "normal", 8)[:-1]
    inside = sigmas[(sigmas <= levels.percent_to_sigma(0.25)) & (sigmas >= levels.percent_to_sigma(0.75))].tolist()
    assert len(seen) == len(inside) > 0
    if target == "x_t":  # a latent at its step's own noise level, not one evaluated on the way
        assert all(0.6 * sigma < std < 1.5 * (sigma**2 + 1) ** 0.5 for sigma, std in zip(inside, seen))


def test_a_range_without_a_step_is_refused(run, demo, sampler_of):
    with pytest.raises(ValueError, match="no step of this run"):
        demo.sample(edit(run, sampler_of("euler"), start_percent=0.55, end_percent=0.56), steps=3)


def test_a_reversed_range_is_refused(run, sampler_of):
    with pytest.raises(ValueError, match="after end_percent"):
        edit(run, sampler_of("euler"), start_percent=0.8, end_percent=0.2)


def test_a_mask_of_another_batch_is_refused(run, demo, sampler_of):
    with pytest.raises(ValueError, match="mask: got a batch of 3"):
        demo.sample(edit(run, sampler_of("euler"), mask=torch.ones(3, 8, 8)), latent=demo.empty(2))


@pytest.mark.parametrize(
    "operation, words",
    [
        (lambda latent, **_: latent * float("nan"), "NaN or Inf"),
        (lambda latent, **_: latent[..., :4], "shape must stay"),
    ],
)
def test_a_broken_operation_is_refused(run, demo, sampler_of, operation, words):
    with pytest.raises(ValueError, match=words):
        demo.sample(edit(run, sampler_of("euler"), operation))


def test_a_foreign_sampler_is_refused(run):
    with pytest.raises(ValueError, match="KSamplerSelect"):
        edit(run, object())


def test_a_sampler_that_never_meets_its_steps_is_refused(run, demo):
    """A third-party sampler that goes its own way must not silently skip the edit."""
    from comfy.samplers import KSAMPLER

    def own_way(model, x, sigmas, extra_args=None, callback=None, disable=None):
        return model(x, sigmas[0] * x.new_ones(len(x)) * 0.9, **extra_args)

    with pytest.raises(ValueError, match="does not evaluate the model once at each step"):
        demo.sample(edit(run, KSAMPLER(own_way), target="x_t"))


def test_cancel_is_heard_at_the_next_step(run, demo, sampler_of):
    import comfy.model_management

    seen = []

    def cancelled(latent, **context):
        seen.append(1)
        comfy.model_management.interrupt_current_processing(True)
        return latent * 1.1

    with pytest.raises(comfy.model_management.InterruptProcessingException):
        demo.sample(edit(run, sampler_of("euler"), cancelled))
    assert len(seen) == 1
    assert torch.isfinite(demo.sample(edit(run, sampler_of("euler")))).all()


@pytest.mark.parametrize("shape", [(1, 16, 8, 12), (1, 16, 3, 8, 12)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_other_families_shapes_and_dtypes(run, sampler_of, shape, dtype):
    """Sixteen channels, video, half precision: a stand-in denoiser behind the host's own euler."""
    from comfy.samplers import KSAMPLER

    class Levels:
        def percent_to_sigma(self, percent):
            return 10.0 * (1 - percent)

    class Model:
        inner_model = type("Guider", (), {"model_patcher": type("Patcher", (), {"get_model_object": lambda self, name: Levels()})()})()

        def __call__(self, x, sigma, **options):
            return x / (1 + sigma.view(-1, *[1] * (x.ndim - 1)) ** 2).to(x.dtype)

    (operation,) = run(
        "SpectrumOperation",
        mode="gain",
        first=1,
        last=2,
        gain=1.5,
        exponent=1.0,
        threshold=1.0,
        keep_energy=False,
        strength=1.0,
        layout="channel",
    )
    euler = KSAMPLER(sampler_of("euler").sampler_function)
    x, sigmas = torch.randn(shape).to(dtype), torch.tensor([8.0, 4.0, 2.0, 1.0, 0.0])
    mask = torch.zeros(1, 8, 12)
    mask[..., 6:] = 1
    for target in ("x0", "x_t"):

        def sample(sampler):
            return sampler.sampler_function(Model(), x, sigmas, extra_args={}, disable=True)

        plain, edited = sample(euler), sample(edit(run, euler, operation, target, mask=mask, start_percent=0.0, end_percent=1.0))
        assert edited.dtype == plain.dtype
        assert edited.shape == x.shape
        assert torch.equal(edited[..., :6], plain[..., :6])
        assert (edited[..., 6:] - plain[..., 6:]).abs().max() > 0.05
