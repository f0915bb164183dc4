"""Edits in a second pass, and in runs that lie outside of their window or go up."""

import pytest
import torch

from pack.tests.attributes import SOURCE, TARGET, train
from pack.tests.edits import with_attribute, with_direction
from pack.tests.wiring import node


def brighter(latent, **options):
    return latent + 0.5


def draw(demo, sampler):
    return demo.sample(sampler, prompt=SOURCE)


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
        edited = second_pass(demo, with_attribute(run, sampler_of("euler"), attribute, target=target), sigmas, first)
        assert (edited - plain).square().mean().sqrt() > 1e-3 * plain.std()


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
    assert torch.equal(second_pass(demo, with_attribute(run, sampler_of("euler"), attribute), early, first), plain)
    assert "attribute: a run ends before 0.5" in caplog.text

    caplog.clear()
    large = {"samples": torch.zeros(1, 4, 12, 12)}
    plain = second_pass(demo, sampler_of("euler"), late, large)
    assert torch.equal(second_pass(demo, with_attribute(run, sampler_of("euler"), attribute), late, large), plain)
    assert "of another size than it was learned at" in caplog.text


@pytest.mark.parametrize("asymmetric", [False, True])
def test_a_direction_does_not_act_in_a_run_outside_of_its_window(demo, run, sampler_of, asymmetric, caplog):
    from pack.core.hspace.direction import Direction
    from pack.host.families import family_of

    family = family_of(demo.model)
    direction = Direction(10 * torch.ones(1, family.channels, 2, 2), (1.0,), family, "ones")
    model = with_direction(run, demo.model, direction, end_percent=0.6, asymmetric=asymmetric)
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
    symmetric, asymmetric = (with_direction(run, demo.model, direction, asymmetric=on) for on in (False, True))
    plain = second_pass(demo, sampler_of("euler"), up, picture, noise=False)
    assert not torch.equal(second_pass(demo, sampler_of("euler"), up, picture, model=symmetric, noise=False), plain)
    with pytest.raises(ValueError, match="^sigmas: they go up"):
        second_pass(demo, sampler_of("euler"), up, picture, model=asymmetric, noise=False)
    for target in (None, demo.encode(TARGET)):
        with pytest.raises(ValueError, match="^sigmas: they go up"):
            second_pass(demo, with_attribute(run, sampler_of("euler"), attribute, target=target), up, picture, noise=False)
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
