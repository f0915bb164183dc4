"""Spans of singular vectors compared: the three properties of Wang et al. 2025 over a run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from .decomposition import LatentSVD, check_rank, decompose

Side = Literal["left", "right"]


def principal_angles(U: Tensor, V: Tensor) -> Tensor:
    """Principal angles (..., k) in 0..pi/2 between the spans of orthonormal columns (..., rows, k), ascending."""
    return torch.linalg.svdvals(U.mT @ V).clamp(max=1.0).arccos()


def geodesic(U: Tensor, V: Tensor) -> Tensor:
    """Geodesic distance on the Grassmannian (...), sqrt(sum theta_i^2): at most sqrt(k) pi/2."""
    return principal_angles(U, V).norm(dim=-1)


def distance_matrix(latents: Sequence[Tensor], rank: int, side: Side) -> Tensor:
    """Mean geodesic distance (steps, steps) between the spans of the first rank singular vectors of latents (b, c, h, w).

    Per channel and picture, then averaged. Raises ValueError for more vectors than there are.
    """
    bases = torch.stack([_basis(latent, rank, side) for latent in latents])  # steps, matrices, rows, k
    rows = [geodesic(basis, bases).mean(1) for basis in bases]
    matrix = torch.stack(rows)
    return ((matrix + matrix.mT) / 2).fill_diagonal_(0)


def _basis(latent: Tensor, rank: int, side: Side) -> Tensor:
    svd = decompose(latent.double())
    check_rank(rank, svd.matrix, "rank")
    return (svd.U if side == "left" else svd.Vh.mT)[..., :rank]


def random_distance(rows: int, rank: int, *, samples: int = 200) -> float:
    """Mean geodesic distance of two random subspaces of this dimension. Subspaces that lie as far apart have nothing in common."""
    generator = torch.Generator().manual_seed(0)
    U, V = (torch.linalg.qr(torch.randn(samples, rows, rank, dtype=torch.float64, generator=generator))[0] for _ in range(2))
    return float(geodesic(U, V).mean())


@dataclass(frozen=True, eq=False)
class FollowedTriplets:
    """Triplets followed over a run.

    ranks: (steps, triplets), from 1. likeness: (steps, triplets) in 0..1, of each triplet to itself one step later.
    """

    ranks: Tensor
    likeness: Tensor

    @property
    def mobility(self) -> float:
        """Mean change of rank from one step to the next, each weighted by how surely it was followed."""
        moved = (self.ranks[1:] - self.ranks[:-1]).abs().double()
        return float((moved * self.likeness[:-1]).sum() / self.likeness[:-1].sum().clamp(min=1e-12))


def followed(latents: Sequence[Tensor], channel: int, count: int) -> FollowedTriplets:
    """The leading triplets of the last latent, (1, c, h, w) each, followed backwards through a run, in one channel.

    Triplets of neighbouring steps are matched one to one by |<u, u'> <v, v'>| (an assignment problem over all triplets).
    Raises ValueError for a channel or a count that the latents do not have.
    """
    if not 0 <= channel < latents[0].shape[1]:
        raise ValueError(f"channel: got {channel + 1}, the latent has {latents[0].shape[1]}.")
    svds = [decompose(latent[:1, channel : channel + 1].double()) for latent in latents]
    check_rank(count, svds[0].matrix, "triplets")
    places = torch.arange(count)
    ranks, likeness = [places + 1], [torch.ones(count, dtype=torch.float64)]
    for before, after in zip(reversed(svds[:-1]), reversed(svds[1:])):
        overlap = triplet_likeness(before, after)
        rows, columns = linear_sum_assignment(-overlap.numpy())
        place_of = torch.empty(len(columns), dtype=torch.long)
        place_of[torch.from_numpy(columns)] = torch.from_numpy(rows)
        likeness.insert(0, overlap[place_of[places], places])
        places = place_of[places]
        ranks.insert(0, places + 1)
    return FollowedTriplets(torch.stack(ranks), torch.stack(likeness))


def triplet_likeness(one: LatentSVD, two: LatentSVD) -> Tensor:
    """|<u_i, u'_j> <v_i, v'_j>| (r, r) in 0..1 of the triplets of the first matrix of each."""
    return ((one.U[0].mT @ two.U[0]) * (one.Vh[0] @ two.Vh[0].mT)).abs().cpu()
