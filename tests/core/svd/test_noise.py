"""The Marchenko-Pastur bulk against noise, and the noise level read off a spectrum."""

import pytest
import torch

from pack.core.svd.matrices import MatrixShape
from pack.core.svd.noise import bulk_edge, noise_level, noise_spectrum

SHAPES = pytest.mark.parametrize("rows, cols", [(96, 96), (64, 128), (200, 60), (16, 1024)])


def noise_values(rows: int, cols: int, sigma: float, count: int = 24) -> torch.Tensor:
    noise = torch.randn(count, rows, cols, generator=torch.Generator().manual_seed(3))
    return torch.linalg.svdvals(sigma * noise.double())


@SHAPES
def test_expected_spectrum_is_that_of_noise(rows, cols):
    measured = noise_values(rows, cols, 2.5).mean(0)
    expected = noise_spectrum(MatrixShape(rows, cols), 2.5)
    assert ((measured - expected).abs() < 0.02 * expected[0]).all()
    assert (expected.diff() < 0).all()


def test_square_noise_has_the_quarter_circle_law():
    s = noise_spectrum(MatrixShape(200, 200)) / 200**0.5
    below = (s * (4 - s**2).sqrt() / 2 + 2 * (s / 2).asin()) / torch.pi
    levels = 1 - (torch.arange(200) + 0.5) / 200
    torch.testing.assert_close(below, levels.double(), atol=1e-6, rtol=0)


@SHAPES
def test_energy_of_the_expected_spectrum_is_that_of_the_entries(rows, cols):
    assert noise_spectrum(MatrixShape(rows, cols)).square().sum().item() == pytest.approx(rows * cols, rel=1e-2)


@SHAPES
def test_noise_ends_at_the_edge_and_fills_the_bulk(rows, cols):
    largest = noise_values(rows, cols, 1.7).amax(1).mean()
    assert largest == pytest.approx(bulk_edge(MatrixShape(rows, cols), 1.7), rel=0.05)


@SHAPES
@pytest.mark.parametrize("sigma", [1e-3, 1.0, 14.6])
def test_noise_level_is_read_off_the_median(rows, cols, sigma):
    level = noise_level(noise_values(rows, cols, sigma), MatrixShape(rows, cols))
    assert level.mean() == pytest.approx(sigma, rel=0.01)


def test_noise_level_is_robust_to_a_few_strong_triplets():
    S = noise_values(64, 64, 1.0)
    S[:, :4] += 500
    assert noise_level(S, MatrixShape(64, 64)).mean() == pytest.approx(1.0, rel=0.02)


def test_noise_level_of_nothing_is_zero():
    assert torch.equal(noise_level(torch.zeros(3, 8), MatrixShape(8, 9)), torch.zeros(3))


def test_noise_level_needs_all_triplets():
    with pytest.raises(ValueError, match="sigma: .* 8 of 64 triplets"):
        noise_level(torch.ones(1, 8), MatrixShape(64, 64))
