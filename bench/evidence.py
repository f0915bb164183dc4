"""Measures what editing an attribute costs of the rest, and writes the page of evidence, `docs/evidence.md`.

It measures the ways of this pack and what a user would do instead.

    COMFYUI=<host's folder> python bench/evidence.py [--seeds 96] [--minutes 60] [--ways AVI,guidance] [--cost] [--report]
                                              [--out docs] [--smallest]

Every way draws the same held-out seeds (from 900 000 up) with the same sampler and steps, at several settings, for the
same attributes. Learned things come from seeds from 600 000 up; the settings listed were chosen on seeds from 500 000 up.
What was drawn is judged by the attribute classifier, and the outcome of each picture goes into `docs/evidence.json`, so
that a run that was stopped goes on where it was, several may share the ways among them, and `--report` writes the page
from what is there. Trained directions wait for the next run in `bench/.cache/`. The page's other sections come from the
pages of the other benches.
"""

from __future__ import annotations

import argparse
import fcntl
import json
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parent))
from outcomes import EQUAL, Outcomes, attribute_rows, figure, frontier_rows
from sizes import DOCS, SMALLEST, parsed, size
from stage import ELSEWHERE, FIRST_SEED, SOURCE, start_host
from ways import CACHE, CFG, CHUNK, LEARNED_ON, STEPS, TARGETS, WAYS, Bench, named

ALSO_LEARNED = ("the same, asymmetric", "AVI, stored")  # what the way above them learns
SHARED = ("the target prompt", "the prompt switched", "a blend of the latents")  # drawn from runs that serve several ways here


@dataclass(frozen=True)
class Data:
    """The outcome of each picture, by way, setting, attribute and seed, in a folder's file. cache: for what waits for the next run."""

    folder: Path
    cache: Path

    def read(self) -> dict[str, dict[str, list]]:
        path = self.folder / "evidence.json"
        return json.loads(path.read_text()) if path.exists() else {}

    def keep(self, key: str, outcome: dict[str, list]) -> None:
        """Add to the data on disk; of several processes one at a time."""
        self.cache.mkdir(exist_ok=True)
        with (self.cache / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            lines = [f"{json.dumps(k)}: {json.dumps(v)}" for k, v in sorted((self.read() | {key: outcome}).items())]
            partial = self.folder / "evidence.partial"
            partial.write_text("{\n" + ",\n".join(lines) + "\n}\n")
            partial.replace(self.folder / "evidence.json")


def judged(bench: Bench, pictures: Tensor, name: str, first: int) -> dict[str, list]:
    """For each picture whether it shows the attribute, and how many of the other labels it keeps."""
    now, then = bench.judge.label(pictures), bench.judge.label(bench.base(first))
    at = bench.faces.ATTRIBUTES[name].index(TARGETS[name])
    kept = torch.stack([now[key] == then[key] for key in now if key != name]).sum(0)
    return {"hit": (now[name] == at).int().tolist(), "kept": kept.tolist(), "before": (then[name] == at).int().tolist()}


def measure(data: Data, seeds: int, minutes: float, ways: list[str]) -> None:
    """Draw what is not in the data yet, chunk by chunk over all ways, so that an early stop leaves them equally far."""
    bench, ends = Bench(data.cache), time.monotonic() + 60 * minutes
    for first in range(FIRST_SEED, FIRST_SEED + seeds, CHUNK):
        for name in TARGETS:
            for way, (_, settings, draw) in WAYS.items():
                if any(part in way for part in ways):
                    for setting in settings:
                        key = f"{way}|{setting:g}|{name}|{first}"
                        if key not in data.read():
                            if time.monotonic() > ends:
                                return
                            data.keep(key, judged(bench, draw(bench, name, setting, first), name, first))


def costs(data: Data) -> None:
    """How long each way takes to prepare and to draw, beside drawing the same pictures plainly, into the data."""
    bench, name, first = Bench(data.cache), "glasses", FIRST_SEED - CHUNK

    def seconds(work: Callable[[], object]) -> float:
        start = time.perf_counter()
        work()
        return time.perf_counter() - start

    def plain() -> float:
        return seconds(lambda: bench.draw(first))

    bench.base(first), plain()
    prepare: dict[str, Callable[[], object]] = {
        "direction from two prompts": lambda: bench.direction(name),
        **{
            f"direction trained by {by}": lambda o=objective: bench.trained(name, o)
            for by, objective in (("prompt matching", "prompt matching"), ("CLIP", "CLIP directional"))
        },
        "AVI, paired": lambda: bench.attribute(name),
        "AVI, the paper's form": lambda: bench.attribute(name, True),
    }
    for way, (_, settings, draw) in WAYS.items():
        if way not in SHARED:
            learning = seconds(prepare[way]) if way in prepare else 0.0
            draw(bench, name, settings[0], first)
            rounds = [
                (plain(), seconds(lambda draw=draw, settings=settings: draw(bench, name, settings[-1], first)), plain())
                for _ in range(size(3, 1))
            ]
            plainly = float(np.median([(before + after) / 2 for before, _, after in rounds]))
            data.keep(
                f"cost|{way}",
                {
                    "pictures": [learning / plainly * CHUNK],
                    "draw": [float(np.median([2 * at / (before + after) for before, at, after in rounds]))],
                },
            )


def cost_rows(data: dict[str, dict[str, list]]) -> list[str]:
    rows = ["| way | to learn it, in pictures drawn plainly | a picture, times a plain one |", "|---|---|---|"]
    for way in WAYS:
        if f"cost|{way}" in data:
            (pictures,), (draw,) = (data[f"cost|{way}"][key] for key in ("pictures", "draw"))
            learning = f"{pictures:.0f}" if pictures else "as above" if way in ALSO_LEARNED else ""
            rows.append(f"| {named(way)} | {learning} | {draw:.2f} |")
    return rows


def section(page: str, title: str) -> str:
    """A section of another bench's page, without its title."""
    sections = dict(part.split("\n\n", 1) for part in (DOCS / page).read_text().split("\n## ")[1:])
    return sections[title].strip()


def table(text: str, number: int = 0) -> list[dict[str, str]]:
    """The rows of a table in a section, by column."""
    tables = [block.splitlines() for block in text.split("\n\n") if block.startswith("|")]
    head, _, *rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in tables[number]]
    return [dict(zip(head, row)) for row in rows]


