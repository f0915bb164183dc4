"""Directions that look at h, and mixes with them (Kwon et al. 2023)."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

import torch
from torch import Tensor

from .direction import Direction, Family, check_same_family, combine, kept_size, less_projections, parts_of, weighted_sum
from .network import ImplicitNetwork

Form = Literal["full", "mean", "global"]


class AnyDirection(Protocol):
    """What every direction can do, whether its shift is the same for all pictures or looks at each one's h."""

    @property
    def family(self) -> Family: ...

    @property
    def method(self) -> str: ...

    @property
    def notes(self) -> dict[str, str]: ...

    def shift(self, h: Tensor, sigma: float) -> Tensor:
        """The shift (b or 1, c, h, w) of h: (b, c, h, w) at a noise level."""

    def mean(self) -> Direction:
        """The mean shift over pictures for each noise level (Kwon et al. 2023, dh_mean)."""

    def on(self, device: torch.device) -> AnyDirection:
        """The same with its weights on a device."""


@dataclass(frozen=True, eq=False)
class TrainedDirection:
    """An implicit network, and its mean shifts over the pictures that it was trained on."""

    network: ImplicitNetwork
    means: Direction

    @property
    def family(self) -> Family:
        return self.means.family

    @property
    def method(self) -> str:
        return self.means.method

    @property
    def notes(self) -> dict[str, str]:
        return self.means.notes

    def shift(self, h: Tensor, sigma: float) -> Tensor:
        return self.network(h, sigma)

    def mean(self) -> Direction:
        return self.means

    def on(self, device: torch.device) -> TrainedDirection:
        return TrainedDirection(copy.deepcopy(self.network).to(device), self.means)


@dataclass(frozen=True, eq=False)
class MixedDirection:
    """A weighted sum of directions of which some look at h; made by `mixed`."""

    parts: tuple[AnyDirection, ...]
    weights: tuple[float, ...]
    orthogonalise: bool
    keep_size: bool
    notes: dict[str, str] = field(default_factory=dict)
    method = "combination"

    def __post_init__(self) -> None:
        if not self.parts or len(self.parts) != len(self.weights):
            raise ValueError(f"weights: got {len(self.weights)} for {len(self.parts)} directions; give one weight for each.")
        for other in self.parts[1:]:
            check_same_family(self.family, other.family, "directions")

    @property
    def family(self) -> Family:
        return self.parts[0].family

    def shift(self, h: Tensor, sigma: float) -> Tensor:
        shifts = [part.shift(h, sigma).expand(h.shape).to(h.device, torch.float32) for part in self.parts]
        if self.orthogonalise:
            shifts = less_projections(shifts)
        counts = [parts_of(part.notes) for part in self.parts]
        return weighted_sum(kept_size(self.weights, counts) if self.keep_size else self.weights, shifts)

    def mean(self) -> Direction:
        return combine([part.mean() for part in self.parts], self.weights, orthogonalise=self.orthogonalise, keep_size=self.keep_size)

    def on(self, device: torch.device) -> MixedDirection:
        return MixedDirection(tuple(part.on(device) for part in self.parts), self.weights, self.orthogonalise, self.keep_size, self.notes)


def mixed(
    directions: Sequence[AnyDirection], weights: Sequence[float], *, orthogonalise: bool = False, keep_size: bool = False
) -> Direction | MixedDirection:
    """A weighted sum of any directions. If one of them looks at h, they are added, and orthogonalised, picture by picture."""
    plain = [direction for direction in directions if isinstance(direction, Direction)]
    if len(plain) == len(directions):
        return combine(plain, weights, orthogonalise=orthogonalise, keep_size=keep_size)
    result = MixedDirection(tuple(directions), tuple(weights), orthogonalise, keep_size)
    return MixedDirection(result.parts, result.weights, orthogonalise, keep_size, result.mean().notes)


def in_form(direction: AnyDirection, form: Form) -> AnyDirection:
    """A direction as it is (full), its mean over pictures (dh_mean), or over pictures and noise levels (dh_global)."""
    return direction if form == "full" else direction.mean() if form == "mean" else direction.mean().averaged()
