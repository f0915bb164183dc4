"""Directions as values: interpolation over the noise level, resizing, algebra, and what is refused."""

import math

import pytest
import torch

from pack.core.hspace.direction import Direction, Family, check_same_family, combine

FAMILY = Family("SD15", "EPS", 6)


def direction(levels=(10.0, 1.0, 0.1), size=(4, 4), seed=0):
    return Direction(torch.randn(len(levels), 6, *size, generator=torch.Generator().manual_seed(seed)), levels, FAMILY, "random")


def test_levels_on_file_come_back_bit_for_bit_and_the_ends_hold():
    d = direction()
    for sigma, shift in zip(d.sigmas, d.shifts):
        assert torch.equal(d.at(sigma), shift)
    assert torch.equal(d.at(1e9), d.shifts[0])
    assert torch.equal(d.at(1e-9), d.shifts[-1])


def test_between_levels_the_shift_is_linear_in_log_sigma():
    d = direction()
    torch.testing.assert_close(d.at(math.sqrt(10.0)), d.shifts[:2].mean(0))
    torch.testing.assert_close(d.at(10**-0.25), torch.lerp(d.shifts[1], d.shifts[2], 0.25))


def test_a_single_level_stands_for_all():
    d = direction(levels=(3.0,))
    assert all(torch.equal(d.at(sigma), d.shifts[0]) for sigma in (0.01, 3.0, 80.0))


def test_resampling_on_its_own_levels_changes_nothing():
    d = direction()
    assert torch.equal(d.resampled(d.sigmas).shifts, d.shifts)


def test_resizing_keeps_what_is_constant_over_space_and_the_size_it_has():
    d = direction()
    flat = Direction(torch.ones(3, 6, 4, 4), d.sigmas, FAMILY, "flat")
    torch.testing.assert_close(flat.resized((7, 3)).shifts, torch.ones(3, 6, 7, 3))
    assert d.resized((4, 4)) is d


def test_combining_is_linear_and_meets_on_all_levels():
    one, two = direction(), direction(levels=(5.0, 0.5), seed=1)
    mix = combine([one, two], [2.0, -1.0])
    assert mix.sigmas == (10.0, 5.0, 1.0, 0.5, 0.1)
    for sigma in (20.0, 5.0, 1.0, 0.5, 0.05):
        torch.testing.assert_close(mix.at(sigma), 2 * one.at(sigma) - two.at(sigma))
    assert torch.equal(combine([one], [1.0]).shifts, one.shifts)


def test_orthogonalised_directions_share_nothing_and_span_the_same():
    stack = [direction(seed=i) for i in range(3)]
    parts = [combine(stack, [float(i == j) for j in range(3)], orthogonalise=True).shifts.flatten(1).double() for i in range(3)]
    for i in range(3):
        for j in range(i):
            assert ((parts[i] * parts[j]).sum(1).abs() < 1e-5 * parts[i].norm(dim=1) * parts[j].norm(dim=1)).all()
    torch.testing.assert_close(parts[0], stack[0].shifts.flatten(1).double())
    level = torch.stack([s.shifts[1].flatten().double() for s in stack] + [p[1] for p in parts])
    assert torch.linalg.matrix_rank(level, tol=1e-4) == 3


def test_a_direction_twice_leaves_nothing_to_the_second():
    d = direction()
    assert combine([d, d], [0.0, 1.0], orthogonalise=True).norm < 1e-4 * d.norm


@pytest.mark.parametrize(
    "shifts, levels, words",
    [
        (torch.ones(2, 6, 4, 4), (1.0,), "shifts of shape"),
        (torch.ones(1, 5, 4, 4), (1.0,), "6 channels"),
        (torch.ones(1, 6, 4), (1.0,), "shifts of shape"),
        (torch.full((1, 6, 4, 4), float("inf")), (1.0,), "NaN or Inf"),
        (torch.ones(2, 6, 4, 4), (1.0, 2.0), "descending"),
        (torch.ones(2, 6, 4, 4), (1.0, 1.0), "descending"),
        (torch.ones(2, 6, 4, 4), (1.0, 0.0), "above 0"),
        (torch.ones(0, 6, 4, 4), (), "descending"),
    ],
)
def test_what_is_no_direction_is_refused(shifts, levels, words):
    with pytest.raises(ValueError, match=words):
        Direction(shifts, levels, FAMILY, "test")


def test_families_are_named_when_they_differ():
    with pytest.raises(ValueError, match=r"directions: found on SDXL \(EPS, 6 channels\), but needed here for SD15"):
        check_same_family(FAMILY, Family("SDXL", "EPS", 6), "directions")
    with pytest.raises(ValueError, match="weights: got 1 for 2"):
        combine([direction(), direction()], [1.0])


def test_family_names_what_a_user_must_match():
    assert str(Family("SDXL", "EPS", 1280)) == "SDXL (EPS, 1280 channels)"
