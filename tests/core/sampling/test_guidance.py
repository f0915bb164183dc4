"""Guidance of what is foreseen: the low-pass, the step to a reference, the step up a gradient."""

import pytest
import torch

from pack.core.sampling.guidance import low_pass, spread, towards_reference, up_gradient
from pack.tests.wiring import random

SHAPES = ((2, 3, 16, 16), (1, 4, 9, 13), (2, 3, 2, 16, 12))


@pytest.mark.parametrize("shape", SHAPES)
def test_a_factor_of_1_leaves_everything(shape):
    x = random(0, *shape)
    assert low_pass(x, 1) is x


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("factor", [2, 4, 64])
def test_the_low_pass_keeps_what_is_flat_and_takes_out_what_changes_from_cell_to_cell(shape, factor):
    flat = random(0, *shape[:-2], 1, 1).expand(shape)
    torch.testing.assert_close(low_pass(flat, factor), flat)
    rows, columns = torch.meshgrid(torch.arange(shape[-2]), torch.arange(shape[-1]), indexing="ij")
    board = ((-1.0) ** (rows + columns)).expand(shape)
    assert float(low_pass(board, factor).abs().mean()) < 0.25


@pytest.mark.parametrize("factor", [2, 4, 8])
def test_more_downsampling_leaves_less(factor):
    x = random(1, 1, 4, 32, 32)
    assert float(low_pass(x, 2 * factor).std()) < 0.7 * float(low_pass(x, factor).std()) < 0.7 * float(x.std())


def test_a_wave_of_half_the_coarse_grid_s_frequency_passes():
    wave = torch.cos(torch.arange(32) * torch.pi / 16).expand(1, 1, 32, 32)
    torch.testing.assert_close(low_pass(wave, 4)[..., 8:-8], wave[..., 8:-8], rtol=0, atol=0.15)
    assert float((low_pass(wave, 16) - wave).abs().max()) > 0.5


def test_frames_are_made_coarse_one_by_one():
    x = random(2, 2, 3, 4, 8, 8)
    torch.testing.assert_close(low_pass(x, 4), torch.stack([low_pass(x[:, :, t], 4) for t in range(4)], 2), rtol=0, atol=0)


def test_half_precision_stays_half_and_is_computed_in_single():
    x = random(3, 1, 4, 16, 16).half()
    assert low_pass(x, 4).dtype == torch.float16
    torch.testing.assert_close(low_pass(x, 4), low_pass(x.float(), 4).half(), rtol=0, atol=0)


@pytest.mark.parametrize("amount", [1.0, 0.3, -0.5])
def test_the_step_exchanges_the_coarse_part_and_keeps_the_rest(amount):
    """As ILVR writes it: phi(reference) + (x - phi(x)) at amount 1."""
    x, reference = random(4, 2, 4, 16, 16), random(5, 1, 4, 16, 16)
    expected = x + amount * (low_pass(reference, 4) - low_pass(x, 4))
    torch.testing.assert_close(towards_reference(x, reference, amount, downsample=4), expected)
    whole = towards_reference(x, reference, amount, downsample=1)
    torch.testing.assert_close(whole, x + amount * (reference - x))


@pytest.mark.parametrize("scale", [1.0, 1e-12, 1e6])
def test_the_step_up_a_gradient_has_its_length_in_each_sample_whatever_the_gradient_s(scale):
    x, gradient = random(6, 3, 4, 8, 8), scale * random(7, 3, 4, 8, 8)
    step = up_gradient(x, gradient, -0.7) - x
    torch.testing.assert_close(step.square().mean((1, 2, 3)).sqrt(), torch.full((3,), 0.7))
    torch.testing.assert_close(torch.cosine_similarity(step.flatten(1), gradient.flatten(1) / scale), torch.full((3,), -1.0))


def test_a_gradient_of_0_moves_nothing():
    x = random(8, 2, 4, 8, 8)
    gradient = torch.cat([torch.zeros(1, 4, 8, 8), random(9, 1, 4, 8, 8)])
    result = up_gradient(x, gradient, 1.0)
    assert torch.equal(result[0], x[0])
    assert not torch.equal(result[1], x[1])


@pytest.mark.parametrize(("sigma", "share"), [(10.0, 1.0), (0.5, 1.0), (0.7, 0.3), (1.0, 0.0)])
def test_the_spread_is_that_of_a_picture_given_its_noisy_latent(sigma, share):
    """Of Gaussian latents, by the residual of the best linear estimate."""
    x0, noise = random(10, 200_000).double(), random(11, 200_000).double()
    x = share * x0 + sigma * noise
    residual = x0 - x * (x @ x0) / (x @ x)
    assert spread(sigma, share) == pytest.approx(float(residual.std()), rel=0.02)
