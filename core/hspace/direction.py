"""Directions in h-space: a shift of the middle block's output for every noise level, and their algebra."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
import torch.nn.functional as F
from torch import Tensor

MIXED = "mixed"  # in the notes of a mix that kept its size: of how many directions
PIXEL = "Pixel"  # the family of all pixel-space checkpoints; that of one of them goes on with its identity


@dataclass(frozen=True)
class Family:
    """What a direction belongs to: the name of the model family, its prediction type, and the channels of h."""

    name: str
    prediction: str
    channels: int

    def __str__(self) -> str:
        name = f"{PIXEL}, whichever checkpoint" if self.name == PIXEL else self.name
        return f"{name} ({self.prediction}, {self.channels} channels)"

    def fits(self, other: Family) -> bool:
        """Whether they are the same, where a pixel-space family that names no checkpoint is that of each of them."""
        names = {self.name, other.name}
        same = len(names) == 1 or (PIXEL in names and self.is_pixel and other.is_pixel)
        return same and (self.prediction, self.channels) == (other.prediction, other.channels)

    @property
    def is_pixel(self) -> bool:
        """Whether it is that of pixel-space checkpoints."""
        return self.name.partition(" ")[0] == PIXEL


@dataclass(frozen=True, eq=False)
class Direction:
    """Shifts of h, `h <- h + strength dh(sigma)`, one for each noise level on file.

    shifts: (n, c, h, w) float32 on the CPU. sigmas: n noise levels, descending, above 0; a single one stands for all
    levels. method says how the direction was found, notes what a user should know of it (prompts, seeds).
    Raises ValueError if they do not fit together or are not finite.
    """

    shifts: Tensor
    sigmas: tuple[float, ...]
    family: Family
    method: str
    notes: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.shifts.ndim != 4 or self.shifts.shape[0] != len(self.sigmas) or self.shifts.shape[1] != self.family.channels:
            raise ValueError(
                f"direction: got shifts of shape {tuple(self.shifts.shape)} for {len(self.sigmas)} noise levels and "
                f"{self.family.channels} channels; expected (levels, channels, h, w)."
            )
        if not torch.isfinite(self.shifts).all():
            raise ValueError("direction: its shifts contain NaN or Inf; find it again in a wider dtype, or over fewer steps.")
        levels = list(self.sigmas)
        if not levels or not all(math.isfinite(s) and s > 0 for s in levels) or levels != sorted(set(levels), reverse=True):
            raise ValueError(f"direction: noise levels must be finite, above 0 and descending; got {levels[:4]}...")

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of h that the direction was found at."""
        height, width = self.shifts.shape[-2:]
        return height, width

    @property
    def norm(self) -> float:
        """Mean Euclidean norm of the shifts over the noise levels."""
        return float(self.shifts.flatten(1).norm(dim=1).mean())

    def at(self, sigma: float) -> Tensor:
        """The shift (c, h, w) at a noise level: linear in log sigma between those on file, the nearest one beyond them."""
        levels = self.sigmas
        if len(levels) == 1 or sigma >= levels[0]:
            return self.shifts[0]
        if sigma <= levels[-1]:
            return self.shifts[-1]
        below = next(i for i, level in enumerate(levels) if level <= sigma)
        upper, lower = levels[below - 1], levels[below]
        amount = math.log(upper / sigma) / math.log(upper / lower)
        return torch.lerp(self.shifts[below - 1], self.shifts[below], amount)

    def resampled(self, sigmas: Sequence[float]) -> Direction:
        """The same direction on other noise levels."""
        return replace(self, shifts=torch.stack([self.at(sigma) for sigma in sigmas]), sigmas=tuple(sigmas))

    def resized(self, size: tuple[int, int]) -> Direction:
        """The same direction for an h of another height and width."""
        return self if size == self.size else replace(self, shifts=resize(self.shifts, size))

    @property
    def embedded(self) -> int | None:
        """None: it looks at no time embedding."""
        return None

    def shift(self, h: Tensor, sigma: float, emb: Tensor | None = None) -> Tensor:
        """The shift (1, c, h, w) of any h: (b, c, h, w) at a noise level, in its size and on its device."""
        height, width = h.shape[-2:]
        return self.resampled([sigma]).resized((height, width)).shifts.to(h.device)

    def mean(self) -> Direction:
        """Itself: it is the same for all pictures."""
        return self

    def on(self, device: torch.device) -> Direction:
        """Itself: only the shift in use goes to a device."""
        return self

    def averaged(self) -> Direction:
        """One shift for all noise levels, the mean over them (Kwon et al. 2023, dh_global)."""
        return replace(self, shifts=self.shifts.mean(0, keepdim=True), sigmas=self.sigmas[:1])


