"""When to edit and when to add noise: editing strength, quality deficiency (Kwon et al. 2023, sections 3.3 and 3.4)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

# Distance of t_edit and of t_boost, by the distance measured. Those of LPIPS are the paper's (0.33 times the texts' cosine,
# and 1.2); the others are calibrated on the demo model of version 0.1, see docs/history.md.
EDIT_AT = {"SSIM": 0.037, "RMS": 0.072, "CLIP vision": 0.03, "LPIPS": 0.33}
BOOST_AT = {"SSIM": 0.126, "RMS": 0.284, "CLIP vision": 0.18, "LPIPS": 1.2}


@dataclass(frozen=True, eq=False)
class Phases:
    """A run in three phases: edit up to end, denoise up to boost, then noise. All in parts of the run, 0..1."""

    end: float
    boost: float

    @classmethod
    def of(cls, percents: Sequence[float], strengths: Tensor, deficiencies: Tensor, edit_at: float, boost_at: float) -> Phases:
        """t_edit and t_boost: the latest parts of the run at which the mean distance is no less than its threshold.

        percents: (steps,) ascending. strengths, deficiencies: (steps, pictures), the distance from the finished picture of
        the foreseen one, and of the noisy one. Boosting starts no earlier than editing ends.
        """
        end = last_reached(percents, strengths.mean(1).tolist(), edit_at)
        return cls(end, max(end, last_reached(percents, deficiencies.mean(1).tolist(), boost_at)))


def last_reached(percents: Sequence[float], distances: Sequence[float], threshold: float) -> float:
    """The part of a run at which a falling distance passes its threshold for the last time; 0 if it never reaches it.

    On a straight line between steps; the end of the run counts as distance 0.
    """
    points = [*zip(percents, distances), (1.0, 0.0)]
    for (before, high), (after, low) in zip(reversed(points[:-1]), reversed(points[1:])):
        if high >= threshold:
            return before + (after - before) * (high - threshold) / max(high - low, 1e-12) if low < threshold else after
    return 0.0
