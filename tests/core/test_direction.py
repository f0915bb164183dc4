"""Directions as values: interpolation over the noise level, resizing, algebra, and what is refused."""

import math

import pytest
import torch

from pack.core.hspace.direction import Direction, Family, check_same_family, combine
from pack.core.hspace.discovery import Means, aligned, principal_components
from pack.core.hspace.injection import mask_for, shifted

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


def test_running_means_equal_the_mean():
    means, data = Means(), torch.randn(5, 6, 2, 2)
    for part in (data[:2], data[2:]):
        means.add(1.0, part)
        means.add(3.0, 2 * part)
    shifts, levels = means.result()
    assert levels == (3.0, 1.0)
    torch.testing.assert_close(shifts, torch.stack([2 * data.mean(0), data.mean(0)]))


def test_principal_components_find_a_planted_direction_in_units_of_its_deviation():
    generator = torch.Generator().manual_seed(0)
    axis = torch.randn(6, 4, 4, generator=generator)
    amounts = torch.randn(200, generator=generator)
    samples = 3 + amounts[:, None, None, None] * axis + 0.01 * torch.randn(200, 6, 4, 4, generator=generator)
    components, total = principal_components(samples, 2)
    expected = axis * amounts.std() * axis.flatten()[axis.abs().argmax()].sign()
    torch.testing.assert_close(components[0], expected, rtol=0.02, atol=0.02)
    assert components[0].square().sum() / total > 0.99
    exact = torch.linalg.svdvals((samples - samples.mean(0)).flatten(1).double())[:2] / 199**0.5
    torch.testing.assert_close(components.flatten(1).norm(dim=1).double(), exact, rtol=1e-4, atol=1e-6)


def test_components_are_followed_through_exchanges_and_signs():
    base = torch.linalg.qr(torch.randn(96, 3))[0].T.reshape(3, 6, 4, 4)
    followed = aligned([base, -base[[1, 0, 2]], base[[2, 1, 0]]])
    for level in followed:
        torch.testing.assert_close(level, base)


def test_shift_under_masks_of_zeros_and_ones_bit_for_bit():
    h, shift = torch.randn(2, 6, 4, 4).half(), torch.randn(6, 4, 4)
    assert torch.equal(shifted(h, shift, mask_for(torch.zeros(1, 33, 17), (4, 4))), h)
    assert torch.equal(shifted(h, shift, mask_for(torch.ones(1, 33, 17), (4, 4))), shifted(h, shift))
    assert shifted(h, shift).dtype == torch.float16


def test_power_iteration_finds_the_singular_vectors_of_a_map_and_keeps_off_what_it_must():
    from pack.core.hspace.discovery import Jacobian, leading_right_vectors

    generator = torch.Generator().manual_seed(3)
    u, v = (torch.linalg.qr(torch.randn(n, 6, generator=generator, dtype=torch.float64))[0] for n in (40, 12))
    matrix = u @ torch.diag(torch.tensor([9.0, 6.0, 4.0, 2.0, 1.0, 0.5], dtype=torch.float64)) @ v.T

    def f(x):
        return torch.tanh(x.flatten(1) @ matrix.T * 1e-2) * 1e2  # its Jacobian at 0 is the matrix

    found, values = leading_right_vectors(Jacobian(f, 1e-3), torch.randn(3, 3, 4, generator=generator, dtype=torch.float64), 60)
    torch.testing.assert_close(values.double(), torch.tensor([9.0, 6.0, 4.0], dtype=torch.float64), rtol=1e-3, atol=0)
    torch.testing.assert_close((found.flatten(1) @ v[:, :3]).abs(), torch.eye(3, dtype=torch.float64), rtol=0, atol=1e-3)
    rest, values = leading_right_vectors(
        Jacobian(f, 1e-3), torch.randn(1, 3, 4, generator=generator, dtype=torch.float64), 60, avoid=found[:2]
    )
    torch.testing.assert_close((rest.flatten(1) @ v[:, :3]).abs(), torch.tensor([[0.0, 0.0, 1.0]], dtype=torch.float64), rtol=0, atol=1e-3)
    masked = Jacobian(f, 1e-3, (torch.arange(40) < 20).double())
    expected = torch.linalg.svdvals(matrix[:20])[0]
    assert leading_right_vectors(masked, torch.randn(2, 3, 4, generator=generator, dtype=torch.float64), 80)[1][0].item() == pytest.approx(
        expected.item(), rel=1e-3
    )
