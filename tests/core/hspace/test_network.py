"""The implicit network, written out, and its embedding of the noise level."""

import math

import pytest
import torch
import torch.nn.functional as F

from pack.core.hspace.network import PERIODS, ImplicitNetwork, noise_embedding
from pack.tests.core.hspace.random_directions import network, some_h


def test_an_untrained_network_shifts_nothing():
    assert not ImplicitNetwork(6, 5.0)(some_h(), 2.0).any()


@pytest.mark.parametrize("channels, millions", [(512, 0.79), (1280, 4.9)])
def test_it_is_as_large_as_it_says_and_its_shapes_cost_nothing(channels, millions):
    before = torch.random.get_rng_state()
    weights = list(ImplicitNetwork.empty(channels).parameters())
    assert sum(weight.numel() for weight in weights) == pytest.approx(millions * 1e6, rel=0.01)
    assert all(weight.is_meta for weight in weights)
    assert torch.equal(torch.random.get_rng_state(), before)


@pytest.mark.parametrize("size", [(1, 1), (4, 4), (5, 3), (16, 1)])
def test_any_size_of_h_has_a_shift_and_a_batch_equals_its_singles(size):
    net, h = network(0), some_h(3, 6, *size)
    together = net(h, 2.0)
    assert together.shape == h.shape
    assert together.abs().max() > 0
    torch.testing.assert_close(together, torch.cat([net(one, 2.0) for one in h.split(1)]))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_the_dtype_of_h_does_not_matter(dtype):
    net, h = network(0), some_h().to(dtype)
    assert net(h, 2.0).dtype == torch.float32
    assert torch.equal(net(h, 2.0), net(h.float(), 2.0))


def test_the_network_written_out():
    """In units of its scale; two groups of three channels."""
    net, h = network(0, 8.0), some_h()
    level = net.time(F.silu(noise_embedding(2.0, 6)))[:, None, None]
    inner = (torch.einsum("oi, bihw -> bohw", net.enter.weight[..., 0, 0], h) + net.enter.bias[:, None, None] + level).reshape(3, 2, -1)
    inner = ((inner - inner.mean(2, keepdim=True)) / (inner.var(2, unbiased=False, keepdim=True) + net.norm.eps).sqrt()).reshape(h.shape)
    inner = F.silu(inner * net.norm.weight[:, None, None] + net.norm.bias[:, None, None])
    expected = torch.einsum("oi, bihw -> bohw", net.leave.weight[..., 0, 0], inner) + net.leave.bias[:, None, None]
    torch.testing.assert_close(net(8 * h, 2.0), 8 * expected)


def test_the_noise_embedding_is_continuous_in_ln_sigma():
    for width in (1, 7, 64):
        points = torch.stack([noise_embedding(math.exp(0.01 * i), width) for i in range(-400, 400)])
        assert points.shape == (800, width)
        assert (points.abs() <= 1).all()
        assert points.diff(dim=0).abs().max() <= 1.01 * 2 * math.pi / PERIODS[0] * 0.01


def test_the_noise_embedding_tells_levels_apart_and_puts_near_ones_nearest():
    points = torch.stack([noise_embedding(math.exp(0.1 * i), 64) for i in range(-60, 60)])
    distances = torch.cdist(points, points) + 1e6 * torch.eye(len(points))
    assert ((distances.argmin(1) - torch.arange(len(points))).abs() == 1).all()
    assert distances.min() > 0.1
