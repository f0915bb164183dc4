"""Edits inside samplers as other packs build them: stand-ins for what those do with the model that they are given."""

import comfy.k_diffusion.sampling as k
import pytest
import torch
from comfy.samplers import KSAMPLER

from pack.tests.nodes.test_attributes import SOURCE, TARGET, applied, train
from pack.tests.nodes.wiring import node


def by_name(model, x, sigmas, extra_args=None, callback=None, disable=None):
    """Tells the host's denoiser from a bare one by an attribute that the host's has not."""
    held = getattr(model, "model", None)
    (model.inner_model.inner_model if held is None else held).model_sampling  # noqa: B018
    return k.sample_euler(model, x, sigmas, extra_args=extra_args, callback=callback, disable=disable)


def hidden_heun(model, x, sigmas, **options):
    return k.sample_heun(model, x, sigmas, **options)


def of_a_copy(model, x, sigmas, **options):
    """Evaluates a copy of its running latent."""

    def copied(x, sigma, **extra):
        return model(x.clone(), sigma, **extra)

    copied.inner_model = model.inner_model
    return k.sample_euler(copied, x, sigmas, **options)


def silent(model, x, sigmas, extra_args=None, callback=None, disable=None):
    """Reports no step."""
    return k.sample_euler(model, x, sigmas, extra_args=extra_args, callback=None, disable=disable)


def around(inner, *, named=("inner_model", "sigmas")):
    """A SAMPLER that puts a plain function in the model's place, with some of its attributes."""

    def sampler(model, x, sigmas, **options):
        def function(x, sigma, **extra):
            return model(x, sigma, **extra)

        for name in named:
            setattr(function, name, getattr(model, name))
        return inner.sampler_function(function, x, sigmas, **options, **inner.extra_options)

    return KSAMPLER(sampler)


def brighter(latent, **options):
    return latent + 0.5


def edit(run, sampler, target):
    return run(
        "EditDuringSampling", sampler=sampler, operation=brighter, target=target, steps="all in range", start_percent=0.2, end_percent=0.8
    )[0]


@pytest.fixture(scope="module")
def attribute(demo, pack_nodes):
    import comfy.samplers

    run = lambda name, **inputs: pack_nodes[f"SemanticLatents_{name}"].execute(**inputs).args
    with torch.inference_mode():
        return train(run, demo, comfy.samplers.sampler_object("euler"))[0]


def draw(demo, sampler):
    return demo.sample(sampler, prompt=SOURCE)


@pytest.mark.parametrize("target", ["x0", "x_t"])
def test_a_sampler_that_looks_for_names_draws_as_the_host_s(demo, run, sampler_of, target):
    assert torch.equal(draw(demo, edit(run, KSAMPLER(by_name), target)), draw(demo, edit(run, sampler_of("euler"), target)))


@pytest.mark.parametrize("prompted", [False, True])
def test_an_attribute_acts_alike_inside_and_outside_of_such_samplers(demo, run, sampler_of, attribute, prompted):
    target = demo.encode(TARGET) if prompted else None
    alone = draw(demo, applied(run, sampler_of("euler"), attribute, target=target))
    assert not torch.equal(alone, draw(demo, sampler_of("euler")))
    assert torch.equal(draw(demo, around(applied(run, sampler_of("euler"), attribute, target=target))), alone)
    assert torch.equal(draw(demo, applied(run, around(sampler_of("euler")), attribute, target=target)), alone)
    assert torch.equal(draw(demo, applied(run, KSAMPLER(by_name), attribute, target=target)), alone)


def test_two_edits_around_a_wrapper_act_as_without_it(demo, run, sampler_of, attribute):
    target, euler = demo.encode(TARGET), sampler_of("euler")
    chained = edit(run, applied(run, euler, attribute, target=target), "x0")
    assert torch.equal(draw(demo, edit(run, around(applied(run, euler, attribute, target=target)), "x0")), draw(demo, chained))


def other_levels(model, x, sigmas, **options):
    """Asks the model about less noise than there is, which brings out detail."""

    def lowered(x, sigma, **extra):
        return model(x, 0.9 * sigma, **extra)

    lowered.inner_model = model.inner_model
    return k.sample_euler(lowered, x, sigmas, **options)


