"""Operators on singular values S: (n, r), a row per matrix (Wang et al. 2025: s_i <- g(i) s_i, and more), and the same as value objects."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import inf, isfinite
from typing import Literal, get_args

import numpy as np
import torch
from torch import Tensor

from .decomposition import LatentSVD
from .matrices import MatrixShape
from .noise import bulk_edge, noise_level

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


Rule = Literal["soft", "hard"]


class SpectrumEdit:
    """What is done to the singular values S: (n, r) of matrices of a given size.

    An edit whose gains depend on the rank alone gives them in `gains`; any other overrides the call.
    """

    def gains(self, matrix: MatrixShape) -> Tensor | None:
        """Gains (rank,) of all triplets, or None if they depend on the singular values."""
        return None

    def __call__(self, S: Tensor, matrix: MatrixShape) -> Tensor:
        gains = self.gains(matrix)
        if gains is None:
            raise NotImplementedError(f"{type(self).__name__} has neither gains by rank nor a call of its own.")
        return scale(S, gains)


@dataclass(frozen=True)
class Band(SpectrumEdit):
    """Gain on the triplets first..last, counted from 1; last = 0 means to the end."""

    first: int = 1
    last: int = 0
    gain: float = 1.0

    def __post_init__(self) -> None:
        _check_finite("gain", self.gain)

    def gains(self, matrix: MatrixShape) -> Tensor:
        return band_gains(matrix.rank, self.first, self.last, self.gain)


@dataclass(frozen=True)
class CurveGain(SpectrumEdit):
    """Gain read off a curve over relative rank, 0 for the largest singular value and 1 for the smallest."""

    curve: Curve

    def gains(self, matrix: MatrixShape) -> Tensor:
        return curve_gains(matrix.rank, self.curve)


@dataclass(frozen=True)
class Truncate(SpectrumEdit):
    """Only the first `rank` triplets are kept."""

    rank: int

    def gains(self, matrix: MatrixShape) -> Tensor:
        return truncation_gains(matrix.rank, self.rank)


@dataclass(frozen=True)
class Power(SpectrumEdit):
    """Singular values raised to a power, at equal energy."""

    exponent: float = 1.0

    def __post_init__(self) -> None:
        if not 0 <= self.exponent < inf:
            raise ValueError(f"exponent: got {self.exponent}; choose 0 or more (a negative one would divide by vanishing singular values).")

    def __call__(self, S: Tensor, matrix: MatrixShape) -> Tensor:
        return scale_power(S, self.exponent)


@dataclass(frozen=True)
class Threshold(SpectrumEdit):
    """Soft or hard threshold, in units of the noise bulk's edge.

    sigma: standard deviation of the noise; None reads it off the median singular value of each matrix.
    Gavish & Donoho 2014 find a hard threshold best at 2 / sqrt(3) = 1.155 times the edge of square matrices.
    """

    threshold: float = 1.0
    kind: Rule = "soft"
    sigma: float | None = None

    def __post_init__(self) -> None:
        if self.kind not in get_args(Rule):
            raise ValueError(f"kind: got {self.kind!r}; choose one of {', '.join(get_args(Rule))}.")
        for name, value in (("threshold", self.threshold), ("sigma", self.sigma or 0.0)):
            if not 0 <= value < inf:
                raise ValueError(f"{name}: got {value}; choose 0 or more.")

    def __call__(self, S: Tensor, matrix: MatrixShape) -> Tensor:
        sigma = noise_level(S, matrix) if self.sigma is None else self.sigma
        level = self.threshold * bulk_edge(matrix, sigma)
        return (soft_threshold if self.kind == "soft" else hard_threshold)(S, level)


@dataclass(frozen=True)
class SpectrumOperation:
    """An edit of the singular values with its strength: S + strength (edit(S) - S).

    strength: 0 none, 1 full; beyond 1 exaggerates and below 0 does the opposite. keep_energy: scale each channel back
    to its Frobenius norm, at every strength.
    """

    edit: SpectrumEdit
    strength: float = 1.0
    keep_energy: bool = False

    def __post_init__(self) -> None:
        _check_finite("strength", self.strength)

    def __call__(self, S: Tensor, matrix: MatrixShape) -> Tensor:
        """Edited singular values of matrices of this size. S: (n, r), all triplets or the leading ones."""
        if self.strength == 0:
            return S
        edited = S + self.strength * (self.edit(S, matrix) - S)
        return keep_energy(edited, S) if self.keep_energy else edited


def rescale(svd: LatentSVD, operation: SpectrumOperation) -> LatentSVD:
    """Latent SVD with edited singular values and the same vectors.

    Raises ValueError for an edit out of range of the latent's rank or of the triplets that svd holds.
    """
    first = getattr(operation.edit, "first", 1)
    if svd.rank < first <= svd.matrix.rank:
        raise ValueError(f"first: got {first}, but this latent SVD holds only the {svd.rank} leading triplets of {svd.matrix.rank}.")
    return svd.with_values(operation(svd.S.double(), svd.matrix))


def _check_finite(name: str, value: float) -> None:
    if not isfinite(value):
        raise ValueError(f"{name}: got {value}; choose a finite number.")
