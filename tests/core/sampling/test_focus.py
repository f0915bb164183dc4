"""Where a contrast lies."""

import pytest
import torch

from pack.core.sampling.focus import focus_weights, size_of_change


@pytest.mark.parametrize("shape", [(2, 4, 8, 9), (2, 4, 3, 8, 9), (1, 3, 7)])
def test_the_size_of_a_change_has_one_channel_and_its_places(shape):
    sizes = size_of_change(-2 * torch.ones(shape))
    assert sizes.shape == (shape[0], 1, *shape[2:])
    assert torch.allclose(sizes, torch.full_like(sizes, 2.0))


def test_a_change_in_one_cell_is_spread_over_its_neighbours_alone():
    change = torch.zeros(1, 2, 3, 6, 6)
    change[0, 0, 1, 2, 3] = 9.0
    sizes = size_of_change(change)
    assert sizes[0, 0, 1, 1:4, 2:5].flatten().tolist() == pytest.approx([0.5] * 9)
    assert float(sizes.sum()) == pytest.approx(4.5)


def test_the_weights_rise_from_half_the_focus_to_the_focus():
    sizes = torch.tensor([0.0, 0.35, 0.525, 0.7, 1.0]).reshape(1, 1, 1, 5)
    assert focus_weights(sizes, 0.7).flatten().tolist() == pytest.approx([0.0, 0.0, 0.5, 1.0, 1.0])


def test_each_picture_has_its_own_largest():
    sizes = torch.rand(3, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    scaled = sizes * torch.tensor([1.0, 1e-3, 1e3]).reshape(3, 1, 1, 1)
    torch.testing.assert_close(focus_weights(scaled, 0.6), focus_weights(sizes, 0.6))


def test_no_focus_and_no_change_weigh_all_alike():
    sizes = torch.rand(1, 1, 4, 4)
    assert torch.equal(focus_weights(sizes, 0.0), torch.ones_like(sizes))
    assert torch.equal(focus_weights(torch.zeros_like(sizes), 0.7), torch.ones_like(sizes))
