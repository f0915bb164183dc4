"""A spectrum edit as a value object, and its fast application to a latent."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf, isfinite
from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor

from .bulk import bulk_edge, noise_level
from .latent import Layout, MatrixShape, check_latent, matricise, matrix_shape, unmatricise
from .operators import (
    Curve,
    band_gains,
    curve_gains,
    energy_factor,
    hard_threshold,
    keep_energy,
    scale,
    scale_power,
    soft_threshold,
    truncation_gains,
)
from .spectrum import LatentSVD
from .triplets import left_triplets, working_copy

Kind = Literal["soft", "hard"]


class Edit:
    """What is done to the singular values S: (n, r) of matrices of a given size.

    An edit whose gains depend on the rank alone gives them in `gains`; any other overrides the call.
    """

    def gains(self, matrix: MatrixShape) -> Tensor | None:
        """Gains (rank,) of all triplets, or None if they depend on the singular values."""
        return None

    def __call__(self, S: Tensor, matrix: MatrixShape) -> Tensor:
        return scale(S, self.gains(matrix))


@dataclass(frozen=True)
class Band(Edit):
    """Gain on the triplets first..last, counted from 1; last = 0 means to the end."""

    first: int = 1
    last: int = 0
    gain: float = 1.0

    def __post_init__(self) -> None:
        _check_finite("gain", self.gain)

    def gains(self, matrix: MatrixShape) -> Tensor:
        return band_gains(matrix.rank, self.first, self.last, self.gain)


@dataclass(frozen=True)
class CurveGain(Edit):
    """Gain read off a curve over relative rank, 0 for the largest singular value and 1 for the smallest."""

    curve: Curve

    def gains(self, matrix: MatrixShape) -> Tensor:
        return curve_gains(matrix.rank, self.curve)


@dataclass(frozen=True)
class Truncate(Edit):
    """Only the first `rank` triplets are kept."""

    rank: int

    def gains(self, matrix: MatrixShape) -> Tensor:
        return truncation_gains(matrix.rank, self.rank)


@dataclass(frozen=True)
class Power(Edit):
    """Singular values raised to a power, at equal energy."""

    exponent: float = 1.0

    def __post_init__(self) -> None:
        if not 0 <= self.exponent < inf:
            raise ValueError(f"exponent: got {self.exponent}; choose 0 or more (a negative one would divide by vanishing singular values).")

    def __call__(self, S: Tensor, matrix: MatrixShape) -> Tensor:
        return scale_power(S, self.exponent)


@dataclass(frozen=True)
class Threshold(Edit):
    """Soft or hard threshold, in units of the noise bulk's edge.

    sigma: standard deviation of the noise; None reads it off the median singular value of each matrix.
    Gavish & Donoho 2014 find a hard threshold best at 2 / sqrt(3) = 1.155 times the edge of square matrices.
    """

    threshold: float = 1.0
    kind: Kind = "soft"
    sigma: float | None = None

    def __post_init__(self) -> None:
        if self.kind not in get_args(Kind):
            raise ValueError(f"kind: got {self.kind!r}; choose one of {', '.join(get_args(Kind))}.")
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

    edit: Edit
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


def apply_spectrum(x: Tensor, operation: SpectrumOperation, *, layout: Layout = "channel") -> Tensor:
    """Latent with edited singular values, without computing the triplets that the edit leaves alone.

    Equal to `compose(rescale(decompose(x), operation))`. With gains g_i that have one value t beyond the first k,
    y = t x + U_k diag(g - t) U_k^T x, so only the left vectors of k triplets are needed; edits that look at the values
    take all left vectors, and no right ones. Strength 0 returns x itself.
    x: (b, c, h, w) or (b, c, t, h, w), any floating dtype, any device. Accuracy: the rounding of x's dtype; before it 1e-7 of
    the norm of each matrix beside the full SVD in float64 (powers below 1 jump where a value is 1e-6 of the first).
    Raises ValueError for a latent without singular values and for an edit out of range of its rank.
    """
    check_latent(x)
    matrix = matrix_shape(x.shape, layout)
    if operation.strength == 0:
        return x
    X = working_copy(matricise(x, layout))
    wide = X if matrix.rows <= matrix.cols else X.mT
    edited = wide + _change(wide, operation, matrix)
    edited = edited if matrix.rows <= matrix.cols else edited.mT
    return unmatricise(edited.to(x.dtype), tuple(x.shape), layout).to(x.device)


class _Gains(NamedTuple):
    """Left vectors U: (n, rows, k), the gains of their triplets (n, k), and the gain (n, 1) of all others."""

    U: Tensor
    leading: Tensor
    others: Tensor


def _change(X: Tensor, operation: SpectrumOperation, matrix: MatrixShape) -> Tensor:
    """y - X = (t - 1) X + U diag(g - t) U^T X."""
    by_rank = operation.edit.gains(matrix)
    U, leading, others = _value_gains(X, operation, matrix) if by_rank is None else _rank_gains(X, operation, by_rank)
    touched = (leading != others).any(dim=0)
    U, relative = U[..., touched], (leading - others)[:, touched, None]
    return (others - 1)[..., None] * X + U @ (relative * (U.mT @ X))


def _rank_gains(X: Tensor, operation: SpectrumOperation, gains: Tensor) -> _Gains:
    """Gains by rank: only triplets before the constant tail of the gains are computed."""
    differing = (gains != gains[-1]).nonzero()
    count = int(differing[-1]) + 1 if len(differing) else 0
    U, S = left_triplets(X, count)
    gains = (1 + operation.strength * (gains - 1)).to(X)
    leading, others = gains[:count].expand_as(S), gains[-1:].expand(len(X), 1)
    if not operation.keep_energy:
        return _Gains(U, leading, others)
    rest = (X.square().sum((-2, -1)) - S.square().sum(-1)).clamp(min=0).sqrt()
    values = torch.cat([S, rest[:, None]], dim=-1)
    factor = energy_factor(torch.cat([leading, others], dim=-1) * values, values)
    return _Gains(U, factor * leading, factor * others)


def _value_gains(X: Tensor, operation: SpectrumOperation, matrix: MatrixShape) -> _Gains:
    """Gains by singular value: all left vectors; the last triplet's gain stands for the others, of which there are none."""
    U, S = left_triplets(X, matrix.rank)
    gains = torch.where(S > 0, operation(S, matrix) / torch.where(S > 0, S, 1), 1)
    return _Gains(U, gains, gains[:, -1:])


def _check_finite(name: str, value: float) -> None:
    if not isfinite(value):
        raise ValueError(f"{name}: got {value}; choose a finite number.")
