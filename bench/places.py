"""Searches where, when and how strongly a contrast of two prompts acts best, and writes `docs/places.md`.

    COMFYUI=<host's folder> python bench/places.py [--model portrait|portrait-dit] [--minutes 60] [--ways joint,focus] [--report]
                                            [--out docs] [--smallest]

Everything is drawn on the same four seeds from 500 000 up, for the attributes of the evidence and long hair, and read by the judge; what
was found goes into `docs/places_<model>.json` at once, so that a run that was stopped goes on. What is best here is what
`bench/evidence.py` then draws on held-out seeds.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parent))
import joint
import ways
from sizes import DOCS, fewer, parsed, size
from stage import INSTRUMENTS, SOURCE, TITLES, precision, start_host

TUNED_ON, SEEDS = 500_000, size(4, 1)
TARGETS = ways.TARGETS | size({"hair_length": 0.9}, {})
STRENGTHS = fewer((0.25, 0.5))


class Bench(ways.Bench):
    """The ways on one instrument, on the seeds that settings are chosen on."""

    def __init__(self, instrument: str):
        super().__init__(instrument)
        self.targets, self.count = TARGETS, SEEDS
        self.before = self.read(self.base(TUNED_ON))

    @cache  # noqa: B019 (a bench's object lives as long as the process)
    def mean_contrast(self, name: str) -> dict[tuple[int, int], Tensor]:
        """By step and block the mean contrast of joint attention over the seeds that attributes are learned on."""
        sums: dict[tuple[int, int], Tensor] = {}
        count, together = size(16, 1), size(4, 1)  # the host divides larger batches, and then their rows do not meet
        for first in range(ways.LEARNED_ON, ways.LEARNED_ON + count, together):
            noted = joint.JointContrast(range(ALL), 0.0, learning=True)
            joint.draw(self, noted, name, SOURCE, ways.CFG, self.noise(together, first))
            sums = {key: sums.get(key, 0.0) + together / count * mean for key, mean in noted.found.items()}
        return sums


# Ways: each draws the tuning seeds for an attribute, at a strength.


def contrast(place: str, start: float, end: float = 1.0, focus: float = 0.0, hold: bool = False) -> Callable[[Bench, str, float], Tensor]:
    way = ways.contrast(place, focus, start, end, hold)
    return lambda bench, name, strength: way(bench, name, strength, TUNED_ON)


def spreading(least: float) -> Callable[[Bench, str, float], Tensor]:
    """The rest held outside of a focus of 0.6 that spreads to what is joined to it and at least so large a share of the largest."""
    drawn = ways.contrast("prediction", 0.6, 0.1, 1.0, True, spreads=True)

    def way(bench: Bench, name: str, strength: float) -> Tensor:
        from pack.host import contrasts

        usual, contrasts.SPREAD = contrasts.SPREAD, least / 0.6
        try:
            return drawn(bench, name, strength, TUNED_ON)
        finally:
            contrasts.SPREAD = usual

    return way


def in_joint_attention(blocks: range, start: float, vector: bool = True, stored: bool = False) -> Callable[[Bench, str, float], Tensor]:
    def way(bench: Bench, name: str, strength: float) -> Tensor:
        acting = joint.JointContrast(blocks, strength, start, vector, bench.mean_contrast(name) if stored else {})
        return joint.draw(bench, acting, name, SOURCE, ways.CFG, bench.noise(bench.count, TUNED_ON))

    return way


def orthogonal(start: float) -> Callable[[Bench, str, float], Tensor]:
    way = ways.fluxspace(start)
    return lambda bench, name, strength: way(bench, name, strength, TUNED_ON)


def condition(start: float) -> Callable[[Bench, str, float], Tensor]:
    def way(bench: Bench, name: str, strength: float) -> Tensor:
        from nodes import ConditioningSetTimestepRange

        parts = ((bench.encode(SOURCE), (0.0, start)), (moved_condition(bench, name, strength), (start, 1.0)))
        windows = [ConditioningSetTimestepRange().set_range(part, *window)[0] for part, window in parts if window[0] < window[1]]
        return bench.draw(TUNED_ON, positive=[entry for window in windows for entry in window])

    return way


def after_last_word(bench: Bench, text: str) -> tuple[Tensor, Tensor]:
    """A prompt's embedding (tokens, d) from its end token on, and its pooled one (d)."""
    tokens = next(iter(bench.clip.tokenize(text).values()))[0]
    ends = [i for i, token in enumerate(tokens) if token[0] == tokens[-1][0]]
    ((embedding, extras),) = bench.encode(text)
    return embedding[0, ends[0] :], extras["pooled_output"][0]


