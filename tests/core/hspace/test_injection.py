"""Where a shift of h acts, and how strongly: places in a picture, masks, and the gain of the asymmetric step."""

import pytest
import torch

from pack.core.hspace.injection import Place, Window, asymmetric_gain, mask_for, matched_scale, places_of, shifted
from pack.core.sampling.ddim import euler_step
from pack.tests.core.sampling.gaussian import SIGMAS, noise


def pictures(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("top, left, height, width", [(0, 0, 9, 7), (0, 0, 4, 4), (5, 3, 4, 4), (2, 0, 7, 1), (6, 5, 5, 4), (0, 6, 9, 7)])
def test_a_part_is_found_where_it_was_cut_over_the_edges_too(top, left, height, width):
    whole = pictures(3, 4, 9, 7)
    rows, columns = [(top + i) % 9 for i in range(height)], [(left + i) % 7 for i in range(width)]
    ((number, place),) = places_of(whole[1][:, rows][:, :, columns], whole)
    assert (number, list(place.rows), list(place.columns), place.size) == (1, rows, columns, (9, 7))


def test_a_part_that_was_changed_is_nowhere_and_one_of_equal_pictures_is_in_each():
    whole = pictures(2, 4, 9, 7)
    part = whole[0, :, 2:6, 1:5].clone()
    part[3, 3, 3] += 1e-6
    assert places_of(part, whole) == []
    assert places_of(pictures(4, 10, 7), whole) == []
    assert [number for number, _ in places_of(whole[0, :, 2:6, 1:5], whole[[0, 0, 1]])] == [0, 1]


def test_a_part_that_is_the_same_everywhere_is_at_every_place():
    assert len(places_of(torch.zeros(4, 2, 2), torch.zeros(1, 4, 3, 3))) == 9


@pytest.mark.parametrize("pixels", [(16, 24), (128, 192), (8, 12)])
def test_a_mask_is_cut_with_the_part(pixels):
    mask = pictures(2, *pixels).sigmoid()
    share = pixels[0] / 16
    rows, columns = slice(round(4 * share), round(12 * share)), slice(round(8 * share), round(16 * share))
    torch.testing.assert_close(
        mask_for(mask, (4, 4), Place(range(4, 12), range(8, 16), (16, 24))), mask_for(mask[:, rows, columns], (4, 4))
    )
    assert torch.equal(mask_for(mask, (4, 6), Place(range(16), range(24), (16, 24))), mask_for(mask, (4, 6)))


def test_a_mask_is_turned_with_a_part_over_the_edge():
    mask = pictures(1, 32, 48).sigmoid()
    turned = Place([14, 15, 0, 1], [20, 21, 22, 23, 0, 1], (16, 24))
    torch.testing.assert_close(mask_for(mask, (2, 3), turned), mask_for(mask.roll((4, 8), (1, 2))[:, :8, :12], (2, 3)))


def test_a_mask_with_less_pixels_than_cells_has_one_for_each_cell():
    assert mask_for(torch.eye(2)[None], (1, 1), Place([0], [0], (16, 16))).item() == 1
    assert mask_for(torch.eye(2)[None], (1, 1), Place([0], [15], (16, 16))).item() == 0


def test_shift_under_masks_of_zeros_and_ones_bit_for_bit():
    h, shift = torch.randn(2, 6, 4, 4).half(), torch.randn(6, 4, 4)
    assert torch.equal(shifted(h, shift, mask_for(torch.zeros(1, 33, 17), (4, 4))), h)
    assert torch.equal(shifted(h, shift, mask_for(torch.ones(1, 33, 17), (4, 4))), shifted(h, shift))
    assert shifted(h, shift).dtype == torch.float16


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


def test_norm_guard_keeps_the_size_of_h():
    from pack.core.hspace.injection import shifted

    h, shift = torch.randn(3, 8, 4, 4), 5 * torch.randn(8, 4, 4)
    guarded = shifted(h, shift, keep_norm=True)
    torch.testing.assert_close(guarded.flatten(1).norm(dim=1), h.flatten(1).norm(dim=1))
    assert (guarded - h).abs().max() > 0.1


def test_window_weights():
    window = Window(0.2, 0.8, 0.1)
    assert [round(window.weight(p), 6) for p in (0.1, 0.2, 0.25, 0.5, 0.75, 0.8, 0.9)] == [0, 0, 0.5, 1, 0.5, 0, 0]


@pytest.mark.parametrize(
    "first, last, power, expected", [(1e-4, 0.02, 1, (6.14, 5.66, 5.25)), (0.00085, 0.012, 2, (9.81, 9.43, 9.10))], ids=["DDPM", "SD"]
)
def test_the_paper_s_coefficient_1_in_this_unit(first, last, power, expected):
    """Trained in 40 steps and edited down to half of the time steps; the help page of Apply Direction tells these."""
    betas = torch.linspace(first ** (1 / power), last ** (1 / power), 1000, dtype=torch.float64) ** power
    kept = torch.cumprod(1 - betas, 0)
    levels = ((1 - kept) / kept).sqrt()
    for steps, strength in zip((20, 40, 1000), expected):
        times = torch.linspace(999, 0, steps, dtype=torch.float64).ceil().long()
        scale = matched_scale([*levels[times].tolist(), 0.0], [float(t >= 500) for t in times])
        assert 40 / steps / scale == pytest.approx(strength, abs=0.06)
