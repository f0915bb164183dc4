"""Operators on singular values S: (n, r), a row per matrix (Wang et al. 2025: s_i <- g(i) s_i, and more).

Triplets are counted from 1, as singular values are: s_1 is the largest. Zero rows stay zero.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

Curve = Callable[[np.ndarray], np.ndarray]

# Singular values below this share of the first are rounding of a float32 latent and count as zero.
RELATIVE_ZERO = 1e-6


def band_gains(rank: int, first: int, last: int, gain: float) -> Tensor:
    """Gains (rank,) that are `gain` from triplet first to triplet last, both included, and 1 elsewhere.

    last = 0 means to the end. Raises ValueError for a band that is not within 1..rank.
    """
    end = last or rank
    if not 1 <= first <= rank:
        raise ValueError(f"first: got {first}, but there are {rank} triplets; choose 1 to {rank}.")
    if not first <= end <= rank:
        raise ValueError(f"last: got {last}, but the band starts at {first} of {rank} triplets; choose {first} to {rank}, or 0 for all.")
    gains = torch.ones(rank, dtype=torch.float64)
    gains[first - 1 : end] = gain
    return gains


def curve_gains(rank: int, curve: Curve) -> Tensor:
    """Gains (rank,) read off a curve over relative rank i / (rank - 1), i = 0 for the largest singular value.

    curve: float64 array of relative ranks in 0..1 -> array of gains. Raises ValueError if a gain is not finite.
    """
    gains = torch.as_tensor(curve(np.linspace(0.0, 1.0, rank)), dtype=torch.float64)
    if gains.shape != (rank,) or not torch.isfinite(gains).all():
        raise ValueError(f"curve: gave no finite gain for each of {rank} triplets; connect a curve defined from 0 to 1.")
    return gains


def truncation_gains(rank: int, kept: int) -> Tensor:
    """Gains (rank,) that are 1 for the first `kept` triplets and 0 for the others."""
    if not 1 <= kept <= rank:
        raise ValueError(f"last: got {kept}, but there are {rank} triplets, of which at least one is kept; choose 1 to {rank}.")
    return (torch.arange(rank) < kept).double()


def scale(S: Tensor, gains: Tensor) -> Tensor:
    """s_i <- g_i s_i, for gains of all triplets of the matrices and the leading r values."""
    return S * gains[: S.shape[-1]].to(S)


def scale_band(S: Tensor, first: int, last: int, gain: float) -> Tensor:
    """s_i <- gain s_i for triplets first..last (see `band_gains`)."""
    return scale(S, band_gains(S.shape[-1], first, last, gain))


def scale_curve(S: Tensor, curve: Curve) -> Tensor:
    """s_i <- g(i / (r - 1)) s_i (see `curve_gains`)."""
    return scale(S, curve_gains(S.shape[-1], curve))


def truncate(S: Tensor, rank: int) -> Tensor:
    """s_i <- 0 for i > rank."""
    return scale(S, truncation_gains(S.shape[-1], rank))


def scale_power(S: Tensor, exponent: float) -> Tensor:
    """s_i <- c sign(s_i) |s_i|^exponent, c such that the energy sum s_i^2 of each row is kept.

    exponent >= 0: 1 changes nothing, above it the leading triplets gain, below it the trailing ones, 0 makes all equal.
    Values below 1e-6 of the largest count as zero and become zero.
    """
    largest = S.abs().amax(dim=-1, keepdim=True)
    relative = S.abs() / torch.where(largest > 0, largest, 1)
    raised = torch.where(relative > RELATIVE_ZERO, S.sign() * relative**exponent, 0)
    return keep_energy(raised, S)


def soft_threshold(S: Tensor, threshold: Tensor | float) -> Tensor:
    """s_i <- sign(s_i) max(|s_i| - threshold, 0). threshold: number, or (n,) one per row."""
    return S.sign() * (S.abs() - _per_row(threshold, S)).clamp(min=0)


def hard_threshold(S: Tensor, threshold: Tensor | float) -> Tensor:
    """s_i <- s_i if |s_i| > threshold, else 0. threshold: number, or (n,) one per row."""
    return torch.where(S.abs() > _per_row(threshold, S), S, 0)


def keep_energy(edited: Tensor, S: Tensor) -> Tensor:
    """Edited values scaled so that each row has the Frobenius norm of S; a row that is all zero stays zero."""
    return edited * energy_factor(edited, S)


def energy_factor(edited: Tensor, S: Tensor) -> Tensor:
    """Factor (n, 1) that gives each row of edited the Frobenius norm of S; 0 where a row is all zero."""
    norm, target = edited.norm(dim=-1, keepdim=True), S.norm(dim=-1, keepdim=True)
    return torch.where(norm > 0, target / torch.where(norm > 0, norm, 1), 0)


def _per_row(threshold: Tensor | float, S: Tensor) -> Tensor:
    threshold = torch.as_tensor(threshold, dtype=S.dtype, device=S.device)
    return threshold[..., None] if threshold.ndim else threshold