@cache
def beside_others(bench: Bench, name: str, pairs: int) -> tuple[Tensor, Tensor]:
    """The mean over parallel pairs of prompts, with other attributes in them, of what an attribute's words do after the last word."""
    words, generator, found = bench.prompt(name), torch.Generator().manual_seed(0), []
    others = [other for other in bench.others(name) if other in bench.faces.CATEGORICAL]
    for _ in range(pairs):
        other = others[int(torch.randint(len(others), (), generator=generator))]
        values = bench.faces.CATEGORICAL[other]
        value = values[int(torch.randint(len(values), (), generator=generator))]
        without = bench.captions.prompt_for(**{other: value})
        found.append((after_last_word(bench, without), after_last_word(bench, without + words.removeprefix(SOURCE))))
    length = min(len(side[0]) for pair in found for side in pair)
    tokens = torch.stack([plus[0][:length] - minus[0][:length] for minus, plus in found]).mean(0)
    return tokens, torch.stack([plus[1] - minus[1] for minus, plus in found]).mean(0)


def cleaned(direction: Tensor, others: list[Tensor]) -> Tensor:
    """A direction less its part in the span of others, all as one vector."""
    basis = torch.linalg.qr(torch.stack([other.flatten() for other in others], 1))[0]
    flat = direction.flatten()
    return (flat - basis @ (basis.T @ flat)).reshape(direction.shape)


def moved_condition(bench: Bench, name: str, strength: float, pairs: int = size(32, 2)) -> list:
    """The source prompt with the mean of what the attribute's words do to prompts of other attributes, at the tokens after its last
    word, cleaned of what prompts of other attributes do, and on the pooled part."""
    (tokens, pooled), rest = beside_others(bench, name, pairs), [other for other in TARGETS if other != name]
    around = [beside_others(bench, other, pairs) for other in rest]
    length = min(len(part[0]) for part in ((tokens, pooled), *around))
    if around:
        tokens = cleaned(tokens[:length], [part[0][:length] for part in around])
        pooled = cleaned(pooled, [part[1] for part in around])
    ((embedding, extras),) = bench.encode(SOURCE)
    first = embedding.shape[1] - len(after_last_word(bench, SOURCE)[0])
    embedding = embedding.clone()
    count = min(length, embedding.shape[1] - first)
    embedding[0, first : first + count] += strength * tokens[:count]
    return [[embedding, extras | {"pooled_output": extras["pooled_output"] + strength * pooled}]]


@dataclass(frozen=True)
class Way:
    draw: Callable[[Bench, str, float], Tensor]
    strengths: tuple[float, ...] = STRENGTHS


DOUBLE, ALL = 3, 8  # blocks of Portrait DiT
THIRDS = {"first third": range(0, 3), "second third": range(3, 6), "last third": range(6, 8)}
MORE, ONE = fewer((1.0, 2.0)), (1.0,)


def ways_of(instrument: str) -> dict[str, Way]:
    """What is tried, the most wanted first."""
    found = {"prediction, rest held, from 0.1 on, focus 0.6": Way(contrast("prediction", 0.1, 1.0, 0.6, True))}
    for least in (0.2, 0.3):
        found[f"the same, focus 0.6 that spreads to {least:g}"] = Way(spreading(least))
    if instrument == "portrait-dit":
        found["joint attention, all blocks, from 0.3 on"] = Way(in_joint_attention(range(ALL), 0.3), MORE)
        for start in (0.1, 0.3):
            found[f"joint attention, all blocks, from {start:g} on, stored"] = Way(in_joint_attention(range(ALL), start, stored=True), MORE)
        found["joint attention, all blocks, from 0.1 on"] = Way(in_joint_attention(range(ALL), 0.1), ONE)
        found["joint attention, all blocks, from 0.3 on, without the modulation"] = Way(
            in_joint_attention(range(ALL), 0.3, vector=False), ONE
        )
        found["joint attention, double blocks, from 0.3 on"] = Way(in_joint_attention(range(DOUBLE), 0.3), ONE)
        found["joint attention, single blocks, from 0.3 on"] = Way(in_joint_attention(range(DOUBLE, ALL), 0.3), ONE)
        for title, blocks in THIRDS.items():
            found[f"joint attention, {title}, from 0.3 on"] = Way(in_joint_attention(blocks, 0.3), ONE)
        for start in (0.3, 0.1):
            found[f"FluxSpace's formula, all blocks, from {start:g} on"] = Way(orthogonal(start), STRENGTHS + ONE)
    else:
        for start, end in ((0.3, 1.0), (0.1, 1.0), (0.1, 0.6)):
            found[f"cross-attention, from {start:g} to {end:g}"] = Way(contrast("cross-attention", start, end), MORE)
    found |= {f"condition, mean of pairs, from {start:g} on": Way(condition(start), MORE) for start in (0.3, 0.0)}
    found |= {f"prediction, everywhere, from {start:g} on": Way(contrast("prediction", start)) for start in (0.3, 0.1)}
    for start, focus in ((0.1, 0.4), (0.1, 0.5), (0.1, 0.7), (0.0, 0.6), (0.2, 0.6), (0.3, 0.6)):
        found[f"prediction, rest held, from {start:g} on, focus {focus:g}"] = Way(contrast("prediction", start, 1.0, focus, True))
    return found


