"""Directions that look at h, or at h and the time embedding, and mixes with them (Kwon et al. 2023)."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, Protocol

import torch
from torch import Tensor

from .delta_block import DeltaBlock
from .direction import Direction, Family, combine, common_family, kept_size, less_projections, mix_notes, parts_of, weighted_sum
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

    @property
    def embedded(self) -> int | None:
        """Channels of the UNet's time embedding, if it looks at that; else None."""

    def shift(self, h: Tensor, sigma: float, emb: Tensor | None = None) -> Tensor:
        """The shift (b or 1, c, h, w) of h: (b, c, h, w) at a noise level.

        emb: the UNet's time embedding (b or 1, e). Raises ValueError if it looks at that, and none is given or one of another width.
        """

    def mean(self) -> Direction:
        """The mean shift over pictures for each noise level (Kwon et al. 2023, dh_mean). Raises ValueError if it has none."""

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

    @property
    def embedded(self) -> int | None:
        return None

    def shift(self, h: Tensor, sigma: float, emb: Tensor | None = None) -> Tensor:
        return self.network(h, sigma)

    def mean(self) -> Direction:
        return self.means

    def on(self, device: torch.device) -> TrainedDirection:
        return TrainedDirection(copy.deepcopy(self.network).to(device), self.means)


@dataclass(frozen=True, eq=False)
class BlockDirection:
    """A block that looks at each h and at the UNet's time embedding, of which no mean over pictures is known."""

    block: DeltaBlock
    family: Family
    method: str
    notes: dict[str, str] = field(default_factory=dict)

    @property
    def embedded(self) -> int | None:
        return self.block.embedded

    def shift(self, h: Tensor, sigma: float, emb: Tensor | None = None) -> Tensor:
        width = None if emb is None else emb.shape[-1]
        if emb is None or width != self.embedded:
            raise ValueError(
                f"direction: it looks at a time embedding of {self.embedded} channels, and this model's middle block gets "
                f"{'none' if width is None else f'one of {width}'}. Connect the pixel-space checkpoint that it was made for."
            )
        shift: Tensor = self.block(h, emb)
        return shift

    def mean(self) -> Direction:
        raise ValueError(
            "form, average_over_time: this direction is a block of Asyrp's authors, or has one in it, of which no mean over pictures is "
            "known. Choose form full, and turn average_over_time off."
        )

    def on(self, device: torch.device) -> BlockDirection:
        return replace(self, block=copy.deepcopy(self.block).to(device))


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
        common_family([part.family for part in self.parts])
        widths = {part.embedded for part in self.parts} - {None}
        if len(widths) > 1:
            raise ValueError(f"directions: they look at time embeddings of different widths ({', '.join(map(str, widths))}).")

    @property
    def family(self) -> Family:
        return common_family([part.family for part in self.parts])

    @property
    def embedded(self) -> int | None:
        return next((part.embedded for part in self.parts if part.embedded is not None), None)

    def shift(self, h: Tensor, sigma: float, emb: Tensor | None = None) -> Tensor:
        shifts = [part.shift(h, sigma, emb).expand(h.shape).to(h.device, torch.float32) for part in self.parts]
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
    if result.embedded is None:
        result.mean()  # raises for values that are finite one by one and not in a sum
    described = [direction.notes for direction in directions], [direction.method for direction in directions]
    return replace(result, notes=mix_notes(*described, weights, keep_size=keep_size))


def in_form(direction: AnyDirection, form: Form) -> AnyDirection:
    """A direction as it is (full), its mean over pictures (dh_mean), or over pictures and noise levels (dh_global)."""
    return direction if form == "full" else direction.mean() if form == "mean" else direction.mean().averaged()