def test_a_wrapper_that_changes_levels_is_edited_at_its_steps(demo, run, attribute):
    plain, target = draw(demo, KSAMPLER(other_levels)), demo.encode(TARGET)
    for sampler in (
        edit(run, KSAMPLER(other_levels), "x_t"),
        edit(run, KSAMPLER(other_levels), "x0"),
        applied(run, KSAMPLER(other_levels), attribute),
        applied(run, KSAMPLER(other_levels), attribute, target=target),
    ):
        edited = draw(demo, sampler)
        assert (edited - plain).square().mean().sqrt() > 0.01 * plain.std()
        assert torch.equal(draw(demo, sampler), edited)


@pytest.mark.parametrize("function", [hidden_heun, of_a_copy, silent])
def test_what_cannot_be_edited_on_x_t_is_refused_by_name(demo, run, attribute, function):
    """Its name tells nothing, and its levels fit the schedule: without the look at what it reports, another latent would be edited."""
    for sampler in (edit(run, KSAMPLER(function), "x_t"), applied(run, KSAMPLER(function), attribute)):
        with pytest.raises(ValueError, match="^sampler: it does not evaluate"):
            draw(demo, sampler)
    assert not torch.equal(draw(demo, edit(run, KSAMPLER(function), "x0")), draw(demo, KSAMPLER(function)))


def test_a_wrapper_that_hides_the_guider_is_refused_by_name(demo, run, sampler_of, attribute):
    for inner in (
        edit(run, sampler_of("euler"), "x0"),
        applied(run, sampler_of("euler"), attribute),
        run("DDIMSampler", eta=0.5, boost_percent=1.0)[0],
    ):
        with pytest.raises(ValueError, match="^sampler: a sampler around this one"):
            draw(demo, around(inner, named=()))


def test_a_wrapper_that_draws_with_another_guider_is_refused_by_name(demo, run, sampler_of, attribute):
    import copy

    inner = applied(run, sampler_of("euler"), attribute, target=demo.encode(TARGET))

    def other(model, x, sigmas, **options):
        twin = copy.copy(model)
        twin.inner_model = copy.copy(model.inner_model)

        def function(x, sigma, **extra):
            return twin(x, sigma, **extra)

        function.inner_model = model.inner_model
        return inner.sampler_function(function, x, sigmas, **options)

    with pytest.raises(ValueError, match="^sampler: .*another guider"):
        draw(demo, KSAMPLER(other))


def test_the_guider_has_its_own_prompts_back_after_a_run_that_fails(demo, run, attribute):
    """The target's prompts stand in the guider only while it is called."""
    held = []

    def breaks(model, x, sigmas, extra_args=None, callback=None, disable=None):
        held.append(model.inner_model.conds)
        return k.sample_euler(model, x, sigmas, extra_args=extra_args, callback=callback, disable=disable)

    plain = draw(demo, KSAMPLER(k.sample_euler))
    draw(demo, applied(run, KSAMPLER(breaks), attribute, target=demo.encode(TARGET)))
    assert len(held) == 2
    assert held[0] is held[1]
    assert torch.equal(draw(demo, KSAMPLER(k.sample_euler)), plain)


def test_a_pack_s_own_kind_of_ksampler_stays_one(demo, run, attribute):
    class Counting(KSAMPLER):
        runs = 0

        def sample(self, *args, **options):
            type(self).runs += 1
            return super().sample(*args, **options)

    for sampler in (edit(run, Counting(k.sample_euler), "x0"), applied(run, Counting(k.sample_euler), attribute)):
        draw(demo, sampler)
    assert Counting.runs == 2


