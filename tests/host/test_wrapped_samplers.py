"""Edits inside samplers as other packs build them: stand-ins for what those do with the model that they are given."""

import comfy.k_diffusion.sampling as k
import pytest
import torch
from comfy.samplers import KSAMPLER

from pack.tests.attributes import SOURCE, TARGET
from pack.tests.edits import with_attribute


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


def draw(demo, sampler):
    return demo.sample(sampler, prompt=SOURCE)


@pytest.mark.parametrize("target", ["x0", "x_t"])
def test_a_sampler_that_looks_for_names_draws_as_the_host_s(demo, run, sampler_of, target):
    assert torch.equal(draw(demo, edit(run, KSAMPLER(by_name), target)), draw(demo, edit(run, sampler_of("euler"), target)))


@pytest.mark.parametrize("prompted", [False, True])
def test_an_attribute_acts_alike_inside_and_outside_of_such_samplers(demo, run, sampler_of, attribute, prompted):
    target = demo.encode(TARGET) if prompted else None
    alone = draw(demo, with_attribute(run, sampler_of("euler"), attribute, target=target))
    assert not torch.equal(alone, draw(demo, sampler_of("euler")))
    assert torch.equal(draw(demo, around(with_attribute(run, sampler_of("euler"), attribute, target=target))), alone)
    assert torch.equal(draw(demo, with_attribute(run, around(sampler_of("euler")), attribute, target=target)), alone)
    assert torch.equal(draw(demo, with_attribute(run, KSAMPLER(by_name), attribute, target=target)), alone)


def test_two_edits_around_a_wrapper_act_as_without_it(demo, run, sampler_of, attribute):
    target, euler = demo.encode(TARGET), sampler_of("euler")
    chained = edit(run, with_attribute(run, euler, attribute, target=target), "x0")
    assert torch.equal(draw(demo, edit(run, around(with_attribute(run, euler, attribute, target=target)), "x0")), draw(demo, chained))


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
        with_attribute(run, KSAMPLER(other_levels), attribute),
        with_attribute(run, KSAMPLER(other_levels), attribute, target=target),
    ):
        edited = draw(demo, sampler)
        assert (edited - plain).square().mean().sqrt() > 0.01 * plain.std()
        assert torch.equal(draw(demo, sampler), edited)


@pytest.mark.parametrize("function", [hidden_heun, of_a_copy, silent])
def test_what_cannot_be_edited_on_x_t_is_refused_by_name(demo, run, attribute, function):
    """Its name tells nothing, and its levels fit the schedule: without the look at what it reports, another latent would be edited."""
    for sampler in (edit(run, KSAMPLER(function), "x_t"), with_attribute(run, KSAMPLER(function), attribute)):
        with pytest.raises(ValueError, match="^sampler: it does not evaluate"):
            draw(demo, sampler)
    assert not torch.equal(draw(demo, edit(run, KSAMPLER(function), "x0")), draw(demo, KSAMPLER(function)))


def test_a_wrapper_that_hides_the_guider_is_refused_by_name(demo, run, sampler_of, attribute):
    for inner in (
        edit(run, sampler_of("euler"), "x0"),
        with_attribute(run, sampler_of("euler"), attribute),
        run("DDIMSampler", eta=0.5, boost_percent=1.0)[0],
    ):
        with pytest.raises(ValueError, match="^sampler: a sampler around this one"):
            draw(demo, around(inner, named=()))


def test_a_wrapper_that_draws_with_another_guider_is_refused_by_name(demo, run, sampler_of, attribute):
    import copy

    inner = with_attribute(run, sampler_of("euler"), attribute, target=demo.encode(TARGET))

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
    draw(demo, with_attribute(run, KSAMPLER(breaks), attribute, target=demo.encode(TARGET)))
    assert len(held) == 2
    assert held[0] is held[1]
    assert torch.equal(draw(demo, KSAMPLER(k.sample_euler)), plain)


def test_a_pack_s_own_kind_of_ksampler_stays_one(demo, run, attribute):
    class Counting(KSAMPLER):
        runs = 0

        def sample(self, *args, **options):
            type(self).runs += 1
            return super().sample(*args, **options)

    for sampler in (edit(run, Counting(k.sample_euler), "x0"), with_attribute(run, Counting(k.sample_euler), attribute)):
        draw(demo, sampler)
    assert Counting.runs == 2


def test_evaluations_of_another_size_are_edited_under_a_mask_of_that_size(demo, run):
    """Some samplers draw small first, and enlarge the running latent on the way."""

    def growing(model, x, sigmas, **options):
        small = torch.nn.functional.avg_pool2d(x, 2) * 2
        large = k.sample_euler(model, small, sigmas[:3], **options).repeat_interleave(2, -1).repeat_interleave(2, -2)
        return k.sample_euler(model, large, sigmas[2:], **options)

    half = torch.zeros(1, 8, 8)
    half[..., :4] = 1
    seen = []

    def spy(latent, **options):
        seen.append(tuple(latent.shape[-2:]))
        return latent + 0.5

    inputs = dict(operation=spy, target="x0", steps="all in range", start_percent=0.0, end_percent=0.3, mask=half)
    assert torch.isfinite(draw(demo, run("EditDuringSampling", sampler=KSAMPLER(growing), **inputs)[0])).all()
    assert (4, 4) in seen
