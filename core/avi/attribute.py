"""An attribute learned from pairs of latents, and the edit that it makes (Wang et al. 2025, AVI)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ..latent import append_dims
from ..sampling.recording import Moment
from ..svd.decomposition import LatentSVD, compose, decompose
from ..svd.matrices import MatrixShape
from ..svd.triplets import in_float64
from .integration import LossWeights, Objective, integrate, latent_of, objective
from .network import ValueNetwork

# Ranks that are left open, as a share of the latent's rank (bench/attributes.py).
RANK_SHARE = 0.2


@dataclass(frozen=True)
class LatentKind:
    """What an attribute belongs to: the name of the latent format, and its channels."""

    name: str
    channels: int

    def __str__(self) -> str:
        return f"{self.name} ({self.channels} channels)"


@dataclass(frozen=True)
class Recipe:
    """How codes are taken and integrated. Percents are parts of the run, 0 its start.

    percent: T_x, where the source's code is edited. ahead: dtau, how much further denoised the target's code is.
    branch: where the target's run leaves the source's; 0 from the same noise, as in the paper. source_rank, target_rank:
    m and n, 0 for a fifth of the latent's rank. residual: what the source's m triplets leave out is carried over (ours).
    Raises ValueError for values out of range.
    """

    percent: float = 0.7
    ahead: float = 0.0
    branch: float = 0.25
    source_rank: int = 0
    target_rank: int = 0
    weights: LossWeights = LossWeights()
    residual: bool = True

    def __post_init__(self) -> None:
        for name in ("percent", "ahead", "branch"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name}: got {getattr(self, name)}; choose 0 or more and less than 1.")
        if self.percent + self.ahead >= 1:
            raise ValueError(
                f"percent, ahead: {self.percent} and {self.ahead} lead to {self.percent + self.ahead:g}, past the run's end; "
                "lower one of them."
            )
        if self.branch > self.percent:
            raise ValueError(f"branch: got {self.branch}, after percent {self.percent}; the target's run must part before the edit.")

    def ranks(self, matrix: MatrixShape) -> tuple[int, int]:
        """m and n for matrices of this size."""
        share = max(1, round(RANK_SHARE * matrix.rank))
        return self.source_rank or share, self.target_rank or share


class OtherSize(ValueError):
    """A latent has another size than those that an attribute was learned from."""


@dataclass(frozen=True, eq=False)
class Attribute:
    """An attribute: the recipe, a change for use without a target run, and the network if one was trained.

    stored: leading triplets of the mean difference of the pairs' predicted x0 at T_x, target less source, of one sample.
    notes: what a user should know (prompts). losses: the mean loss of the learning pairs at the plain concatenation, at the
    exact optimum, and of the network if there is one. They are divided by the loss of an empty latent.
    """

    recipe: Recipe
    stored: LatentSVD
    kind: LatentKind
    network: ValueNetwork | None = None
    losses: dict[str, float] = field(default_factory=dict)
    notes: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for part in (self.stored.U, self.stored.S, self.stored.Vh):
            if not torch.isfinite(part).all():
                raise ValueError("attribute: it contains NaN or Inf; learn it again in a wider dtype, or with another sampler.")

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the latent that it was learned at."""
        height, width = self.stored.shape[-2:]
        return height, width

    def change(self, x: Tensor, pair: Pair) -> Tensor:
        """y - x: (b, c, h, w), what strength 1 adds to the source's code x at T_x beside its target's."""
        problem = Problem.of(x, pair, self.recipe)
        return (problem.edited(problem.values(self.network)) - in_float64(x)).to(x)

    def stored_change(self, x: Tensor) -> Tensor:
        """What strength 1 adds to any latent x: (b, c, h, w) of the size that the attribute was learned at.

        The difference of two predicted x0 moves the running latent by as much of it as there is of x0: by all in the frame
        x = x0 + sigma eps, by 1 - sigma in a flow model's. The noise stays. Raises OtherSize, a ValueError, for another size.
        """
        if tuple(x.shape[1:]) != tuple(self.stored.shape[1:]):
            raise OtherSize(f"attribute: it was learned at {tuple(self.stored.shape[1:])}, this latent has {tuple(x.shape[1:])}.")
        return compose(self.stored).to(x).expand_as(x)


