"""The scale of a slider: from what its dial shows to the strength that is applied, so that equal steps look equal."""

from __future__ import annotations

import itertools
import math
from bisect import bisect_right
from collections.abc import Callable
from dataclasses import dataclass

MOST_MARKS = 201
Mark = tuple[float, float]  # what the dial shows, and the strength


@dataclass(frozen=True)
class Dial:
    """A monotone map of what a dial shows, -1 to 1, to strengths, by marks between which it is linear.

    marks: finite numbers in rising order of both, with (0, 0) among them; beyond an end the map goes on as from 0 straight to that end.
    Raises ValueError for other marks.
    """

    marks: tuple[Mark, ...]

    def __post_init__(self) -> None:
        shown, strengths = zip(*self.marks, strict=True) if self.marks else ((), ())
        rising = all(a < b for row in (shown, strengths) for a, b in itertools.pairwise(row))
        finite = all(map(math.isfinite, (*shown, *strengths)))
        if not (2 <= len(self.marks) <= MOST_MARKS and finite and rising and (0.0, 0.0) in self.marks):
            raise ValueError(f"a dial has 2 to {MOST_MARKS} marks that rise, one of them (0, 0)")

    def strength(self, shown: float) -> float:
        """The strength for what the dial shows; 0 for 0, exactly."""
        if shown == 0:
            return 0.0
        low, high = self.marks[0], self.marks[-1]
        for end in (low, high):
            if end[0] and (shown < end[0] if end is low else shown > end[0]):
                return shown / end[0] * end[1]
        after = min(max(bisect_right([mark[0] for mark in self.marks], shown), 1), len(self.marks) - 1)
        (a, s), (b, t) = self.marks[after - 1], self.marks[after]
        return s + (shown - a) / (b - a) * (t - s)


def even_dial(strengths: list[float], steps: list[float], low: float, high: float, count: int = 8) -> Dial:
    """The dial on which equal steps are equal lengths of the picture's way, and -1 and 1 are the strengths low and high.

    strengths: rising, with 0 among them. steps: the picture's distance from each to the next. low: below 0, or 0 for no such side; high
    likewise. count: marks a side. Raises ValueError for a side on which the picture does not move.
    """
    way = list(itertools.accumulate(steps, initial=0.0))
    length, start = piecewise_linear(strengths, way), way[strengths.index(0.0)]
    marks: list[Mark] = [(0.0, 0.0)]
    for sign, end in ((-1, low), (1, high)):
        whole = sign * (length(end) - start) if end else 0.0
        if end and whole <= 0:
            raise ValueError(f"from strength 0 to {end:g} the picture does not change")
        found = piecewise_linear(way, strengths)
        marks += [(sign * i / count, found(start + sign * whole * i / count) if i < count else end) for i in range(1, count + 1) if end]
    return Dial(tuple(sorted(marks)))


def piecewise_linear(xs: list[float], ys: list[float]) -> Callable[[float], float]:
    """The function that is linear between points of rising x; where x stays, the first of them counts."""

    def at(x: float) -> float:
        for (a, s), (b, t) in itertools.pairwise(zip(xs, ys, strict=True)):
            if x <= b and b > a:
                return s + (x - a) / (b - a) * (t - s)
        return ys[-1]

    return at
