"""How far AVI moves a latent, in closed form: over strength, ranks and the weights of the loss (ours, for Wang et al. 2025)."""

from __future__ import annotations

import torch
from torch import Tensor

from ..svd.matrices import matricise
from ..svd.triplets import in_float64
from .attribute import Pair, Problem
from .integration import SAME


def change_of(problem: Problem, S: Tensor, strength: float = 1.0) -> Tensor:
    """The norm (b,) of what an edit with singular values S: (n, k) adds at a strength, from Gram matrices of triplets alone.

    With the residual, y - x is a sum of the integrated triplets, of which x has its first m already: |y - x|^2 = d' G d, d = S - [S_x, 0].
    Without it, S' G S - 2 p' S + |x|^2 with p_i = u_i' x v_i. Summed over a latent's matrices; strength multiplies.
    """
    gram, from_x, whole = parts_of(problem)
    if problem.residual:
        moved = S.to(gram).clone()
        moved[:, : problem.source.S.shape[-1]] -= in_float64(problem.source.S)
        squared = quadratic(gram, moved)
    else:
        values = S.to(gram)
        squared = quadratic(gram, values) - 2 * (from_x * values).sum(-1) + whole
    return abs(strength) * by_sample(problem, squared).clamp(min=0).sqrt()


def change_over_weights(problem: Problem, pair: Pair, shares: Tensor) -> Tensor:
    """The norms (b, len(shares)) of the exact optimum's change, for the target's share w = a1 / (a1 + a2) of the first two terms alone.

    The optimum is affine in w, S = S_p + w (S_q - S_p) with G S_p = p and G S_q = q: |y - x|^2 is a parabola in w.
    """
    gram, from_x, _ = parts_of(problem)
    target = in_float64(matricise(pair.matched.expand(problem.both.shape), problem.both.layout))
    from_z = projections(problem, target)
    values, vectors = torch.linalg.eigh(gram)
    kept = values > SAME * values[:, -1:]
    inverse = torch.where(kept, 1 / torch.where(kept, values, 1), 0)
    at_x, at_z = ((vectors @ (inverse[..., None] * (vectors.mT @ part[..., None])))[..., 0] for part in (from_x, from_z))
    return torch.stack([change_of(problem, at_x + w * (at_z - at_x)) for w in shares.tolist()], -1)


def strength_for(problem: Problem, S: Tensor, pair: Pair, budget: float) -> Tensor:
    """The strengths (b,) at which an edit moves each sample by that share of the way |z' - x| to its target."""
    way = in_float64(pair.matched - problem.x).flatten(1).norm(dim=1)
    return budget * way / change_of(problem, S).clamp(min=1e-12)


def parts_of(problem: Problem) -> tuple[Tensor, Tensor, Tensor]:
    """G: (n, k, k), p: (n, k) and |x|^2: (n,) of a problem's matrices, float64."""
    U, Vh = in_float64(problem.both.U), in_float64(problem.both.Vh)
    X = in_float64(matricise(problem.x, problem.both.layout))
    return (U.mT @ U) * (Vh @ Vh.mT), projections(problem, X), X.square().sum((-2, -1))


def projections(problem: Problem, matrices: Tensor) -> Tensor:
    """u_i' M v_i: (n, k) of matrices (n, rows, columns)."""
    U, Vh = in_float64(problem.both.U), in_float64(problem.both.Vh)
    return ((U.mT @ matrices) * Vh).sum(-1)


def quadratic(gram: Tensor, S: Tensor) -> Tensor:
    """S' G S: (n,)."""
    return (S * (gram @ S[..., None])[..., 0]).sum(-1)


def by_sample(problem: Problem, squared: Tensor) -> Tensor:
    """Sums (b,) over the matrices of each sample."""
    return squared.reshape(problem.x.shape[0], -1).sum(-1)
