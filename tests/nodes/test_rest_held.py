"""Make Slider with hold_rest: outside of the mask or the focus the latents are those of the run without the slider, bit for bit."""

import pytest
import torch

from pack.tests.wiring import node

pytestmark = pytest.mark.usefixtures("inference")
SAMPLERS = ("euler", "euler_ancestral", "heun", "dpmpp_2s_ancestral", "dpmpp_sde", "dpmpp_2m_sde", "lms", "uni_pc", "ddim", "lcm", "er_sde")
BOTH = ("demo", "Flux")


@pytest.fixture
def world(request, demo, shaped):
    return demo if request.param == "demo" else shaped(request.param)


def slid(run, world, strength=1.0, *, model=None, wanted="a portrait, blue hair", **changes):
    settings = dict(start_percent=0.0, end_percent=1.0, focus=0.0, hold_rest=True)
    words = dict(without="a portrait", wanted=wanted)
    return run("MakeSlider", model=model or world.model, clip=world.clip, strength=strength, **{**words, **settings, **changes})[0]


def left(world, batch=1):
    """A mask that is white in the left half."""
    height, width = world.empty()["samples"].shape[-2:]
    mask = torch.zeros(batch, height, width)
    mask[..., : width // 2] = 1
    return mask


def halves(latent):
    """The left and the right half."""
    return latent.chunk(2, -1)


class Calls:
    """Counts a model's calls."""

    def __init__(self, model):
        from comfy.patcher_extension import WrappersMP

        self.count, self.model = 0, model.clone()
        self.model.add_wrapper_with_key(WrappersMP.PREDICT_NOISE, "calls", self)

    def __call__(self, executor, *args, **kwargs):
        self.count += 1
        return executor(*args, **kwargs)


@pytest.mark.parametrize("world", BOTH, indirect=True)
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_outside_of_the_mask_every_bit_stays(world, run, sampler_of, sampler):
    base = world.sample(sampler_of(sampler), steps=4)
    inside, outside = halves(world.sample(sampler_of(sampler), steps=4, model=slid(run, world, mask=left(world))))
    assert torch.equal(outside, halves(base)[1])
    assert not torch.equal(inside, halves(base)[0])
    free = halves(world.sample(sampler_of(sampler), steps=4, model=slid(run, world, mask=left(world), hold_rest=False)))[1]
    assert not torch.equal(free, halves(base)[1])


@pytest.mark.parametrize("world", ["demo", "SD15", "SDXL", "SD3", "Flux", "WAN21_T2V"], indirect=True)
def test_inside_of_the_mask_it_is_the_slider(world, run, sampler_of):
    """Under a mask of ones it is the slider without one."""
    ones = torch.ones_like(left(world))
    found = world.sample(sampler_of("euler"), steps=3, model=slid(run, world, mask=ones))
    expected = world.sample(sampler_of("euler"), steps=3, model=slid(run, world))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4 * float(expected.abs().max()))


def test_outside_of_the_focus_every_bit_stays(demo, run, sampler_of):
    latent = demo.empty(size=32)
    base = demo.sample(sampler_of("euler"), steps=6, latent=latent, prompt="a portrait")
    model = slid(run, demo, wanted="a portrait, sunglasses", start_percent=0.1, focus=0.6)
    found = demo.sample(sampler_of("euler"), steps=6, latent=latent, prompt="a portrait", model=model)
    same = (found == base).all(1)[0]
    assert 0.3 < float(same.float().mean()) < 1
    again = demo.sample(sampler_of("euler"), steps=6, latent=latent, prompt="a portrait", model=model)
    assert torch.equal(found, again)


def test_each_picture_of_a_batch_has_its_own_rest(demo, run, sampler_of):
    latent = demo.empty(batch=2)
    masks = torch.cat([left(demo), 1 - left(demo)])
    base = demo.sample(sampler_of("euler"), latent=latent)
    found = demo.sample(sampler_of("euler"), latent=latent, model=slid(run, demo, mask=masks))
    assert torch.equal(halves(found[0])[1], halves(base[0])[1])
    assert torch.equal(halves(found[1])[0], halves(base[1])[0])
    assert not torch.equal(halves(found[0])[0], halves(base[0])[0])
    assert not torch.equal(halves(found[1])[1], halves(base[1])[1])


