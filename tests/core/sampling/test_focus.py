"""Where a contrast lies."""

import pytest
import torch

from pack.core.sampling.focus import SPREAD, focus_weights, joined, size_of_change


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


def test_without_spreading_the_weights_rise_from_half_the_focus_to_the_focus():
    sizes = torch.tensor([0.0, 0.35, 0.525, 0.7, 1.0]).reshape(1, 1, 1, 5)
    assert focus_weights(sizes, 0.7).flatten().tolist() == pytest.approx([0.0, 0.0, 0.5, 1.0, 1.0])


def picture(*rows: str) -> torch.Tensor:
    """Sizes (1, 1, h, w) as a drawing: `#` the largest, `o` what the focus of 0.6 spreads over, `-` and `.` what it does not."""
    return torch.tensor([[{"#": 1.0, "o": 0.21, "-": 0.19, ".": 0.05}[cell] for cell in row] for row in rows])[None, None]


def whole(sizes: torch.Tensor) -> list[str]:
    """Where the weight is more than 0.4, under a focus of 0.6, as a drawing: no less is left of a place's corners by the smoothing."""
    weights = focus_weights(sizes, 0.6, SPREAD)
    assert 0 <= float(weights.min()) <= float(weights.max()) <= 1
    return ["".join(".x"[int(w > 0.4)] for w in row) for row in weights[0, 0]]


def test_a_place_spreads_to_what_is_joined_to_it_and_to_nothing_else():
    sizes = picture("oooo---...oo", "o#oo---...oo", "oooo---...oo", "oooo---...oo", *["............"] * 4)
    assert whole(sizes) == ["xxxx........"] * 4 + ["............"] * 4


def test_a_place_spreads_around_a_corner():
    sizes = picture("oo........", "oo........", "oo........", "oo........", "oo........", "oooooooo..", "oooooo#o..")
    assert all("x" in row for row in whole(sizes))


def test_spreading_goes_on_in_the_next_frames_and_no_picture_spreads_into_another():
    place, beside = picture("oo..", "o#..", "oo..", "oo.."), picture("oo..", "oo..", "oo..", "oo..")
    video = torch.stack([place, beside, beside], 2)
    assert float(focus_weights(video, 0.6, 1 / 3)[:, :, 2, :, 0].min()) > 0.5
    apart = torch.cat([place, torch.cat([beside[..., :3], torch.ones(1, 1, 4, 1)], -1)])
    assert float(focus_weights(apart, 0.6, 1 / 3)[1, 0, :, 0].max()) == 0.0


@pytest.mark.parametrize("shape", [(2, 1, 8, 9), (2, 1, 3, 8, 9), (1, 1, 7)])
def test_spread_weights_have_the_shape_of_the_sizes_and_are_no_less_than_the_narrow_ones(shape):
    sizes = torch.rand(shape, generator=torch.Generator().manual_seed(1))
    narrow, spread = focus_weights(sizes, 0.6), focus_weights(sizes, 0.6, SPREAD)
    assert spread.shape == sizes.shape
    assert bool((spread >= narrow).all())


def test_each_picture_has_its_own_largest():
    sizes = torch.rand(3, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    scaled = sizes * torch.tensor([1.0, 1e-3, 1e3]).reshape(3, 1, 1, 1)
    for spread in (1.0, 0.3):
        torch.testing.assert_close(focus_weights(scaled, 0.6, spread), focus_weights(sizes, 0.6, spread))


def test_nothing_spreads_over_what_changes_as_half_of_the_picture_does():
    rows = ("oo......", "o#......", "oo......", "........", "........")
    assert whole(picture(*rows)) == ["xx......"] * 3 + ["........"] * 2
    restless = picture(*(row.replace(".", "-") for row in rows))
    assert torch.equal(
        focus_weights(restless, 0.6, SPREAD), torch.maximum(focus_weights(restless, 0.6), joined(restless == 1, restless == 1))
    )


def test_a_focus_of_1_spreads_too():
    sizes = torch.tensor([[[[1.0, 0.5, 0.4, 0.3, 0.0, 0.0, 0.0, 0.0, 0.0, 0.5]]]])
    assert focus_weights(sizes, 1.0, 1 / 3)[0, 0, 0].tolist() == pytest.approx([1.0, 1.0, 2 / 3, 1 / 3, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0])


def test_no_focus_and_no_change_weigh_all_alike():
    sizes = torch.rand(1, 1, 4, 4)
    assert torch.equal(focus_weights(sizes, 0.0), torch.ones_like(sizes))
    assert torch.equal(focus_weights(torch.zeros_like(sizes), 0.7, 0.5), torch.ones_like(sizes))
