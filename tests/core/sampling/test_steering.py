"""Edits inside a sampler, on samplers small enough to work out by hand."""

import pytest
import torch

from pack.core.sampling.recording import recorded
from pack.core.sampling.steering import (
    SteeredDenoiser,
    SwitchedDenoiser,
    Traits,
    sample_steered,
    steps_in_window,
)
from pack.tests.core.sampling.by_hand import NOISE, SIGMAS, denoise, euler


def double(x, step):
    return 2 * x


def same(x, step):
    return x.clone()


def test_window_holds_the_steps_between_its_sigmas():
    assert steps_in_window(SIGMAS, 4.0, 2.0) == (1, 2)
    assert steps_in_window(SIGMAS, 1e9, 0.0) == (0, 1, 2, 3)
    assert steps_in_window(SIGMAS, 4.0, 0.5, once=True) == (1,)
    with pytest.raises(ValueError, match="start_percent, end_percent: no step"):
        steps_in_window(SIGMAS, 3.5, 2.5)


def test_edit_of_x_t_is_an_edit_between_two_runs():
    steered = sample_steered(euler, denoise, NOISE, SIGMAS, edit=double, steps=(2,), target="x_t")
    by_hand = euler(denoise, 2 * euler(denoise, NOISE, SIGMAS[:3]), SIGMAS[2:])
    assert torch.equal(steered, by_hand)


def test_edit_of_x0_is_an_edit_of_the_denoiser():
    def edited(x, sigma):
        return denoise(x, sigma) * (2 if sigma[0] in (4.0, 2.0) else 1)

    steered = sample_steered(euler, denoise, NOISE, SIGMAS, edit=double, steps=(1, 2), target="x0")
    assert torch.equal(steered, euler(edited, NOISE, SIGMAS))


@pytest.mark.parametrize("target", ["x_t", "x0"])
def test_no_edit_changes_no_bit_and_the_noise_is_not_written_to(target):
    noise = NOISE.clone()
    assert torch.equal(sample_steered(euler, denoise, noise, SIGMAS, edit=same, steps=(0, 1), target=target), euler(denoise, NOISE, SIGMAS))
    sample_steered(euler, denoise, noise, SIGMAS, edit=double, steps=(0, 1), target=target)
    assert torch.equal(noise, NOISE)


def test_an_edit_is_told_its_step():
    seen = []
    sample_steered(euler, denoise, NOISE, SIGMAS, edit=lambda x, step: seen.append(step) or x, steps=(1, 3), target="x_t")
    assert seen == [1, 3]


def test_a_switched_run_starts_like_one_and_goes_on_like_the_other():
    other = lambda x, sigma: 0.5 * x
    for step in range(4):
        switched = euler(SwitchedDenoiser(denoise, other, SIGMAS, step), NOISE, SIGMAS)
        assert torch.equal(switched, euler(other, euler(denoise, NOISE, SIGMAS[: step + 1]), SIGMAS[step:]))


def test_edits_carry_over_to_another_denoiser():
    steered = SteeredDenoiser(lambda x, sigma: x, double, SIGMAS, (0,), "x0").on(denoise)
    assert torch.equal(steered(NOISE, SIGMAS[0] * torch.ones(2)), 2 * denoise(NOISE, SIGMAS[0] * torch.ones(2)))


def test_options_and_attributes_of_the_denoiser_pass_through():
    class Model:
        inner_model = "inner"

        def __call__(self, x, sigma, **options):
            return denoise(x, sigma)

    seen = []

    def sampler(model, x, sigmas, callback):
        assert model.inner_model == "inner"
        return euler(model, x, sigmas, callback)

    sample_steered(sampler, Model(), NOISE, SIGMAS, edit=double, steps=(0,), target="x_t", callback=lambda state: seen.append(state["i"]))
    assert seen == [0, 1, 2, 3]


def test_samplers_that_leave_their_schedule_are_refused():
    def halfway(model, x, sigmas):
        for sigma in (sigmas[:-1] + sigmas[1:]) / 2:
            x = model(x, sigma * x.new_ones(len(x)))
        return x

    def early(model, x, sigmas):
        return model(x, sigmas[0] * x.new_ones(len(x)))

    for sampler in (halfway, early):
        with pytest.raises(ValueError, match="sampler: it does not evaluate"):
            sample_steered(sampler, denoise, NOISE, SIGMAS, edit=double, steps=(2,), target="x_t")


