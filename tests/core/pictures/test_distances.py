"""Distances between pictures: identities, an independent computation of SSIM, and gradients."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.ndimage import gaussian_filter

from pack.core.pictures.distances import feature_distance, rms, ssim, structural_distance

DISTANCES = [rms, structural_distance]
SIZES = [(1, 1), (2, 5), (6, 7), (8, 8), (15, 40), (17, 33), (64, 9)]


def pictures(*shape, seed=0):
    """Pictures in -1..1 with structure at several scales."""
    generator = torch.Generator().manual_seed(seed)
    fine = torch.rand(shape, generator=generator) * 2 - 1
    coarse = torch.rand((*shape[:2], 3, 3), generator=generator) * 2 - 1
    return 0.3 * fine + 0.7 * F.interpolate(coarse, shape[-2:], mode="bilinear")


def by_hand(a, b):
    """SSIM of two arrays (h, w) as Wang et al. 2004 write it, where the whole window fits."""

    def mean(x):
        return gaussian_filter(x, 1.5, radius=3)[3:-3, 3:-3]

    c1, c2 = (0.01 * 2) ** 2, (0.03 * 2) ** 2
    deviations = mean(a * a) - mean(a) ** 2, mean(b * b) - mean(b) ** 2
    luminance = (2 * mean(a) * mean(b) + c1) / (mean(a) ** 2 + mean(b) ** 2 + c1)
    structure = (2 * (mean(a * b) - mean(a) * mean(b)) + c2) / (sum(deviations) + c2)
    return (luminance * structure).mean()


@pytest.mark.parametrize("size", SIZES)
def test_equal_pictures_have_no_distance(size):
    a = pictures(2, 3, *size)
    assert torch.equal(rms(a, a), torch.zeros(2))
    torch.testing.assert_close(ssim(a, a), torch.ones(2))
    torch.testing.assert_close(structural_distance(a, a), torch.zeros(2), rtol=0, atol=1e-6)


@pytest.mark.parametrize("size", SIZES)
def test_distances_are_symmetric_within_their_range_and_each_picture_s_own(size):
    a, b = pictures(3, 3, *size), pictures(3, 3, *size, seed=1)
    for distance, largest in ((rms, 2), (structural_distance, 1), (ssim, 1)):
        found = distance(a, b)
        assert found.shape == (3,)
        assert (found.abs() > 1e-3).all()
        assert (found <= largest).all()
        torch.testing.assert_close(distance(b, a), found)
        torch.testing.assert_close(torch.cat([distance(x, y) for x, y in zip(a.split(1), b.split(1))]), found)


def test_the_extremes_are_reached():
    white = torch.ones(1, 3, 16, 16)
    board = (torch.arange(16)[:, None] + torch.arange(16)) % 2 * 2.0 - 1
    assert rms(white, -white).item() == 2
    assert ssim(board.expand(1, 3, 16, 16), -board.expand(1, 3, 16, 16)).item() < -0.9


@pytest.mark.parametrize("size", [(7, 7), (20, 31)])
def test_ssim_is_what_its_formula_says(size):
    a, b = pictures(1, 3, *size).double(), pictures(1, 3, *size, seed=1).double()
    b = 0.5 * a + 0.5 * b
    expected = np.mean([by_hand(x.numpy(), y.numpy()) for x, y in zip(a[0], b[0])])
    assert ssim(a, b).item() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("size", [8, 15])
def test_structure_counts_at_every_scale(size):
    small, other = pictures(2, 3, size, size), pictures(2, 3, size, size, seed=1)
    torch.testing.assert_close(structural_distance(small, other), (1 - ssim(small, other)) / 2)
    large, larger = (x.repeat_interleave(2, 2).repeat_interleave(2, 3) for x in (small, other))
    expected = ((1 - ssim(large, larger)) / 2 + structural_distance(small, other)) / 2
    torch.testing.assert_close(structural_distance(large, larger), expected)


@pytest.mark.parametrize("distance", DISTANCES)
def test_the_distance_grows_with_noise(distance):
    a, noise = pictures(2, 3, 32, 32), torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(5))
    found = torch.stack([distance(a, a + amount * noise) for amount in (0.0, 0.05, 0.1, 0.2, 0.4, 0.8)])
    assert (found.diff(dim=0) > 0).all()


def test_a_shade_moves_the_rms_by_itself():
    a = pictures(2, 3, 16, 16)
    torch.testing.assert_close(rms(a, a + 0.25), torch.full((2,), 0.25))


def test_features_are_compared_by_their_directions():
    a, lengths = torch.randn(2, 5, 8), torch.rand(2, 5, 1) + 0.1
    torch.testing.assert_close(feature_distance(a, lengths * a), torch.zeros(2), rtol=0, atol=1e-6)
    torch.testing.assert_close(feature_distance(a, -lengths * a), torch.full((2,), 4.0))
    across = torch.eye(8)[:5].expand(2, 5, 8), torch.eye(8)[3:].expand(2, 5, 8)
    torch.testing.assert_close(feature_distance(*across), torch.full((2,), 2.0))
    half = torch.cat([a[:, :4], -a[:, 4:]], 1)
    torch.testing.assert_close(feature_distance(a, half), torch.full((2,), 0.8))


def gradient(distance, a, b):
    a = a.clone().requires_grad_()
    return torch.autograd.grad(distance(a, b).sum(), a)[0]


@pytest.mark.parametrize("distance", [*DISTANCES, feature_distance])
def test_going_down_the_gradient_brings_pictures_together(distance):
    shape = (2, 5, 8) if distance is feature_distance else (2, 3, 17, 33)
    a, b = (torch.rand(shape, generator=torch.Generator().manual_seed(seed)) * 2 - 1 for seed in (0, 1))
    slope = gradient(distance, a, b)
    assert torch.isfinite(slope).all()
    assert (distance(a - 1e-2 * slope / slope.abs().max(), b) < distance(a, b)).all()


@pytest.mark.parametrize("distance", [*DISTANCES, feature_distance])
def test_the_gradient_at_equal_pictures_is_a_number(distance):
    a = pictures(2, 3, 16, 16) if distance is not feature_distance else torch.randn(2, 5, 8)
    assert torch.isfinite(gradient(distance, a, a)).all()