def measure(instrument: str, folder: Path, minutes: float, parts: list[str]) -> None:
    path, ends = folder / f"places_{instrument}.json", time.monotonic() + 60 * minutes
    bench = Bench(instrument)
    for title, way in ways_of(instrument).items():
        for strength in way.strengths:
            known: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
            key = f"{title}|{strength:g}"
            if key in known or not any(part in title for part in parts):
                continue
            if time.monotonic() > ends:
                return
            found = {}
            for name in TARGETS:
                now = bench.read(way.draw(bench, name, strength))
                shown, kept = bench.shows(now, name).float().mean(), bench.keeps(now, bench.before, name).mean()
                found[name] = [round(float(shown), 4), round(float(kept), 4)]
            known[key] = found | {"precision": precision()}
            path.write_text("{\n" + ",\n".join(f"{json.dumps(k)}: {json.dumps(v)}" for k, v in sorted(known.items())) + "\n}\n")
            print(key, found, flush=True)


def page(folder: Path) -> str:
    """The table of each instrument, from what was found."""
    kinds, sections = set(), []
    for instrument in INSTRUMENTS:
        path = folder / f"places_{instrument}.json"
        if path.exists():
            known = json.loads(path.read_text())
            kinds |= {found["precision"] for found in known.values()}
            head = ["| place | strength | success | others kept | " + " | ".join(TARGETS) + " |", "|---" * (4 + len(TARGETS)) + "|"]
            rows = []
            for title, way in ways_of(instrument).items():
                for strength in way.strengths:
                    if found := known.get(f"{title}|{strength:g}"):
                        points = [found[name] for name in TARGETS]
                        hit, kept = (sum(column) / len(points) for column in zip(*points))
                        cells = " | ".join(f"{a:.0%} / {b:.0%}" for a, b in points)
                        rows.append(f"| {title} | {strength:g} | {hit:.0%} | {kept:.1%} | {cells} |")
            sections.append(f"## {TITLES[instrument]}\n\n" + "\n".join(head + rows))
    intro = (
        f"Written by `bench/places.py`. Where, when and how strongly a contrast of two prompts acts best, searched on {SEEDS} seeds from "
        f"{TUNED_ON} up: {ways.STEPS} steps, cfg {ways.CFG:g}, computed in {' and '.join(sorted(kinds))}, prompt `{SOURCE}`. A cell is the "
        "share of pictures in which the judge finds the attribute, and of the others the share that is kept. What is not here was not "
        "drawn yet. Four seeds are few: what was chosen here is judged on held-out seeds in the [evidence](evidence.md)."
    )
    return f"# Where a slider acts best\n\n{intro}\n\n" + "\n\n".join(sections) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=INSTRUMENTS, default="portrait")
    parser.add_argument("--minutes", type=float, default=1e9, help="stop drawing after this long; the next run goes on")
    parser.add_argument("--ways", default="", help="draw only the ways whose names have one of these parts, with commas between")
    parser.add_argument("--report", action="store_true", help="write the page from what is there")
    options = parsed(parser, DOCS)
    start_host()
    if not options.report:
        with torch.inference_mode():
            measure(options.model, options.out, options.minutes, options.ways.split(","))
    text = page(options.out)
    (options.out / "places.md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