def test_two_sliders_hold_what_neither_edits(demo, run, sampler_of):
    quarter = left(demo)
    quarter[:, : quarter.shape[1] // 2] = 0
    base = demo.sample(sampler_of("euler"))
    first = slid(run, demo, mask=quarter)
    both = demo.sample(sampler_of("euler"), model=slid(run, demo, model=first, wanted="a portrait, sunglasses", mask=left(demo)))
    assert torch.equal(halves(both)[1], halves(base)[1])
    alone = demo.sample(sampler_of("euler"), model=first)
    height = base.shape[-2] // 2
    assert torch.equal(halves(alone)[0][..., :height, :], halves(base)[0][..., :height, :])
    assert not torch.equal(halves(both)[0][..., :height, :], halves(base)[0][..., :height, :])


@pytest.mark.parametrize("beside", [dict(hold_rest=False), dict(place="cross-attention")])
def test_beside_a_slider_that_edits_everything_nothing_is_held(demo, run, sampler_of, beside):
    free = slid(run, demo, wanted="a portrait, sunglasses", **beside)
    base, alone = (halves(demo.sample(sampler_of("euler"), model=model))[1] for model in (demo.model, free))
    both = halves(demo.sample(sampler_of("euler"), model=slid(run, demo, model=free, mask=left(demo))))[1]
    assert not torch.equal(both, base)
    assert float((both - alone).abs().mean()) < float((both - base).abs().mean())


def test_an_edit_of_another_kind_is_in_both_runs(demo, run, sampler_of, attribute):
    other = run("ApplyAttributeToModel", model=demo.model, attribute=attribute, strength=1.0)[0]
    base = demo.sample(sampler_of("euler"), model=other)
    assert not torch.equal(base, demo.sample(sampler_of("euler")))
    found = demo.sample(sampler_of("euler"), model=slid(run, demo, model=other, mask=left(demo)))
    assert torch.equal(halves(found)[1], halves(base)[1])
    assert not torch.equal(halves(found)[0], halves(base)[0])


def test_with_an_inpainting_mask(demo, run, sampler_of):
    latent = {"samples": torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(3)), "noise_mask": torch.ones(1, 64, 64)}
    latent["noise_mask"][:, :32] = 0
    base = demo.sample(sampler_of("euler"), latent=latent)
    found = demo.sample(sampler_of("euler"), latent=latent, model=slid(run, demo, mask=left(demo)))
    assert torch.equal(halves(found)[1], halves(base)[1])
    assert not torch.equal(halves(found)[0], halves(base)[0])


def test_it_costs_a_run_more_where_there_is_a_rest(demo, run, sampler_of):
    counts = {}
    for name, changes in {
        "held": dict(mask=left(demo)),
        "focus": dict(focus=0.5),
        "off": dict(mask=left(demo), hold_rest=False),
        "no rest": {},
        "cross-attention": dict(place="cross-attention", mask=left(demo)),
        "off at 0": dict(strength=0.0, mask=left(demo)),
    }.items():
        calls = Calls(slid(run, demo, **changes))
        demo.sample(sampler_of("euler"), steps=4, model=calls.model)
        counts[name] = calls.count
    assert counts == {"held": 8, "focus": 8, "off": 4, "no rest": 4, "cross-attention": 4, "off at 0": 4}


def test_a_part_of_a_run_outside_of_the_window_is_made_once(demo, run):
    """As the first of two samplers of an advanced workflow."""
    model = slid(run, demo, start_percent=0.6, mask=left(demo))
    settings = dict(add_noise="enable", noise_seed=1, steps=6, cfg=2.0, sampler_name="euler", scheduler="normal", latent_image=demo.empty())
    prompts = dict(positive=demo.encode("a portrait"), negative=demo.encode(""))
    calls, plain = Calls(model), Calls(demo.model)
    part = dict(start_at_step=0, end_at_step=3, return_with_leftover_noise="enable", **settings, **prompts)
    found, expected = (node("KSamplerAdvanced", model=each.model, **part)["samples"] for each in (calls, plain))
    assert torch.equal(found, expected)
    assert calls.count == plain.count == 3


def test_a_sampler_that_chooses_its_steps_is_refused_before_the_run(demo, run, sampler_of):
    calls = Calls(slid(run, demo, mask=left(demo)))
    with pytest.raises(ValueError, match="hold_rest: the run with the slider asks the model at other steps.*turn hold_rest off"):
        demo.sample(sampler_of("dpm_adaptive"), model=calls.model)
    assert calls.count == 0
    demo.sample(sampler_of("dpm_adaptive"), model=slid(run, demo, mask=left(demo), hold_rest=False))


@pytest.mark.parametrize("wrong", ["step more", "other step"])
def test_a_sampler_that_does_otherwise_the_second_time_is_refused(demo, run, wrong):
    from comfy.k_diffusion.sampling import sample_euler
    from comfy.samplers import KSAMPLER

    runs = []

    def moody(model, x, sigmas, **options):
        runs.append(0)
        if len(runs) == 2:
            sigmas = torch.cat([sigmas, sigmas[-1:]]) if wrong == "other step" else sigmas
            sigmas = sigmas.clone()
            sigmas[1] = sigmas[1] * 0.9 if wrong == "other step" else sigmas[1]
            if wrong == "step more":
                sigmas = torch.cat([sigmas[:1], sigmas])
        return sample_euler(model, x, sigmas, **options)

    with pytest.raises(ValueError, match="hold_rest: the run with the slider asks the model at other steps"):
        demo.sample(KSAMPLER(moody), model=slid(run, demo, mask=left(demo)))


