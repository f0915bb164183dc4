"""Edits of singular values: the operators, and the operation as a value object on a latent SVD."""

from dataclasses import FrozenInstanceError, replace

import numpy as np
import pytest
import torch

from pack.core.svd.decomposition import decompose
from pack.core.svd.noise import bulk_edge
from pack.core.svd.rescaling import (
    Band,
    CurveGain,
    Power,
    SpectrumOperation,
    Threshold,
    Truncate,
    band_gains,
    curve_gains,
    hard_threshold,
    keep_energy,
    rescale,
    scale,
    scale_power,
    soft_threshold,
    truncation_gains,
)


def scale_band(S, *band):
    return scale(S, band_gains(S.shape[-1], *band))


def scale_curve(S, curve):
    return scale(S, curve_gains(S.shape[-1], curve))


def truncate(S, rank):
    return scale(S, truncation_gains(S.shape[-1], rank))


S = torch.tensor([[8.0, 4.0, 2.0, 1.0], [1.0, 1.0, 0.5, 0.0]])
ZERO = torch.zeros(2, 4)
OPERATORS = {
    "band": lambda S: scale_band(S, 2, 3, 0.5),
    "curve": lambda S: scale_curve(S, lambda i: 2 - i),
    "power": lambda S: scale_power(S, 0.5),
    "power 0": lambda S: scale_power(S, 0.0),
    "truncate": lambda S: truncate(S, 2),
    "soft": lambda S: soft_threshold(S, 1.5),
    "hard": lambda S: hard_threshold(S, 1.5),
}
NEUTRAL = {
    "band": lambda S: scale_band(S, 1, 0, 1.0),
    "curve": lambda S: scale_curve(S, np.ones_like),
    "power": lambda S: scale_power(S, 1.0),
    "truncate": lambda S: truncate(S, 4),
    "soft": lambda S: soft_threshold(S, 0.0),
    "hard": lambda S: hard_threshold(S, 0.0),
    "energy": lambda S: keep_energy(S, S),
}


@pytest.mark.parametrize("name", NEUTRAL)
def test_neutral_setting_is_the_identity(name):
    torch.testing.assert_close(NEUTRAL[name](S), S)


@pytest.mark.parametrize("name", OPERATORS)
def test_every_operator_changes_values_in_a_new_tensor_row_by_row(name):
    before = S.clone()
    edited = OPERATORS[name](S)
    assert not torch.allclose(edited, S)
    assert torch.equal(S, before)
    torch.testing.assert_close(edited, torch.cat([OPERATORS[name](row) for row in S.split(1)]))


@pytest.mark.parametrize("name", OPERATORS)
def test_zero_stays_zero(name):
    assert torch.equal(OPERATORS[name](ZERO), ZERO)


@pytest.mark.parametrize("name", OPERATORS)
def test_operators_are_odd(name):
    signs = torch.tensor([1.0, -1.0, 1.0, -1.0])
    torch.testing.assert_close(OPERATORS[name](S * signs), OPERATORS[name](S) * signs)


@pytest.mark.parametrize(
    "name, expected",
    [
        ("band", [8.0, 2.0, 1.0, 1.0]),
        ("curve", [16.0, 20 / 3, 8 / 3, 1.0]),
        ("truncate", [8.0, 4.0, 0.0, 0.0]),
        ("soft", [6.5, 2.5, 0.5, 0.0]),
        ("hard", [8.0, 4.0, 2.0, 0.0]),
    ],
)
def test_values_by_hand(name, expected):
    torch.testing.assert_close(OPERATORS[name](S)[0], torch.tensor(expected))


def test_band_counts_from_1_with_both_ends_and_0_means_to_the_end():
    ones = torch.ones(1, 4)
    assert scale_band(ones, 1, 1, 3.0).tolist() == [[3, 1, 1, 1]]
    assert scale_band(ones, 3, 0, 3.0).tolist() == [[1, 1, 3, 3]]
    assert torch.equal(scale_band(ones, 3, 0, 3.0), scale_band(ones, 3, 4, 3.0))


@pytest.mark.parametrize("first, last, named", [(0, 2, "first"), (5, 0, "first"), (3, 2, "last"), (1, 5, "last"), (1, -1, "last")])
def test_band_out_of_range_names_the_end_and_the_rank(first, last, named):
    with pytest.raises(ValueError, match=f"^{named}: got .* 4 triplets"):
        scale_band(S, first, last, 2.0)


@pytest.mark.parametrize("rank", [0, -1, 5])
def test_truncation_out_of_range_states_the_rank(rank):
    with pytest.raises(ValueError, match=f"last: got {rank}.* 4 triplets"):
        truncate(S, rank)


