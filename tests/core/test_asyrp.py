"""The asymmetric step, DDIM and the inversion, on models whose answers are known."""

import math

import pytest
import torch

from pack.core.hspace.injection import asymmetric_gain, matched_scale
from pack.core.sampling.ddim import ddim_levels, euler_step, sample_ddim
from pack.core.sampling.inversion import Path, invert, nearest, sample_along

SIGMAS = torch.tensor([14.6, 9.0, 5.0, 2.5, 1.0, 0.3, 0.03, 0.0], dtype=torch.float64)


def gaussian(x, sigma, **options):
    """The exact denoiser of data from a standard normal distribution: D = x / (1 + sigma^2)."""
    sigma = torch.as_tensor(sigma, dtype=x.dtype).reshape(-1, *[1] * (x.ndim - 1))
    return x / (1 + sigma**2)


def noise(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_the_gain_turns_a_first_order_step_into_the_asymmetric_one():
    x, d, e = (noise(2, 3, 4, 4, seed=i) for i in range(3))
    for sigma, after in zip(SIGMAS.tolist(), SIGMAS.tolist()[1:]):
        effective = d + asymmetric_gain(sigma, after) * (e - d)
        torch.testing.assert_close(euler_step(x, effective, sigma, after), e + after * (x - d) / sigma)


def test_the_gain_is_finite_where_steps_are_tiny_and_refuses_to_go_up():
    assert asymmetric_gain(1.0, 1.0 - 1e-12) == 1000
    for sigma, after in ((1.0, 1.0), (1.0, 2.0), (1.0, -0.1)):
        with pytest.raises(ValueError, match="goes down"):
            asymmetric_gain(sigma, after)


def test_the_matched_scale_makes_first_order_effects_equal():
    levels = SIGMAS.tolist()
    weights = [0.0, 1.0, 1.0, 0.5, 0.0, 0.0, 0.0]
    symmetric = sum(w * (1 - after / before) for w, before, after in zip(weights, levels, levels[1:]))
    assert matched_scale(levels, weights) * sum(weights) == pytest.approx(symmetric)


def test_ddim_levels_are_those_of_the_paper():
    """Song et al. 2021, eq. 16, in its own frame: sigma_t^2 = eta^2 (1 - a') / (1 - a) (1 - a / a'), a = 1 / (1 + sigma^2)."""
    for before, after, eta in ((14.6, 9.0, 1.0), (2.5, 1.0, 0.4), (1.0, 0.03, 0.7)):
        down, up = ddim_levels(before, after, eta)
        a, b = 1 / (1 + before**2), 1 / (1 + after**2)
        paper = eta * math.sqrt((1 - b) / (1 - a) * (1 - a / b))
        assert up == pytest.approx(paper / math.sqrt(b))
        assert down == pytest.approx(math.sqrt((1 - b - paper**2) / b))
    assert ddim_levels(1.0, 0.0, 1.0) == (0.0, 0.0)
    assert ddim_levels(2.0, 1.0, 0.0) == (1.0, 0.0)


def test_ddim_keeps_the_variance_of_gaussian_data_at_any_eta():
    levels = torch.cat(
        [torch.linspace(math.log(30.0), math.log(0.01), 150, dtype=torch.float64).exp(), torch.zeros(1, dtype=torch.float64)]
    )
    for eta, boost in ((0.0, 0.0), (1.0, 0.0), (0.0, 2.0)):
        generator = torch.Generator().manual_seed(1)
        drawn = sample_ddim(
            gaussian,
            math.sqrt(1 + 30.0**2) * noise(20_000, 1),
            levels,
            eta=eta,
            boost_below=boost,
            noise=lambda *_, generator=generator: torch.randn(20_000, 1, generator=generator, dtype=torch.float64),
        )
        assert drawn.std().item() == pytest.approx(1, abs=0.05), (eta, boost)


def test_ddim_tells_each_call_where_its_deterministic_part_goes():
    told = []
    sample_ddim(gaussian, noise(1, 1), SIGMAS, eta=0.5, noise=lambda *_: 0.0, announce=lambda down: told.append(down) or {})
    assert told == [ddim_levels(a, b, 0.5)[0] for a, b in zip(SIGMAS.tolist(), SIGMAS.tolist()[1:])]


def test_refined_inversion_solves_the_step_that_sampling_takes():
    picture = noise(3, 4, 8, 8)
    trajectory = invert(gaussian, picture, SIGMAS, refinements=500, tolerance=1e-13)
    assert len(trajectory) == len(SIGMAS)
    assert trajectory[-1] is picture
    for x, after, sigma, sigma_next in zip(trajectory, trajectory[1:], SIGMAS.tolist(), SIGMAS.tolist()[1:]):
        torch.testing.assert_close(euler_step(x, gaussian(x, sigma), sigma, sigma_next), after, rtol=1e-8, atol=1e-8)


def test_refinement_never_makes_it_worse_than_the_first_order_guess():
    picture = noise(1, 4, 8, 8)
    errors = []
    for refinements in (0, 1, 5, 50):
        start = invert(gaussian, picture, SIGMAS, refinements=refinements, tolerance=0.0)[0]
        errors.append((sample_ddim(gaussian, start, SIGMAS) - picture).norm().item())
    assert errors[0] > errors[1] > errors[2] > errors[3]


def test_an_unedited_run_follows_the_path_bit_for_bit():
    picture = noise(2, 4, 8, 8).float()
    path = Path.along(gaussian, invert(gaussian, picture, SIGMAS, refinements=0), SIGMAS)
    nearly = path.trajectory[0] * (1 + 1e-7)
    assert torch.equal(sample_along(gaussian, nearly, SIGMAS, path), picture)


def test_an_edit_along_the_path_adds_its_difference():
    picture, shift = noise(1, 4, 8, 8), 0.1
    path = Path.along(gaussian, invert(gaussian, picture, SIGMAS, refinements=500, tolerance=1e-13), SIGMAS)

    def edited(x, sigma):
        return gaussian(x, sigma) + shift

    along = sample_along(edited, path.trajectory[0], SIGMAS, path)
    torch.testing.assert_close(along, sample_ddim(edited, path.trajectory[0], SIGMAS), rtol=1e-6, atol=1e-6)
    assert (along - picture).abs().min() > 0.05


def test_a_path_of_other_steps_is_refused():
    path = Path.along(gaussian, invert(gaussian, noise(1, 1, 4, 4), SIGMAS), SIGMAS)
    with pytest.raises(ValueError, match="7 steps .* this run 6"):
        sample_along(gaussian, path.trajectory[0], SIGMAS[1:], path)
    with pytest.raises(ValueError, match="same latents"):
        sample_along(gaussian, noise(2, 1, 4, 4), SIGMAS, path)


PARTS = {
    "one": [1],
    "two in another order": [2, 0],
    "all in another order": [1, 2, 0],
    "one three times": [2, 2, 2],
    "each twice": [0, 1, 2, 0, 1, 2],
}


@pytest.mark.parametrize("rows", PARTS.values(), ids=PARTS)
def test_a_part_of_the_pictures_follows_its_own_path(rows):
    picture = noise(3, 4, 8, 8).float()
    path = Path.along(gaussian, invert(gaussian, picture, SIGMAS, refinements=0), SIGMAS)
    assert torch.equal(sample_along(gaussian, path.trajectory[0][rows] * (1 + 1e-7), SIGMAS, path), picture[rows])


def test_a_latent_that_starts_elsewhere_has_the_path_of_its_place():
    picture, shift = noise(3, 4, 8, 8), 0.1
    path = Path.along(gaussian, invert(gaussian, picture, SIGMAS, refinements=0), SIGMAS)
    start = path.trajectory[0].clone()
    start[1] += shift
    moved = sample_along(gaussian, start, SIGMAS, path)
    assert torch.equal(moved[[0, 2]], picture[[0, 2]])
    assert 0 < (moved[1] - picture[1]).abs().max() < shift
    with pytest.raises(ValueError, match="same latents"):
        sample_along(gaussian, start[:2], SIGMAS, path)


def test_the_nearest_picture_is_found_and_the_one_asked_for_kept_among_equals():
    pictures = torch.stack([noise(4, 8, 8), 1 + noise(4, 8, 8)])[[0, 1, 0]]
    latents = torch.cat([pictures, pictures[1:2] + 1e-3])
    rows, apart = nearest(latents, pictures, [2, 0, None, None])
    assert rows == [2, 1, 0, 1]
    assert apart[:3].tolist() == [0, 0, 0]
    assert apart[3].item() == pytest.approx(1e-3, rel=1e-3)