def test_evaluations_of_another_size_are_edited_under_a_mask_of_that_size(demo, run):
    """Some samplers draw small first, and enlarge the running latent on the way."""

    def growing(model, x, sigmas, **options):
        small = torch.nn.functional.avg_pool2d(x, 2) * 2
        large = k.sample_euler(model, small, sigmas[:3], **options).repeat_interleave(2, -1).repeat_interleave(2, -2)
        return k.sample_euler(model, large, sigmas[2:], **options)

    half = torch.zeros(1, 16, 16)
    half[..., :8] = 1
    seen = []

    def spy(latent, **options):
        seen.append(tuple(latent.shape[-2:]))
        return latent + 0.5

    inputs = dict(operation=spy, target="x0", steps="all in range", start_percent=0.0, end_percent=0.3, mask=half)
    assert torch.isfinite(draw(demo, run("EditDuringSampling", sampler=KSAMPLER(growing), **inputs)[0])).all()
    assert (8, 8) in seen


def schedule_of(demo, denoise, steps=10):
    return node("custom_sampler.BasicScheduler", model=demo.model, scheduler="normal", steps=steps, denoise=denoise)


def second_pass(demo, sampler, sigmas, latent, model=None, noise=True):
    inputs = dict(positive=demo.encode(SOURCE), negative=demo.encode(""), sampler=sampler, sigmas=sigmas, latent_image=latent)
    return node("custom_sampler.SamplerCustom", model=model or demo.model, add_noise=noise, noise_seed=5, cfg=2.0, **inputs)["samples"]


@pytest.mark.parametrize("denoise", [0.5, 0.3, 0.25])
def test_a_second_pass_that_starts_after_the_edit_s_place_is_edited_at_its_first_step(demo, run, sampler_of, attribute, denoise):
    first, sigmas = {"samples": draw(demo, sampler_of("euler"))}, schedule_of(demo, denoise)
    plain = second_pass(demo, sampler_of("euler"), sigmas, first)
    for target in (None, demo.encode(TARGET)):
        edited = second_pass(demo, applied(run, sampler_of("euler"), attribute, target=target), sigmas, first)
        assert (edited - plain).square().mean().sqrt() > 1e-3 * plain.std()


def test_where_two_runs_have_not_parted_the_target_s_code_is_what_it_foresees_under_the_source_s_noise(demo, run, sampler_of):
    from pack.core.avi.attribute import Pair
    from pack.core.sampling.recording import Moment

    x, before, after = (torch.randn(1, 3, 8, 8, generator=torch.Generator().manual_seed(i)) for i in range(3))
    pair = Pair.foreseen(Moment(x, before), Moment(x, after), 0.25)
    assert torch.equal(pair.code, x + 0.25 * (after - before))
    assert pair.matched is pair.code


def test_a_run_outside_of_a_window_is_not_edited_and_the_log_says_so_once(demo, run, sampler_of, attribute, caplog):
    first, late = {"samples": draw(demo, sampler_of("euler"))}, schedule_of(demo, 0.2, 4)
    plain = second_pass(demo, sampler_of("euler"), late, first)
    sampler = run(
        "EditDuringSampling",
        sampler=sampler_of("euler"),
        operation=brighter,
        target="x_t",
        steps="all in range",
        start_percent=0.2,
        end_percent=0.6,
    )[0]
    for _ in range(3):
        assert torch.equal(second_pass(demo, sampler, late, first), plain)
    assert caplog.text.count("lies outside of 0.2 to 0.6") == 1

    caplog.clear()
    early = schedule_of(demo, 1.0)[:3]
    plain = second_pass(demo, sampler_of("euler"), early, first)
    assert torch.equal(second_pass(demo, applied(run, sampler_of("euler"), attribute), early, first), plain)
    assert "attribute: a run ends before 0.5" in caplog.text

    caplog.clear()
    large = {"samples": torch.zeros(1, 3, 24, 24)}
    plain = second_pass(demo, sampler_of("euler"), late, large)
    assert torch.equal(second_pass(demo, applied(run, sampler_of("euler"), attribute), late, large), plain)
    assert "of another size than it was learned at" in caplog.text