def test_random_numbers_of_the_process_are_those_of_one_run(demo, run):
    """Samplers that take them find the same in both runs, and so does what comes after."""
    from comfy.k_diffusion.sampling import sample_euler
    from comfy.samplers import KSAMPLER

    drawn = []

    def restless(model, x, sigmas, **options):
        drawn.append(torch.rand(1).item())
        return sample_euler(model, x + 0.1 * torch.randn(x.shape), sigmas, **options)

    base = demo.sample(KSAMPLER(restless))
    after = torch.rand(1)
    found = demo.sample(KSAMPLER(restless), model=slid(run, demo, mask=left(demo)))
    assert torch.equal(after, torch.rand(1))
    assert len(set(drawn)) == 1
    assert torch.equal(halves(found)[1], halves(base)[1])


def test_the_host_s_progress_goes_over_both_runs_and_others_see_the_second(demo, run):
    import latent_preview

    from pack.host.unedited import half_of_steps

    told = []

    def callback(step, denoised, x, steps):
        told.append((step, steps))

    for second in (False, True):
        for step in range(3):
            half_of_steps(callback, second)(step, None, None, 3)
    assert told == [(0, 3), (1, 3), (2, 3)]
    told.clear()
    callback.__module__ = latent_preview.__name__
    for second in (False, True):
        for step in range(3):
            half_of_steps(callback, second)(step, None, None, 3)
    assert told == [(0, 3), (0, 3), (1, 3), (1, 3), (2, 3), (2, 3)]


class Stopped(Calls):
    """Cancels at a call."""

    def __init__(self, model, at):
        super().__init__(model)
        self.at = at

    def __call__(self, executor, *args, **kwargs):
        import comfy.model_management

        if self.count == self.at:
            comfy.model_management.interrupt_current_processing()
        return super().__call__(executor, *args, **kwargs)


@pytest.mark.parametrize("at", [1, 6])
def test_cancel_works_in_both_runs(demo, run, sampler_of, at):
    import comfy.model_management

    model = slid(run, demo, mask=left(demo))
    expected, stopped = demo.sample(sampler_of("euler"), steps=4, model=model), Stopped(model, at)
    with pytest.raises(comfy.model_management.InterruptProcessingException):
        demo.sample(sampler_of("euler"), steps=4, model=stopped.model)
    assert stopped.count == at + 1
    comfy.model_management.interrupt_current_processing(False)
    assert torch.equal(demo.sample(sampler_of("euler"), steps=4, model=model), expected)


def test_what_learns_from_a_model_takes_its_slider_without_holding_the_rest(demo, run, sampler_of):
    """Its runs are made once."""
    prompts = dict(source=demo.encode("a portrait"), target=demo.encode("a portrait, hat"), negative=demo.encode(""))
    rest = dict(latent=demo.empty(), images=2, batch_size=2, steps=3, cfg=2.0, seed=0)
    found = []
    for hold in (True, False):
        calls = Calls(slid(run, demo, focus=0.5, hold_rest=hold))
        direction = run("DirectionFromPrompts", model=calls.model, **prompts, **rest)[0]
        found.append((calls.count, direction.shifts))
    assert found[0][0] == found[1][0] == 3
    assert torch.equal(found[0][1], found[1][1])


def test_a_run_can_be_followed_under_a_held_slider(demo, run, sampler_of):
    model = slid(run, demo, mask=left(demo))
    latent, trajectory = run("SampleTrajectory", **demo.wired(sampler_of("euler"), steps=4, model=model))
    assert len(trajectory.x) == 5
    expected = node("custom_sampler.SamplerCustomAdvanced", **demo.wired(sampler_of("euler"), steps=4, model=model))["samples"]
    assert torch.equal(latent["samples"], expected)


@pytest.mark.parametrize("changes", [dict(masked=True), dict(focus=0.5)])
def test_under_context_windows_each_window_has_its_own_rest(shaped, run, sampler_of, changes):
    world, masked = shaped("WAN21_T2V"), changes.pop("masked", False)
    latent = {"samples": torch.zeros(1, 16, 6, *world.empty()["samples"].shape[-2:])}
    model = slid(run, world, mask=left(world) if masked else None, **changes)
    base = world.sample(sampler_of("euler"), steps=3, latent=latent, model=windowed(world.model))
    first, second = (world.sample(sampler_of("euler"), steps=3, latent=latent, model=windowed(model)) for _ in range(2))
    assert torch.equal(first, second)
    assert not torch.equal(first, base)
    if masked:
        assert torch.equal(halves(first)[1], halves(base)[1])


def windowed(model):
    """The model under windows of 4 of the 6 frames."""
    settings = dict(context_length=4, context_overlap=2, context_schedule="standard_static", context_stride=1, closed_loop=False)
    return node("context_windows.ContextWindowsManualNode", model=model, fuse_method="pyramid", dim=2, freenoise=False, **settings)
