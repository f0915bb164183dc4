"""AVI, attribute vector integration (Wang et al. 2025): the singular triplets of two latents in one, and the values they take."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from ..svd.decomposition import LatentSVD, check_rank
from ..svd.matrices import matricise, unmatricise
from ..svd.triplets import in_float64

# Eigenvalues of a Gram matrix below this share of the largest are two triplets that are the same: either will do.
SAME = 1e-9


@dataclass(frozen=True)
class LossWeights:
    """Weights of the four terms of the loss (methods of Wang et al. 2025, section on AVI; the values are ours).

    target: pull to the target latent. source: keep the source's. target_values, source_values: keep each part's
    singular values as they were. Raises ValueError for a negative weight, or if the first two are 0.
    """

    target: float = 1.0
    source: float = 1.0
    target_values: float = 0.0
    source_values: float = 0.0

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if not (math.isfinite(value) and value >= 0):
                raise ValueError(f"{name}_weight: got {value}; choose 0 or more.")
        if self.target + self.source == 0:
            raise ValueError("target_weight, source_weight: both are 0, so that no latent decides; set one of them above 0.")


def integrate(source: LatentSVD, target: LatentSVD, source_rank: int, target_rank: int) -> LatentSVD:
    """The leading triplets of both, U = [U_x[:, :m], U_z[:, :n]] and so on; m + n of them, as they stand.

    target may hold one sample for all of source's. Raises ValueError for ranks out of range and sizes that differ.
    """
    check_rank(source_rank, source.matrix, "source_rank")
    check_rank(target_rank, target.matrix, "target_rank")
    if source.shape[1:] != target.shape[1:] or target.shape[0] not in (1, source.shape[0]):
        raise ValueError(
            f"target: a latent of shape {target.shape} does not go with one of shape {source.shape}; both need one size and batch."
        )
    copies = source.shape[0] // target.shape[0]
    U, S, Vh = (torch.cat([part.to(source.U)] * copies) for part in (target.U, target.S, target.Vh))
    m, n = source_rank, target_rank
    return replace(
        source,
        U=torch.cat([source.U[..., :m], U[..., :n]], -1),
        S=torch.cat([source.S[:, :m], S[:, :n]], -1),
        Vh=torch.cat([source.Vh[:, :m], Vh[:, :n]], 1),
    )


class Objective(NamedTuple):
    """The loss of singular values S: (n, k) of integrated triplets, S' A S - 2 b' S + c for each of n matrices.

    For fixed vectors it is quadratic, so it needs no image and has a closed optimum. A: (n, k, k), b: (n, k), c: (n,),
    float64.
    """

    A: Tensor
    b: Tensor
    c: Tensor

    def __call__(self, S: Tensor) -> Tensor:
        """Loss (n,) of S: (n, k), in S's precision."""
        A, b, c = (part.to(S) for part in self)
        return ((A @ S[..., None])[..., 0] * S).sum(-1) - 2 * (b * S).sum(-1) + c

    def solution(self) -> Tensor:
        """The singular values (n, k) of least loss, the smallest such where several are."""
        values, vectors = torch.linalg.eigh(self.A)
        kept = values > SAME * values[:, -1:]
        inverse = torch.where(kept, 1 / torch.where(kept, values, 1), 0)
        return (vectors @ (inverse * (vectors.mT @ self.b[..., None])[..., 0])[..., None])[..., 0]


def objective(integrated: LatentSVD, source_rank: int, x: Tensor, z: Tensor, weights: LossWeights) -> Objective:
    """a1 |y - z|^2 + a2 |y - x|^2 + a3 |S_z-part - S_z|^2 + a4 |S_x-part - S_x|^2 of y = U diag(S) V^T, per matrix.

    x: the source's latent (b, c, h, w), z: the target's at the same noise level. G_ij = (u_i . u_j)(v_i . v_j) is the
    Gram matrix of the triplets.
    """
    U, Vh, S = (in_float64(part) for part in (integrated.U, integrated.Vh, integrated.S))
    X, Z = (in_float64(matricise(part.expand(integrated.shape), integrated.layout)) for part in (x, z))
    gram = (U.mT @ U) * (Vh @ Vh.mT)
    from_x, from_z = (((U.mT @ part) * Vh).sum(-1) for part in (X, Z))
    a1, a2, a3, a4 = weights.target, weights.source, weights.target_values, weights.source_values
    keep = torch.full_like(S[0], a3)
    keep[:source_rank] = a4
    A = (a1 + a2) * gram + torch.diag(keep)
    b = a1 * from_z + a2 * from_x + keep * S
    c = a1 * Z.square().sum((-2, -1)) + a2 * X.square().sum((-2, -1)) + (keep * S.square()).sum(-1)
    return Objective(A, b, c)


def latent_of(integrated: LatentSVD, S: Tensor) -> Tensor:
    """Latent U diag(S) V^T of integrated triplets, float64, on the device of `in_float64`."""
    matrices = (in_float64(integrated.U) * in_float64(S)[:, None]) @ in_float64(integrated.Vh)
    return unmatricise(matrices, integrated.shape, integrated.layout)
