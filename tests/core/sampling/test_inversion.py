"""The way back from a picture, and the path along it, on a model whose answers are known."""

import pytest
import torch

from pack.core.sampling.ddim import euler_step, sample_ddim
from pack.core.sampling.inversion import ExactPath, invert, nearest, sample_along
from pack.tests.core.sampling.gaussian import SIGMAS, gaussian, noise


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
    path = ExactPath.along(gaussian, invert(gaussian, picture, SIGMAS, refinements=0), SIGMAS)
    nearly = path.trajectory[0] * (1 + 1e-7)
    assert torch.equal(sample_along(gaussian, nearly, SIGMAS, path), picture)


def test_an_edit_along_the_path_adds_its_difference():
    picture, shift = noise(1, 4, 8, 8), 0.1
    path = ExactPath.along(gaussian, invert(gaussian, picture, SIGMAS, refinements=500, tolerance=1e-13), SIGMAS)

    def edited(x, sigma):
        return gaussian(x, sigma) + shift

    along = sample_along(edited, path.trajectory[0], SIGMAS, path)
    torch.testing.assert_close(along, sample_ddim(edited, path.trajectory[0], SIGMAS), rtol=1e-6, atol=1e-6)
    assert (along - picture).abs().min() > 0.05


def test_a_path_of_other_steps_is_refused():
    path = ExactPath.along(gaussian, invert(gaussian, noise(1, 1, 4, 4), SIGMAS), SIGMAS)
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
    path = ExactPath.along(gaussian, invert(gaussian, picture, SIGMAS, refinements=0), SIGMAS)
    assert torch.equal(sample_along(gaussian, path.trajectory[0][rows] * (1 + 1e-7), SIGMAS, path), picture[rows])


def test_a_latent_that_starts_elsewhere_has_the_path_of_its_place():
    picture, shift = noise(3, 4, 8, 8), 0.1
    path = ExactPath.along(gaussian, invert(gaussian, picture, SIGMAS, refinements=0), SIGMAS)
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