@pytest.mark.parametrize("asymmetric", [False, True])
def test_a_direction_does_not_act_in_a_run_outside_of_its_window(demo, run, sampler_of, asymmetric, caplog):
    from pack.core.hspace.direction import Direction
    from pack.host.families import family_of

    family = family_of(demo.model)
    direction = Direction(10 * torch.ones(1, family.channels, 2, 2), (1.0,), family, "ones")
    settings = dict(strength=1.0, start_percent=0.0, end_percent=0.6, ramp=0.0, branch="both", asymmetric=asymmetric, keep_norm=False)
    model = run("ApplyDirection", model=demo.model, direction=direction, **settings)[0]
    first, late = {"samples": draw(demo, sampler_of("euler"))}, schedule_of(demo, 0.2, 4)
    plain = second_pass(demo, sampler_of("euler"), late, first)
    for _ in range(2):
        assert torch.equal(second_pass(demo, sampler_of("euler"), late, first, model=model), plain)
    assert caplog.text.count("lies outside of 0 to 0.6") == 1
    assert not torch.equal(second_pass(demo, sampler_of("euler"), schedule_of(demo, 0.8), first, model=model), plain)


def test_levels_that_go_up_are_edited_where_they_lie_or_refused(demo, run, sampler_of, attribute):
    from pack.core.hspace.direction import Direction
    from pack.host.families import family_of

    picture, up = {"samples": draw(demo, sampler_of("euler"))}, node("custom_sampler.FlipSigmas", sigmas=schedule_of(demo, 1.0, 8))
    levels, level = demo.model.get_model_object("model_sampling"), []
    spied = demo.model.clone()
    spied.add_wrapper_with_key(
        "apply_model", "spy", lambda executor, x, t, *rest, **more: (level.append(float(t.flatten()[0])), executor(x, t, *rest, **more))[1]
    )
    edited = []
    sampler = run(
        "EditDuringSampling",
        sampler=sampler_of("euler"),
        operation=lambda latent, **options: edited.append(level[-1]) or latent,
        target="x0",
        steps="all in range",
        start_percent=0.0,
        end_percent=0.3,
    )[0]
    second_pass(demo, sampler, up, picture, model=spied, noise=False)
    inside = [sigma for sigma in up[:-1].tolist() if sigma >= levels.percent_to_sigma(0.3)]
    assert len(inside) >= 2
    assert edited == pytest.approx(inside)

    family = family_of(demo.model)
    direction = Direction(torch.ones(1, family.channels, 2, 2), (1.0,), family, "ones")
    settings = dict(strength=1.0, start_percent=0.0, end_percent=1.0, ramp=0.0, branch="both", keep_norm=False)
    symmetric, asymmetric = (
        run("ApplyDirection", model=demo.model, direction=direction, asymmetric=on, **settings)[0] for on in (False, True)
    )
    plain = second_pass(demo, sampler_of("euler"), up, picture, noise=False)
    assert not torch.equal(second_pass(demo, sampler_of("euler"), up, picture, model=symmetric, noise=False), plain)
    with pytest.raises(ValueError, match="^sigmas: they go up"):
        second_pass(demo, sampler_of("euler"), up, picture, model=asymmetric, noise=False)
    for target in (None, demo.encode(TARGET)):
        with pytest.raises(ValueError, match="^sigmas: they go up"):
            second_pass(demo, applied(run, sampler_of("euler"), attribute, target=target), up, picture, noise=False)
    with pytest.raises(ValueError, match="^sigmas: they go up"):
        train(run, demo, sampler_of("euler"), sigmas=up)


@pytest.mark.parametrize("shift, steps, start, right", [(8, 8, 0.5, 4), (7, 8, 0.5, 4), (3, 4, 0.5, 2), (1.15, 4, 0.25, 3)])
def test_a_bound_on_a_step_of_a_shifted_flow_model_is_inside(shaped, run, sampler_of, shift, steps, start, right):
    world, edited = shaped("Flux"), []
    model = node("model_advanced.ModelSamplingSD3", model=world.model, shift=float(shift))
    sampler = run(
        "EditDuringSampling",
        sampler=sampler_of("euler"),
        operation=lambda latent, **options: edited.append(1) or latent,
        target="x0",
        steps="all in range",
        start_percent=start,
        end_percent=1.0,
    )[0]
    world.sample(sampler, model=model, steps=steps, scheduler="simple", cfg=1.0)
    assert len(edited) == right
