"""The fast application of a spectrum edit to a latent: without full singular vectors where their spans suffice."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ..latent import check_latent
from .matrices import Layout, MatrixShape, matricise, matrix_shape, unmatricise
from .rescaling import SpectrumOperation, energy_factor
from .triplets import in_float64, left_triplets


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
    X = in_float64(matricise(x, layout))
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
