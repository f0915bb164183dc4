"""Latent SVD (Wang et al. 2025): a latent code as singular triplets, channel by channel or jointly."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..latent import check_latent
from .matrices import Layout, MatrixShape, matricise, matrix_shape, unmatricise
from .triplets import in_float64, left_triplets


@dataclass(frozen=True, eq=False)
class LatentSVD:
    """Singular triplets of the n matrices of a latent: matrix j is U[j] diag(S[j]) Vh[j].

    U: (n, rows, r), S: (n, r), Vh: (n, r, cols), float32 (float64 for a float64 latent), on the latent's device.
    Triplets stand in the order of the singular values that they were decomposed with; edited values keep their place.
    r is less than the matrices' rank when only the leading triplets were asked for.
    """

    U: Tensor
    S: Tensor
    Vh: Tensor
    shape: tuple[int, ...]
    dtype: torch.dtype
    layout: Layout = "channel"

    @property
    def matrix(self) -> MatrixShape:
        """Size of the matrices."""
        return matrix_shape(self.shape, self.layout)

    @property
    def rank(self) -> int:
        """Number of triplets held for each matrix."""
        return self.S.shape[-1]

    def with_values(self, S: Tensor) -> LatentSVD:
        """The same singular vectors with other singular values S: (n, r)."""
        return replace(self, S=S.to(self.S))


def decompose(x: Tensor, *, layout: Layout = "channel", rank: int | None = None) -> LatentSVD:
    """Singular value decomposition of each matrix of a latent, x[b, c] = U diag(S) V^T (Wang et al. 2025).

    x: (b, c, h, w) or (b, c, t, h, w), any floating dtype. layout: channel, one h x w matrix per channel (and frame);
    joint, one c x (h w) matrix per sample (and frame). rank: how many leading triplets, None for all.
    Gauge: the entry of largest magnitude in each left vector is positive.
    Computed in float64: `compose` returns x to a relative error of 1e-6 in float32.
    Raises ValueError for a latent without singular values (see `check_latent`) and for a rank out of range.
    """
    check_latent(x)
    matrix = matrix_shape(x.shape, layout)
    count = matrix.rank if rank is None else rank
    check_rank(count, matrix)
    X = in_float64(matricise(x, layout))
    U, S, Vh = _triplets(X, count) if matrix.rows <= matrix.cols else _transposed(_triplets(X.mT, count))
    U, Vh = fix_gauge(U, Vh)
    kept = torch.promote_types(x.dtype, torch.float32)
    U, S, Vh = (part.to(kept).to(x.device).contiguous() for part in (U, S, Vh))
    return LatentSVD(U, S, Vh, tuple(x.shape), x.dtype, layout)


def compose(svd: LatentSVD) -> Tensor:
    """Latent with the triplets of svd, U diag(S) V^T, in the dtype of the latent that was decomposed."""
    matrices = in_float64(svd.U * svd.S[:, None]) @ in_float64(svd.Vh)
    return unmatricise(matrices.to(svd.dtype), svd.shape, svd.layout).to(svd.S.device)


def fix_gauge(U: Tensor, Vh: Tensor) -> tuple[Tensor, Tensor]:
    """Signs of U: (n, rows, r) and Vh: (n, r, cols) such that each left vector's largest entry is positive.

    Entries within 1e-5 of the largest magnitude count as equal and the first of them decides, so that rounding does not.
    """
    magnitude = U.abs()
    largest = (magnitude >= (1 - 1e-5) * magnitude.amax(dim=1, keepdim=True)).int().argmax(dim=1, keepdim=True)
    sign = torch.where(U.gather(1, largest) < 0, -1.0, 1.0).to(U.dtype)
    return U * sign, Vh * sign.mT


def exchange(a: LatentSVD, b: LatentSVD, *, take: str = "values", leading: int | None = None) -> LatentSVD:
    """a with part of b in its leading triplets.

    take: values, b's singular values on a's vectors; vectors, b's vectors with a's values; triplets, both.
    leading: how many leading triplets, None for all. After an exchange of some vectors the columns of U are no longer
    orthogonal among each other; `compose` sums the triplets as they stand.
    Raises ValueError for latents of different shapes or layouts, an unknown take, or more triplets than both hold.
    """
    check_same_shape(a, b)
    if take not in ("values", "vectors", "triplets"):
        raise ValueError(f"take: got {take!r}; choose one of values, vectors, triplets.")
    if leading is None and a.rank != b.rank:
        raise ValueError(
            f"leading: one latent SVD holds {a.rank} triplets, the other {b.rank}; decompose both with the same rank, or say how many."
        )
    both = min(a.rank, b.rank)
    count = both if leading is None else leading
    if not 1 <= count <= both:
        raise ValueError(f"leading: got {count}, but the two latent SVDs hold {a.rank} and {b.rank} triplets; choose 1 to {both}.")
    U, S, Vh = a.U, a.S, a.Vh
    if take != "values":
        U = torch.cat([b.U.to(U)[..., :count], U[..., count:]], dim=2)
        Vh = torch.cat([b.Vh.to(Vh)[:, :count], Vh[:, count:]], dim=1)
    if take != "vectors":
        S = torch.cat([b.S.to(S)[:, :count], S[:, count:]], dim=1)
    return replace(a, U=U, S=S, Vh=Vh)


def check_rank(rank: int, matrix: MatrixShape, name: str = "rank") -> None:
    """Raise ValueError unless a matrix of this size has that many triplets."""
    if not 1 <= rank <= matrix.rank:
        raise ValueError(f"{name}: got {rank}, but the latent's {matrix} matrices have {matrix.rank} triplets; choose 1 to {matrix.rank}.")


def check_same_shape(a: LatentSVD, b: LatentSVD) -> None:
    """Raise ValueError unless both describe latents of one shape, decomposed in one layout."""
    if a.shape != b.shape:
        raise ValueError(f"svd, other: two latents of different shapes, {a.shape} and {b.shape}; connect two of the same size and batch.")
    if a.layout != b.layout:
        raise ValueError(f"svd, other: two different layouts, {a.layout} and {b.layout}; decompose both in the same one.")


def _triplets(X: Tensor, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """Triplets of wide matrices: left vectors from `left_triplets`, then the right ones from U^T X = diag(S) V^T.

    The rows of U^T X are orthogonal to 1e-16 s_1^2; divided by values down to 1e-5 s_1 that is 1e-6. Below, their QR
    factorisation makes orthonormal vectors, and any will do.
    """
    U, S = left_triplets(X, count)
    rows = U.mT @ X
    if (S[:, -1] >= 1e-5 * S[:, 0]).all() and (S[:, 0] > 0).all():
        return U, S, rows / rows.norm(dim=-1, keepdim=True)
    V, R = torch.linalg.qr(rows.mT)
    return U, S, V.mT * torch.where(R.diagonal(dim1=-2, dim2=-1) < 0, -1.0, 1.0).to(V)[..., None]


def _transposed(triplets: tuple[Tensor, Tensor, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    U, S, Vh = triplets
    return Vh.mT, S, U.mT


def variants(x: Tensor, triplets: Sequence[int], gains: Sequence[float]) -> Tensor:
    """Latents (gains * triplets, c, h, w) of x: (1, c, h, w), row by row: in each, s_i of every channel is gain times what it was.

    triplets count from 1. A gain of 1 is x, bit for bit. Raises ValueError for a triplet that x does not have.
    """
    svd = decompose(x)
    if max(triplets) > svd.rank:
        raise ValueError(f"triplets: got {max(triplets)}, a latent of this size has {svd.rank}.")
    parts = torch.stack([_triplet(svd, i - 1).reshape(x.shape) for i in triplets])  # triplets, 1, c, h, w
    return torch.cat([x if gain == 1 else x + (gain - 1) * part.to(x) for gain in gains for part in parts])


def _triplet(svd: LatentSVD, i: int) -> Tensor:
    """s_i u_i v_i^T (n, rows, cols)."""
    return svd.S[:, i, None, None] * svd.U[:, :, i, None] * svd.Vh[:, None, i]