@dataclass(frozen=True, eq=False)
class Pair:
    """The target's code (b, c, h, w) as it was met, whose vectors are taken, and the same at the source's noise level."""

    code: Tensor
    matched: Tensor

    @classmethod
    def at(cls, target: Moment, sigma: float, source_sigma: float) -> Pair:
        """From a target run at noise level sigma: re-noised along its own predicted noise to the source's level."""
        if sigma == source_sigma:
            return cls(target.x, target.x)
        return cls(target.x, target.denoised + source_sigma / sigma * (target.x - target.denoised))

    @classmethod
    def foreseen(cls, source: Moment, target: Moment, share: float) -> Pair:
        """From both runs at one noise level and one latent, where they differ in what they foresee alone.

        The target's code is what the latent would be with the target's foreseen picture and the source's noise, x + share (D' - D), with
        share the part of the picture that is in the latent: 1, in flow models 1 - sigma.
        """
        code = source.x + share * (target.denoised - source.denoised)
        return cls(code, code)


@dataclass(frozen=True, eq=False)
class Problem:
    """One pair's integrated triplets, the loss of their values, and what is needed to make a latent of them."""

    x: Tensor
    source: LatentSVD
    both: LatentSVD
    loss: Objective
    residual: bool

    @classmethod
    def of(cls, x: Tensor, pair: Pair, recipe: Recipe) -> Problem:
        """Raises ValueError for ranks out of range, latents that do not fit, or NaN in one of them."""
        source = decompose(x)
        m, n = recipe.ranks(source.matrix)
        both = integrate(source, decompose(pair.code), m, n)
        return cls(
            x,
            LatentSVD(source.U[..., :m], source.S[:, :m], source.Vh[:, :m], source.shape, source.dtype),
            both,
            objective(both, m, x, pair.matched, recipe.weights),
            recipe.residual,
        )

    def values(self, network: ValueNetwork | None) -> Tensor:
        """Singular values (n, k) of the integrated triplets: the exact optimum, or what the network predicts."""
        return self.loss.solution() if network is None else in_float64(network.values(self.both.S, self.both.shape).to(self.both.S.device))

    def edited(self, S: Tensor) -> Tensor:
        """y = U diag(S) V^T, and with the residual also what the source's own triplets left out."""
        y = latent_of(self.both, S)
        return y + in_float64(self.x) - latent_of(self.source, self.source.S) if self.residual else y


@dataclass(frozen=True, eq=False)
class Mixture:
    """Attributes with weights; its change is the weighted sum of theirs."""

    parts: tuple[tuple[Attribute, float], ...]

    def __post_init__(self) -> None:
        kinds = {part.kind for part, _ in self.parts}
        if len(kinds) != 1:
            raise ValueError(
                f"attributes: learned on different kinds of latents, {' and '.join(map(str, kinds)) or 'none'}; mix attributes of one."
            )
        if not all(math.isfinite(weight) for _, weight in self.parts):
            raise ValueError("weights: must be finite.")

    @property
    def kind(self) -> LatentKind:
        return self.parts[0][0].kind


def described(mix: Mixture) -> str:
    """What a user should know of an attribute: what it fits, how it was learned, and how well."""
    lines = [f"for {mix.kind} latents"]
    for i, (attribute, weight) in enumerate(mix.parts):
        recipe, (height, width) = attribute.recipe, attribute.size
        m, n = recipe.ranks(attribute.stored.matrix)
        lines += [
            f"part {i + 1}, weight {weight:g}: latent {height} x {width}, "
            + ", ".join(f"{name} {value}" for name, value in attribute.notes.items()),
            f"  T_x {recipe.percent:g}, dtau {recipe.ahead:g}, branch {recipe.branch:g}, ranks {m} and {n}, "
            + ("with" if recipe.residual else "without")
            + " residual",
            "  loss weights " + ", ".join(f"{name} {value:g}" for name, value in vars(recipe.weights).items()),
            "  losses " + ", ".join(f"{name} {value:.4g}" for name, value in attribute.losses.items()),
        ]
    return "\n".join(lines)


def scaled(change: Tensor, like: Tensor, *, strength: float = 1.0, budget: float = 0.0) -> Tensor:
    """A change times strength. With a budget above 0, each sample's change is scaled to that share of the norm of like.

    change, like: (b, ...). like is the whole difference z' - x between target and source, so a budget of 1 moves as far as the
    target is away. With a budget, only the sign of strength counts.
    """
    if not budget:
        return strength * change
    own, whole = (part.flatten(1).norm(dim=1).clamp(min=1e-12) for part in (change, like))
    factor = math.copysign(budget, strength) * whole / own
    return append_dims(factor, change.ndim) * change


def mean_change(differences: Sequence[Tensor], rank: int) -> LatentSVD:
    """Leading triplets of the mean of the learning pairs' differences, each (1, c, h, w)."""
    return decompose(torch.stack(list(differences)).mean(0), rank=rank)