def neighbourhood() -> str:
    text = section("properties.md", "Small neighbourhood")
    row = next(r for r in table(text) if r["latents"] == "x_t" and r["vectors"] == "4")
    near, everywhere, chance = (float(row[key]) for key in ("from one step to the next", "all pairs of steps", "random subspaces"))
    return (
        "Wang et al.: the leading subspaces of a run's latents lie near each other. On the demo model this "
        f"**{'holds' if near < chance / 4 else 'does not hold'}** from step to step "
        f"({near} where random subspaces are {chance} apart, 4 vectors), and "
        f"{'holds' if everywhere < chance / 4 else 'holds in part'} over the whole run ({everywhere}).\n\n{text}"
    )


def encoded() -> str:
    rows = table(section("properties.md", "Encoded attributes"))
    lines = [
        "| at | " + " | ".join(f"triplet {r['triplet']}" for r in rows if r["at"] == rows[0]["at"]) + " |",
        "|---|" + "---|" * sum(r["at"] == rows[0]["at"] for r in rows),
    ]
    times = list(dict.fromkeys(r["at"] for r in rows))
    lines += [f"| {at} | " + " | ".join(r["all"] for r in rows if r["at"] == at) + " |" for at in times]
    share = {r["triplet"]: float(r["all"].rstrip("%")) for r in rows if r["at"] == times[-1]}
    first, rest = share.pop("1"), max(share.values())
    return (
        "Wang et al.: triplets carry attributes. On the demo model single triplets "
        f"**{'do' if first > 5 else 'do not'}** change labels, late in a run above all the first one "
        f"({first:.0f} % of all labels at {times[-1]}, the others {rest:.0f} % at the most). Labels changed:\n\n"
        + "\n".join(lines)
        + "\n\n![faces without one triplet, taken out at 0.3](encoded.jpg)\n\nBy attribute: [properties.md](properties.md)."
    )