@pytest.mark.parametrize("exponent", [0.0, 0.3, 1.0, 2.5])
def test_power_keeps_the_energy_and_the_ratios_to_that_power(exponent):
    edited = scale_power(S[:1], exponent)
    assert edited.norm() == pytest.approx(S[:1].norm().item())
    torch.testing.assert_close(edited[:, :-1] / edited[:, 1:], torch.full((1, 3), 2.0**exponent))


def test_power_leaves_rounding_out():
    assert scale_power(torch.tensor([[1.0, 1e-3, 1e-7, 0.0]]), 0.0).tolist() == [pytest.approx([0.5**0.5, 0.5**0.5, 0, 0])]


def test_curve_runs_from_the_largest_value_to_the_smallest():
    seen = []
    scale_curve(torch.ones(2, 5), lambda i: seen.append(i) or i)
    assert seen[0].tolist() == [0, 0.25, 0.5, 0.75, 1]
    assert scale_curve(torch.ones(1, 1), lambda i: i + 3).tolist() == [[3]]


@pytest.mark.parametrize("curve", [lambda i: i * np.nan, lambda i: np.ones(3), lambda i: 1 / i])
@pytest.mark.filterwarnings("ignore:divide by zero")
def test_curve_without_finite_gains_is_refused(curve):
    with pytest.raises(ValueError, match="curve: .* 4 triplets"):
        scale_curve(S, curve)


def test_threshold_of_each_row():
    threshold = torch.tensor([3.0, 0.75])
    assert soft_threshold(S, threshold).tolist() == [[5, 1, 0, 0], [0.25, 0.25, 0, 0]]
    assert hard_threshold(S, threshold).tolist() == [[8, 4, 0, 0], [1, 1, 0, 0]]


def test_keep_energy_keeps_the_norm_of_each_row_and_the_direction():
    edited = torch.tensor([[1.0, 0.0, 0.0, 0.0], [1.0, 2.0, 3.0, 4.0]])
    kept = keep_energy(edited, S)
    torch.testing.assert_close(kept.norm(dim=1), S.norm(dim=1))
    torch.testing.assert_close(torch.cosine_similarity(kept, edited), torch.ones(2))


def test_keep_energy_of_what_was_removed_is_zero():
    assert torch.equal(keep_energy(ZERO, S), ZERO)
    assert torch.equal(keep_energy(S, ZERO), ZERO)


def test_threshold_is_a_multiple_of_the_edge_at_the_given_sigma():
    x = torch.randn(1, 1, 20, 30)
    svd = decompose(x)
    threshold = 0.7 * bulk_edge(svd.matrix, 0.9)
    edited = rescale(svd, SpectrumOperation(Threshold(0.7, sigma=0.9)))
    torch.testing.assert_close(edited.S, (svd.S - threshold).clamp(min=0))


def test_operations_go_to_the_leading_triplets_alone():
    x = torch.randn(1, 4, 16, 24)
    full, some = decompose(x), decompose(x, rank=6)
    for edit in (Band(2, 4, 3.0), Band(5, 0, 0.5), CurveGain(lambda i: 1 + i), Threshold(0.2, sigma=1.0), Truncate(3)):
        torch.testing.assert_close(rescale(some, SpectrumOperation(edit)).S, rescale(full, SpectrumOperation(edit)).S[:, :6])
    with pytest.raises(ValueError, match="first: got 7.* 6 leading triplets of 16"):
        rescale(some, SpectrumOperation(Band(7, 9, 2.0)))
    with pytest.raises(ValueError, match="sigma: .* 6 of 16"):
        rescale(some, SpectrumOperation(Threshold()))


@pytest.mark.parametrize(
    "make, said",
    [
        (lambda: Band(1, 0, float("nan")), "gain: got nan"),
        (lambda: Power(-0.5), "exponent: got -0.5"),
        (lambda: Power(float("inf")), "exponent: got inf"),
        (lambda: Threshold(-1.0), "threshold: got -1.0"),
        (lambda: Threshold(sigma=float("nan")), "sigma: got nan"),
        (lambda: Threshold(kind="firm"), "kind: got 'firm'; choose one of soft, hard"),
        (lambda: SpectrumOperation(Band(), strength=float("inf")), "strength: got inf"),
    ],
)
def test_settings_that_mean_nothing_are_refused_by_name(make, said):
    with pytest.raises(ValueError, match=said):
        make()


def test_operation_is_a_value():
    assert SpectrumOperation(Band(1, 8, 2.0)) == SpectrumOperation(Band(1, 8, 2.0)) != SpectrumOperation(Band(1, 7, 2.0))
    assert len({Power(2.0), Power(2.0), Truncate(3)}) == 2
    with pytest.raises(FrozenInstanceError):
        SpectrumOperation(Band()).strength = 2.0
    assert replace(SpectrumOperation(Power(2.0)), strength=0.5).edit == Power(2.0)
