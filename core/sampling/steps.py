"""Which steps of a run lie where: the one rule for ranges and places that are given as noise levels.

Levels come by two ways, a schedule in float32 and percents turned into levels in float64, so equal ones differ in their
last digits: levels within a hundred-thousandth of each other count as one. Neighbours in a schedule of 1000 steps lie
a hundred times further apart.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

NEAR = 1e-5


def at_or_below(level: float, bound: float) -> bool:
    """Whether a noise level is a bound or lies below it."""
    return level <= bound * (1 + NEAR)


class Levels(NamedTuple):
    """A range of noise levels, from start down to end, both inclusive."""

    start: float
    end: float

    def __contains__(self, level: float) -> bool:  # type: ignore[override]  # a tuple may be asked for any object, a range for levels
        return at_or_below(level, self.start) and at_or_below(self.end, level)

    def steps(self, sigmas: Sequence[float]) -> tuple[int, ...]:
        """The steps of a schedule (steps + 1 levels, in any order) that start in the range."""
        return tuple(i for i, sigma in enumerate(sigmas[:-1]) if sigma in self)

    def misses(self, sigmas: Sequence[float]) -> bool:
        """Whether a range lies in another part of the whole: before this run starts, or after its steps if it ends above 0.

        Such a run is a second pass, a tile of an upscaler, or one of two samplers in a row. A range between two steps is too narrow.
        """
        starts = sigmas[:-1]
        return not at_or_below(self.end, max(starts)) or min(sigmas) > 0 and not at_or_below(min(starts), self.start)


def first_step_from(sigmas: Sequence[float], level: float) -> int | None:
    """The first step of a descending schedule (steps + 1 levels) that starts at or below a level; None if none does."""
    return next((i for i, sigma in enumerate(sigmas[:-1]) if at_or_below(sigma, level)), None)


def is_descending(sigmas: Sequence[float]) -> bool:
    """Whether no level of a schedule lies above the one before it."""
    return all(after <= before for before, after in zip(sigmas, sigmas[1:]))


def is_ascending(sigmas: Sequence[float]) -> bool:
    """Whether no level of a schedule lies below the one before it."""
    return is_descending(sigmas[::-1])
