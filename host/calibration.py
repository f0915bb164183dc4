"""Sliders with a unit: what a slider does to a few pictures, and the dial on which equal steps of it look equal.

The idea of a searched range and a re-mapped strength is that of FreeSliders (2025); the distance and the end of the range are our own.
"""

from __future__ import annotations

import itertools
from typing import NamedTuple

import torch
from torch import Tensor

from ..core.dial import Dial, even_dial
from ..core.pictures.distances import structural_distance

TRIED = (0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0)  # strengths of a side
FARTHEST = 0.35  # an edit's end, as a share of how far pictures of different seeds lie apart
UNSEEN = 0.01  # of the same; less is no change that anybody sees


class Way(NamedTuple):
    """How pictures move under a slider.

    strengths: (n,) rising, with 0 among them. steps: (n - 1,) mean distance from each picture to the next. away: (n,) mean distance from
    the unedited one. apart: mean distance of the unedited ones of different seeds.
    """

    strengths: list[float]
    steps: list[float]
    away: list[float]
    apart: float

    @classmethod
    def of(cls, strengths: list[float], pictures: Tensor) -> Way:
        """pictures: (seeds, n, c, h, w) in [-1, 1], two seeds or more."""
        still = pictures[:, strengths.index(0.0)]
        steps = [float(structural_distance(a, b).mean()) for a, b in itertools.pairwise(pictures.unbind(1))]
        away = [float(structural_distance(still, column).mean()) for column in pictures.unbind(1)]
        pairs = list(itertools.combinations(range(len(still)), 2))
        first, second = (torch.stack([still[pair[side]] for pair in pairs]) for side in (0, 1))
        return cls(strengths, steps, away, float(structural_distance(first, second).mean()))

    def reach(self, sign: int) -> float:
        """The strongest strength of a side that leaves the picture nearer to itself than `FARTHEST`; the side's last if all do."""
        farthest = FARTHEST * self.apart
        side = sorted((abs(s), away) for s, away in zip(self.strengths, self.away, strict=True) if s * sign >= 0)
        for (a, before), (b, after) in itertools.pairwise(side):
            if after > farthest:
                return sign * (a + (b - a) * max(0.0, farthest - before) / (after - before) if before < farthest else a)
        return sign * side[-1][0]

    def dial(self) -> Dial:
        """The even dial of the usable range. Raises ValueError for a slider that changes nothing to be seen."""
        if max(self.away) < UNSEEN * self.apart:
            raise ValueError(
                f"slider: at strengths up to {max(self.strengths):g} the pictures change by {max(self.away) / self.apart:.1%} of how far "
                "those of different seeds lie apart, which nobody sees. Use words that the model knows better, or other pictures."
            )
        low, high = self.reach(-1), self.reach(1)
        return even_dial(self.strengths, self.steps, low, high)

    def largest_jump(self, dial: Dial | None, count: int = 4) -> float:
        """The largest of the distances between count even strengths a side, as a share of their sum; None for the range undialled."""
        low, high = self.reach(-1), self.reach(1)
        shown = [i / count for i in range(-count, count + 1)]
        at = [dial.strength(x) if dial else (high if x > 0 else -low) * x for x in shown]
        way = list(itertools.accumulate(self.steps, initial=0.0))
        gone = [_at(strength, self.strengths, way) for strength in at]
        jumps = [abs(b - a) for a, b in itertools.pairwise(gone)]
        return max(jumps) / sum(jumps)


def _at(x: float, xs: list[float], ys: list[float]) -> float:
    for (a, s), (b, t) in itertools.pairwise(zip(xs, ys, strict=True)):
        if x <= b:
            return s + (x - a) / (b - a) * (t - s)
    return ys[-1]
