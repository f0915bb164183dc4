"""Sliders with a unit: what a slider does to a few pictures, and the dial on which equal steps of it look equal.

The idea of a searched range and a re-mapped strength is that of FreeSliders (2025); the distance and the end of the range are our own.
"""

from __future__ import annotations

import itertools
from typing import NamedTuple

import torch
from torch import Tensor

from ..core.dial import Dial, even_dial, piecewise_linear
from ..core.pictures.distances import structural_distance

TRIED = (0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0)  # strengths of a side
# Where a side ends before the last of these, as a share of how far pictures of different seeds lie apart. It is chosen, not measured: on
# the portrait model a smile went .045 of that way at strength 3 and kept 94 to 97 % of what else is seen at every strength, so that its
# range is what was tried. It is there for sliders that make another picture of it.
FARTHEST = 0.35
UNSEEN = 0.01  # of the same; less is no change that anybody sees
SAME = 1e-5  # distances up to here are rounding


class Way(NamedTuple):
    """How pictures move under a slider.

    strengths: (n,) rising, with 0 among them. steps: (n - 1,) mean root of the distance from each picture to the next: the distance grows
    with the square of a small change, so that its roots add up to the same way whatever the strengths in between. away: (n,) mean distance
    from the unedited one. apart: mean distance of the unedited ones of different seeds.
    """

    strengths: list[float]
    steps: list[float]
    away: list[float]
    apart: float

    @classmethod
    def of(cls, strengths: list[float], pictures: Tensor) -> Way:
        """pictures: (seeds, n, c, h, w) in [-1, 1], two seeds or more.

        Raises ValueError for pictures with NaN, and for those that are the same from every seed.
        """
        if not torch.isfinite(pictures).all():
            raise ValueError("vae: a picture has values that are no numbers (NaN); try another VAE, or one in float32.")
        still = pictures[:, strengths.index(0.0)]
        steps = [float(structural_distance(a, b).clamp(min=0).sqrt().mean()) for a, b in itertools.pairwise(pictures.unbind(1))]
        away = [float(structural_distance(still, column).mean()) for column in pictures.unbind(1)]
        pairs = list(itertools.combinations(range(len(still)), 2))
        first, second = (torch.stack([still[pair[side]] for pair in pairs]) for side in (0, 1))
        apart = float(structural_distance(first, second).mean())
        if apart <= SAME:
            raise ValueError(
                "latent: all seeds draw the same picture, so nothing says how large a change is; connect an Empty Latent Image."
            )
        return cls(strengths, steps, away, apart)

    def share(self, strength: float) -> float:
        """How far the pictures have gone at a strength, as a share of how far those of different seeds lie apart."""
        return piecewise_linear(self.strengths, self.away)(strength) / self.apart

    def reach(self, sign: int) -> float:
        """The strongest strength of a side up to which the pictures go no farther than `FARTHEST`; the side's last if none does."""
        farthest = FARTHEST * self.apart
        side = sorted((abs(s), away) for s, away in zip(self.strengths, self.away, strict=True) if s * sign >= 0)
        for (a, before), (b, after) in itertools.pairwise(side):
            if after > farthest:
                return sign * (a + (b - a) * (farthest - before) / (after - before))
        return sign * side[-1][0]

    def dial(self) -> Dial:
        """The even dial of the usable range. Raises ValueError for a slider that changes nothing to be seen."""
        if max(self.away) < UNSEEN * self.apart:
            raise ValueError(
                f"slider: at strengths up to {max(self.strengths):g} the pictures change by {max(self.away) / self.apart:.1%} of how far "
                "those of different seeds lie apart, which nobody sees. Use words that the model knows better, or other pictures."
            )
        try:
            return even_dial(self.strengths, self.steps, self.reach(-1), self.reach(1))
        except ValueError as error:
            raise ValueError(f"slider: {error}; make one whose both sides do something.") from error

    def largest_jump(self, dial: Dial | None, count: int = 4) -> float:
        """The largest of the distances between count even strengths a side, as a share of their sum; None for the range undialled."""
        low, high = self.reach(-1), self.reach(1)
        shown = [i / count for i in range(-count, count + 1)]
        at = [dial.strength(x) if dial else (high if x > 0 else -low) * x for x in shown]
        gone = map(piecewise_linear(self.strengths, list(itertools.accumulate(self.steps, initial=0.0))), at)
        jumps = [abs(b - a) for a, b in itertools.pairwise(gone)]
        return max(jumps) / sum(jumps)
