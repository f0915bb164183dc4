"""What `bench/evidence.py` found, read: success against preservation, with intervals."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent))
from sizes import size
from stage import kept_at
from ways import CHUNK, SLIDES, STRENGTHS, TARGETS, Way

EQUAL = 0.8
RESAMPLES = size(1000, 10)
FIELDS = ("hit", "kept", "identity", "outside", "before")


class Outcomes:
    """The data of the chunks that every way has: what the judge found by way, setting, attribute and seed."""

    def __init__(self, data: dict[str, dict[str, list]], ways: dict[str, Way]):
        self.ways = ways = {title: way for title, way in ways.items() if way.settings}
        firsts = sorted({int(key.split("|")[3]) for key in data if key.count("|") == 3})
        wanted = [(title, setting, name) for title, way in ways.items() for setting in way.settings for name in TARGETS]
        self.firsts = [f for f in firsts if all(f"{title}|{setting:g}|{name}|{f}" in data for title, setting, name in wanted)]
        self.count = CHUNK * len(self.firsts)

        def column(title: str, setting: float, name: str, what: str) -> np.ndarray:
            parts = [np.array(data[f"{title}|{setting:g}|{name}|{f}"][what], float) for f in self.firsts]
            return np.concatenate(parts) if parts else np.empty(0)

        self.found = {
            what: {
                (title, setting): np.stack([column(title, setting, name, what) for name in TARGETS])
                for title, way in ways.items()
                for setting in way.settings
            }
            for what in FIELDS
        }
        self.hit, self.kept = self.found["hit"], self.found["kept"]

    def before(self, way: str) -> np.ndarray:
        """Whether unedited pictures show the attributes (attributes, seeds), of the run that a way is compared with."""
        return self.found["before"][way, self.ways[way].settings[0]]

    def curve(self, way: str, chosen: np.ndarray) -> list[tuple[float, float]]:
        """Success and kept share, unedited first, over the settings, for the chosen seeds; the mean over attributes."""
        points = [(self.before(way)[:, chosen].mean(), 1.0)]
        return points + [(self.hit[way, s][:, chosen].mean(), self.kept[way, s][:, chosen].mean()) for s in self.ways[way].settings]

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
        return min(self.ways[way].settings, key=lambda s: abs(self.hit[way, s].mean() - EQUAL))

    def widest(self) -> float:
        """Half the 95 % interval of the least certain mean success, pictures taken as independent."""
        return max(1.96 * np.sqrt(hit.mean() * (1 - hit.mean()) / hit.size) for hit in self.hit.values())


def with_interval(value: float, low: float, high: float) -> str:
    return "not reached" if np.isnan(value) else f"{value:.1%} ({low:.1%} to {high:.1%})" if not np.isnan(low) else f"{value:.1%}"


def frontier_rows(outcomes: Outcomes) -> list[str]:
    """Every way over its settings, and what it keeps at EQUAL success, also beside the best rival."""
    everything, reference = np.arange(outcomes.count), "the prompt switched"
    rows = [
        f"| way | success / others kept, by setting | others kept at {EQUAL:.0%} success (95 % interval) "
        f"| more than {reference} (95 % interval) | identity moved, pixels outside moved, at the setting nearest to {EQUAL:.0%} |",
        "|---|---|---|---|---|",
    ]
    for title, way in outcomes.ways.items():
        points = outcomes.curve(title, everything)[1:]
        cells = ", ".join(
            (f"{setting:g}: " if way.what else "") + f"{hit:.0%} / {kept:.0%}" for setting, (hit, kept) in zip(way.settings, points)
        )
        more = "" if title == reference else with_interval(*outcomes.beside(title, reference))
        identity, outside = (outcomes.found[what][title, outcomes.nearest(title)].mean() for what in ("identity", "outside"))
        rows.append(
            f"| {title}{f', by {way.what}' if way.what else ''} | {cells} "
            f"| {with_interval(*outcomes.interval(outcomes.reached(title)))} | {more} | {identity:.2f}, {outside:.1f} |"
        )
    return rows


@dataclass(frozen=True)
class Slide:
    """How a way moves a number over nine strengths, seed by seed.

    rank: rank correlations; jumps: largest steps between neighbours as shares of the whole change, where there is one;
    minus, plus: the change of each side as a share of the number's range.
    """

    rank: np.ndarray
    jumps: np.ndarray
    minus: np.ndarray
    plus: np.ndarray


def slide(data: dict[str, dict[str, list]], title: str, name: str, width: float) -> Slide | None:
    """A way's strip of an attribute, whose range is `width` wide; None if it was not drawn."""
    by_strength = {
        float(key.split("|")[2]): found for key, found in data.items() if key.startswith(f"slide|{title}|") and f"|{name}|" in key
    }
    if len(by_strength) != len(STRENGTHS):
        return None
    by_strength = {strength: np.array(found["number"]) for strength, found in by_strength.items()} | {
        0.0: np.array(next(iter(by_strength.values()))["number before"])
    }
    strengths = np.array(sorted(by_strength))
    strip = np.stack([by_strength[strength] for strength in strengths], 1)  # (seeds, strengths)
    whole = strip[:, -1] - strip[:, 0]
    wide = np.abs(whole) >= width / 5
    jumps = (np.diff(strip, axis=1) * np.sign(whole)[:, None]).max(1)[wide] / np.abs(whole)[wide]
    middle = strip[:, list(strengths).index(0.0)]
    ranks = np.array([rank_correlation(strengths, row) for row in strip])
    return Slide(ranks, jumps, (middle - strip[:, 0]) / width, (strip[:, -1] - middle) / width)