def mobility() -> str:
    text = section("properties.md", "Mobility in order")
    rows = table(text, 1)
    held, not_held = ([r for r in rows if (float(r["fine"]) - float(r["coarse"]) > 0.3) is holds] for holds in (True, False))

    def told(rows: list[dict[str, str]]) -> str:
        return ", ".join(f"at {r['at']}: {r['coarse']} against {r['fine']}" for r in rows) or "nowhere"

    return (
        "Wang et al.: attributes move to their ranks in order, coarse ones to the leading ranks. "
        f"Coarse attributes stand at lower ranks than fine ones (by more than 0.3) {told(held)}; "
        f"they **do not** {told(not_held)}.\n\n{text}"
    )


def page(folder: Path, data: dict[str, dict[str, list]]) -> str:
    """Everything, from the data and from the other benches' pages; its figure goes to a folder."""
    outcomes = Outcomes(data)
    if not outcomes.firsts:
        raise SystemExit("evidence: no chunk of seeds is there for all ways yet")
    figure(outcomes, folder / "evidence.png")
    sections = {
        "The frontier": FRONTIER.format(widest=outcomes.widest())
        + f"\n\n{ELSEWHERE}\n\n![success against preservation](evidence.png)\n\n"
        + "\n".join([*frontier_rows(outcomes), "", IN_PART]),
        "Which attributes": f"Success, each way at its setting nearest to {EQUAL:.0%}.\n\n" + "\n".join(attribute_rows(outcomes)),
        "What it costs": COST + "\n\n" + "\n".join(cost_rows(data)),
        "First property: a small neighbourhood": neighbourhood(),
        "Second property: triplets carry attributes": encoded(),
        "Third property: mobility in order": mobility(),
        "What each term of AVI's loss buys": section("attributes.md", "What each term of the loss buys"),
        "Inversion": section("hspace.md", "Inversion"),
        "Quality boosting": section("training.md", "Quality boosting"),
    }
    intro = (
        f"Written by `make bench-quality`. The demo model, euler, {STEPS} steps, cfg {CFG:g}, prompt `{SOURCE}`; {len(TARGETS)} attributes "
        f"on {outcomes.count} seeds each, from {FIRST_SEED} up, that nothing was learned or tuned on. Attributes and directions are "
        f"learned on seeds from {LEARNED_ON} up, settings chosen on seeds from 500000 up. The sections from the three properties on come "
        "from the pages of their benches, with their own seeds: [properties](properties.md), [attributes](attributes.md), "
        "[h-space](hspace.md), [training](training.md)."
    )
    return f"# Evidence\n\n{intro}\n\n" + "\n\n".join(f"## {title}\n\n{text}" for title, text in sections.items()) + "\n"


FRONTIER = (
    "A cell `a / b`: the classifier finds the attribute in a of the pictures, and b of the ten other attributes' labels are those of "
    "the unedited picture of the same seed. A mean success is known to +-{widest:.1%} or better; intervals come from resampling seeds, "
    "also those of differences, which compare ways on the same seeds. What is kept at 80 % success is read off straight lines between "
    "the settings, from the unedited pictures up."
)
IN_PART = (
    "The row *AVI, the paper's form in part* takes its latents as the paper does (both runs from the same noise, the target's further"
    " denoised, no residual). But it minimises two of the paper's four loss terms, those of the target and the source and not those "
    "of their singular values, and it does so by the exact solver, without the paper's network. The whole form was not measured."
)
COST = (
    "One CPU thread; each way was timed between two plain drawings of as many pictures. Learning is done once. A prompt switched on the "
    "way costs one run, a blend of latents a run and the part of another before the blend."
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=size(96, CHUNK), help="held-out seeds for each attribute and setting")
    parser.add_argument("--minutes", type=float, default=1e9, help="stop drawing after this long; the next run goes on")
    parser.add_argument("--ways", default="", help="draw only the ways whose names have one of these parts, with commas between")
    parser.add_argument("--cost", action="store_true", help="time every way instead")
    parser.add_argument("--report", action="store_true", help="write the page from what was drawn")
    options = parsed(parser, DOCS)
    data = Data(options.out, options.out / ".cache" if SMALLEST else CACHE)
    if not options.report:
        start_host()
        with torch.inference_mode():
            costs(data) if options.cost else measure(data, options.seeds, options.minutes, options.ways.split(","))
    text = page(options.out, data.read())
    (options.out / "evidence.md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