def test_a_window_in_another_part_of_the_run_holds_no_step():
    assert steps_in_window(SIGMAS[2:], 8.0, 4.0) == () == steps_in_window(SIGMAS[:3], 1.0, 0.5)


def twice(model, x, sigmas, callback=None):
    """A step of Heun, which meets the next step's level before its time."""
    for i in range(len(sigmas) - 1):
        denoised = model(x, sigmas[i] * x.new_ones(len(x)))
        if callback:
            callback({"i": i, "x": x, "denoised": denoised})
        slope = (x - denoised) / sigmas[i]
        ahead = x + slope * (sigmas[i + 1] - sigmas[i])
        if sigmas[i + 1] > 0:
            slope = (slope + (ahead - model(ahead, sigmas[i + 1] * x.new_ones(len(x)))) / sigmas[i + 1]) / 2
        x = x + slope * (sigmas[i + 1] - sigmas[i])
    return x


def of_a_copy(model, x, sigmas, callback=None):
    return euler(lambda x, sigma: model(x.clone(), sigma), x, sigmas, callback)


@pytest.mark.parametrize("sampler", [twice, of_a_copy])
def test_an_unknown_sampler_whose_evaluations_are_not_its_running_latent_is_refused(sampler):
    """By its name nothing is known of it, and the levels fit: what it reports tells."""
    ignore = lambda state: None
    with pytest.raises(ValueError, match="sampler: it does not evaluate"):
        sample_steered(sampler, denoise, NOISE, SIGMAS, edit=double, steps=(1,), target="x_t", callback=ignore)
    with pytest.raises(ValueError, match="sampler: it does not evaluate"):
        recorded(twice, denoise, NOISE, SIGMAS, steps=(1,), callback=ignore)


def test_a_wrapper_has_its_denoiser_s_names_and_no_others():
    class Bare:
        inner_model = "guider"

    wrapped = SteeredDenoiser(Bare(), same, SIGMAS, (0,), "x_t")
    assert wrapped.inner_model == "guider"
    assert not any(hasattr(wrapped, name) for name in ("model", "sigmas", "steps", "edit", "calls", "target", "latent_image"))


def test_edits_of_x0_find_their_steps_on_a_way_up_and_are_refused_on_one_up_and_down():
    upwards, levels = SIGMAS.flip(0).clamp(min=1e-3), []

    def spied(x, sigma):
        levels.append(float(sigma[0]))
        return denoise(x, sigma)

    edited = []
    sample_steered(euler, spied, NOISE, upwards, edit=lambda x, step: edited.append(levels[-1]) or x, steps=(2, 3), target="x0")
    assert edited == [2.0, 4.0]
    with pytest.raises(ValueError, match="sigmas: they go up and down"):
        sample_steered(euler, denoise, NOISE, torch.tensor([8.0, 2.0, 4.0, 0.0]), edit=double, steps=(1,), target="x0")


def test_an_edit_stays_inside_its_masks_and_its_result_is_looked_at():
    left, top = torch.zeros(1, 1, 4, 5), torch.zeros(1, 1, 4, 5)
    left[..., :2], top[..., :3, :] = 1.0, 1.0
    inside = (left * top).bool().expand(NOISE.shape)
    for target in ("x_t", "x0"):
        steered = sample_steered(euler, denoise, NOISE, SIGMAS, edit=double, masks=lambda x: (left, top), steps=(3,), target=target)
        whole = sample_steered(euler, denoise, NOISE, SIGMAS, edit=double, steps=(3,), target=target)
        assert torch.equal(steered, torch.where(inside, whole, euler(denoise, NOISE, SIGMAS)))
    with pytest.raises(ValueError, match="attribute: its result contains NaN"):
        sample_steered(euler, denoise, NOISE, SIGMAS, edit=lambda x, step: x / 0, steps=(1,), target="x_t", name="attribute")


def test_the_first_call_of_each_step_follows_from_the_traits():
    assert Traits().first_calls(3) == {0: 0, 1: 1, 2: 2}
    assert Traits(2).first_calls(3) == {0: 0, 2: 1, 4: 2}
    assert Traits(3, fewer_at_end=True).first_calls(4) == {0: 0, 3: 1, 6: 2, 8: 3}