def rank_correlation(first: np.ndarray, second: np.ndarray) -> float:
    """Spearman's rank correlation of two series; of equal values each counts as it comes."""
    return float(np.corrcoef(first.argsort().argsort(), second.argsort().argsort())[0, 1])


def slide_rows(data: dict[str, dict[str, list]], ways: dict[str, Way]) -> list[str]:
    from pack.demo.faces import CONTINUOUS

    rows = [
        "| way | attribute | rank correlation, mean (least) | largest jump, median (seeds with a change) | moved at -1 | moved at +1 |",
        "|---|---|---|---|---|---|",
    ]
    for title in ways:
        for name in SLIDES:
            low, high = CONTINUOUS[name]
            found = slide(data, title, name, high - low)
            if found:
                sign = 1 if TARGETS[name] > (low + high) / 2 else -1
                jump = f"{np.median(found.jumps):.2f} ({len(found.jumps)} of {len(found.rank)})" if len(found.jumps) else "none has"
                ranks, minus, plus = sign * found.rank, -sign * found.minus.mean(), sign * found.plus.mean()
                words = f"{title} | {name.replace('_', ' ')} | {ranks.mean():.2f} ({ranks.min():.2f})"
                rows.append(f"| {words} | {jump} | {minus:+.2f} | {plus:+.2f} |")
    return rows


def attribute_rows(outcomes: Outcomes) -> list[str]:
    """Success by attribute, each way at its setting nearest to EQUAL."""
    rows = ["| way | " + " | ".join(f"{name}: {value}" for name, value in TARGETS.items()) + " |", "|---|" + "---|" * len(TARGETS)]
    rows.append("| unedited | " + " | ".join(f"{hit.mean():.0%}" for hit in outcomes.before("the target prompt")) + " |")
    for title, way in outcomes.ways.items():
        setting = outcomes.nearest(title)
        rows.append(
            f"| {title}{f', {way.what} {setting:g}' if way.what else ''} | "
            + " | ".join(f"{hit.mean():.0%}" for hit in outcomes.hit[title, setting])
            + " |"
        )
    return rows


def figure(outcomes: Outcomes, all_ways: list[str], path: Path) -> None:
    """A line for each way, which looks the same in every figure with these ways."""
    from matplotlib.figure import Figure

    chart = Figure(figsize=(9, 6), dpi=90, layout="constrained")
    axes = chart.add_subplot(xlabel="success", ylabel="other attributes kept")
    places = {way: i for i, way in enumerate(dict.fromkeys(all_ways))}
    for way in outcomes.ways:
        i = places[way]
        points = np.array(outcomes.curve(way, np.arange(outcomes.count)))
        axes.plot(*points.T, marker="osD^vPX"[i % 7], color=f"C{i % 10}", linestyle="-" if i < 10 else "--", label=way, markersize=4)
    axes.axvline(EQUAL, color="0.7", zorder=0)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8, loc="lower left")
    chart.savefig(path)