def resize(shifts: Tensor, size: tuple[int, int]) -> Tensor:
    """Shifts (n, c, h, w) at another height and width, bilinear, with antialiasing where they shrink."""
    return F.interpolate(shifts, size, mode="bilinear", align_corners=False, antialias=True)


def combine(
    directions: Sequence[Direction], weights: Sequence[float], *, orthogonalise: bool = False, keep_size: bool = False
) -> Direction:
    """Weighted sum of directions, sum_i c_i dh_i, on the noise levels of all.

    orthogonalise: take from each what it shares with those before it (Gram-Schmidt, level by level), so that the later
    ones do not move what the earlier ones move. keep_size: divide by sqrt(N), as Kwon et al. 2023 do (section 5.4);
    of directions that are such mixes, N counts the parts, and all parts weigh alike.
    Raises ValueError if there is none, if the numbers differ, or if families differ.
    """
    if not directions or len(directions) != len(weights):
        raise ValueError(f"weights: got {len(weights)} for {len(directions)} directions; give one weight for each.")
    first, family = directions[0], common_family([d.family for d in directions])
    several = [d for d in directions if len(d.sigmas) > 1]
    levels = sorted({s for d in several or directions[:1] for s in d.sigmas}, reverse=True)
    stack = [d.resampled(levels).resized(first.size).shifts for d in directions]
    if orthogonalise:
        stack = less_projections(stack)
    counts = [parts_of(d.notes) for d in directions]
    total = weighted_sum(kept_size(weights, counts) if keep_size else weights, stack)
    notes = mix_notes([d.notes for d in directions], [d.method for d in directions], weights, keep_size=keep_size)
    return Direction(total, tuple(levels), family, "combination", notes)


def mix_notes(notes: Sequence[Mapping[str, str]], methods: Sequence[str], weights: Sequence[float], *, keep_size: bool) -> dict[str, str]:
    """What a mix is of, in words, and if it keeps its size of how many, from the notes and methods of its parts."""
    names = [own.get("target", method) for own, method in zip(notes, methods, strict=True)]
    parts = " + ".join(f"{weight:g} x {name}" for weight, name in zip(weights, names, strict=True))
    return {"parts": parts} | ({MIXED: str(sum(map(parts_of, notes)))} if keep_size else {})


def parts_of(notes: Mapping[str, str]) -> int:
    """How many directions a mix that kept its size is of, by its notes; 1 for any other direction."""
    count = notes.get(MIXED, "1")
    return int(count) if count.isdecimal() and 1 <= int(count) <= 10_000 else 1


def kept_size(weights: Sequence[float], counts: Sequence[int]) -> list[float]:
    """Weights of directions that are mixes of so many parts, which were divided by sqrt(n): all parts alike, over sqrt(N)."""
    return [weight * (count / sum(counts)) ** 0.5 for weight, count in zip(weights, counts, strict=True)]


def weighted_sum(weights: Sequence[float], stack: Sequence[Tensor]) -> Tensor:
    """sum_i c_i dh_i of shifts of one shape."""
    return sum((weight * shifts for weight, shifts in zip(weights, stack, strict=True)), start=stack[0].new_zeros(()))


def less_projections(stack: list[Tensor]) -> list[Tensor]:
    """Shifts (n, c, h, w), each less its projection on those before it, row by row (Gram-Schmidt)."""
    basis: list[Tensor] = []
    result: list[Tensor] = []
    for shifts in stack:
        rest = shifts.flatten(1).double()
        for unit in basis:
            rest = rest - (rest * unit).sum(1, keepdim=True) * unit
        basis.append(rest / rest.norm(dim=1, keepdim=True).clamp(min=1e-12))
        result.append(rest.to(shifts).reshape(shifts.shape))
    return result


def check_same_family(expected: Family, got: Family, name: str) -> None:
    """Raise ValueError that names both families if a direction of one is used with the other."""
    if not expected.fits(got):
        raise ValueError(
            f"{name}: found on {got}, but needed here for {expected}. The inner spaces of different model families have "
            "nothing in common; find the direction again on this model, or load one that was."
        )


def common_family(families: Sequence[Family]) -> Family:
    """The family of directions that are used together: that of the one checkpoint that some of them name, if any does.

    Raises ValueError that names two which differ.
    """
    common = families[0]
    for other in families[1:]:
        check_same_family(common, other, "directions")
        common = other if common.name == PIXEL else common
    return common
