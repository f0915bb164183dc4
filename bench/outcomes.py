"""What `bench/evidence.py` found, read: success against preservation, with intervals."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent))
from sizes import size
from stage import kept_at
from ways import CHUNK, TARGETS, WAYS, named

EQUAL = 0.8
RESAMPLES = size(1000, 10)


class Outcomes:
    """The data of the chunks that every way has: hits and kept shares by way, setting, attribute and seed."""

    def __init__(self, data: dict[str, dict[str, list]]):
        firsts = sorted({int(key.split("|")[3]) for key in data if not key.startswith("cost|")})
        wanted = [(way, setting, name) for way, (_, settings, _) in WAYS.items() for setting in settings for name in TARGETS]
        self.firsts = [f for f in firsts if all(f"{way}|{setting:g}|{name}|{f}" in data for way, setting, name in wanted)]
        self.count, others = CHUNK * len(self.firsts), 10

        def column(way: str, setting: float, name: str, what: str) -> np.ndarray:
            return (
                np.concatenate([np.array(data[f"{way}|{setting:g}|{name}|{f}"][what], float) for f in self.firsts])
                if self.firsts
                else np.empty(0)
            )

        self.hit = {
            (way, s): np.stack([column(way, s, name, "hit") for name in TARGETS])
            for way, (_, settings, _) in WAYS.items()
            for s in settings
        }
        self.kept = {
            (way, s): np.stack([column(way, s, name, "kept") / others for name in TARGETS])
            for way, (_, settings, _) in WAYS.items()
            for s in settings
        }
        self.before = np.stack([column("the target prompt", 1.0, name, "before") for name in TARGETS])

    def curve(self, way: str, chosen: np.ndarray) -> list[tuple[float, float]]:
        """Success and kept share, unedited first, over the settings, for the chosen seeds; the mean over attributes."""
        points = [(self.before[:, chosen].mean(), 1.0)]
        return points + [(self.hit[way, s][:, chosen].mean(), self.kept[way, s][:, chosen].mean()) for s in WAYS[way][1]]

    def interval(self, statistic: Callable[[np.ndarray], float]) -> tuple[float, float, float]:
        """A statistic of a set of seeds, and its 95 % interval over resampled seeds."""
        rng, everything = np.random.default_rng(0), np.arange(self.count)
        values = [statistic(rng.integers(self.count, size=self.count)) for _ in range(RESAMPLES)]
        low, high = np.nanpercentile(values, (2.5, 97.5)) if np.isfinite(values).mean() > 0.9 else (np.nan, np.nan)
        return statistic(everything), float(low), float(high)

    def reached(self, way: str) -> Callable[[np.ndarray], float]:
        """What a way keeps where it reaches EQUAL success, as a statistic of a set of seeds."""
        return lambda chosen: kept_at(EQUAL, self.curve(way, chosen))

    def beside(self, way: str, other: str) -> tuple[float, float, float]:
        """How much more a way keeps than another at EQUAL success, on the same seeds, and its interval."""
        return self.interval(lambda chosen: self.reached(way)(chosen) - self.reached(other)(chosen))

    def nearest(self, way: str) -> float:
        """The setting whose mean success is nearest to EQUAL."""
        return min(WAYS[way][1], key=lambda s: abs(self.hit[way, s].mean() - EQUAL))

    def widest(self) -> float:
        """Half the 95 % interval of the least certain mean success, pictures taken as independent."""
        return max(1.96 * np.sqrt(hit.mean() * (1 - hit.mean()) / hit.size) for hit in self.hit.values())


def with_interval(value: float, low: float, high: float) -> str:
    return "not reached" if np.isnan(value) else f"{value:.1%} ({low:.1%} to {high:.1%})" if not np.isnan(low) else f"{value:.1%}"


def frontier_rows(outcomes: Outcomes) -> list[str]:
    """Every way over its settings, and what it keeps at EQUAL success, also beside the first way."""
    everything, (reference, *_) = np.arange(outcomes.count), WAYS
    rows = [
        f"| way | success / others kept, by setting | others kept at {EQUAL:.0%} success (95 % interval) "
        f"| more than a {reference} (95 % interval) |",
        "|---|---|---|---|",
    ]
    for way, (what, settings, _) in WAYS.items():
        points = outcomes.curve(way, everything)[1:]
        cells = ", ".join((f"{setting:g}: " if what else "") + f"{hit:.0%} / {kept:.0%}" for setting, (hit, kept) in zip(settings, points))
        more = "" if way == reference else with_interval(*outcomes.beside(way, reference))
        rows.append(
            f"| {named(way)}{f', by {what}' if what else ''} | {cells} "
            f"| {with_interval(*outcomes.interval(outcomes.reached(way)))} | {more} |"
        )
    return rows


def attribute_rows(outcomes: Outcomes) -> list[str]:
    """Success by attribute, each way at its setting nearest to EQUAL."""
    rows = ["| way | " + " | ".join(f"{name}: {value}" for name, value in TARGETS.items()) + " |", "|---|" + "---|" * len(TARGETS)]
    rows.append("| unedited | " + " | ".join(f"{hit.mean():.0%}" for hit in outcomes.before) + " |")
    for way, (what, *_) in WAYS.items():
        setting = outcomes.nearest(way)
        rows.append(
            f"| {named(way)}{f', {what} {setting:g}' if what else ''} | "
            + " | ".join(f"{hit.mean():.0%}" for hit in outcomes.hit[way, setting])
            + " |"
        )
    return rows


def figure(outcomes: Outcomes, path: Path) -> None:
    from matplotlib.figure import Figure

    chart = Figure(figsize=(9, 6), dpi=90, layout="constrained")
    axes = chart.add_subplot(xlabel="success", ylabel="other attributes kept")
    for i, way in enumerate(WAYS):
        points = np.array(outcomes.curve(way, np.arange(outcomes.count)))
        axes.plot(*points.T, marker="osD^v"[i % 5], color=f"C{i % 10}", linestyle="-" if i < 7 else "--", label=named(way), markersize=4)
    axes.axvline(EQUAL, color="0.7", zorder=0)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8, loc="lower left")
    chart.savefig(path)
