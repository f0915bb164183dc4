"""Measures what editing an attribute costs of the rest, and writes the page of evidence, `docs/evidence.md`.

It measures the ways of this pack and what a user would do instead, on an instrument: a latent diffusion UNet or a flow transformer.

    COMFYUI=<host's folder> python bench/evidence.py [--model portrait|portrait-dit] [--seeds 24] [--minutes 60] [--ways AVI,image]
                                              [--judge] [--cost] [--report] [--out docs] [--smallest]

Every way draws the same held-out seeds (from 900 000 up) with the same sampler and steps, at several settings, for the same
attributes. Learned things come from seeds from 600 000 up. What was drawn lies as latents in `bench/.cache/`, so that a run that
was stopped goes on where it was; what this judge has judged is not drawn again. The judge reads it (`--judge`: that alone, again
if the judge is another one), and the outcome of each picture goes into `docs/evidence_<model>.json`, from which `--report` writes
the page. The page's other sections come from the pages of the other benches.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parent))
from outcomes import EQUAL, Outcomes, attribute_rows, figure, frontier_rows, slide_rows
from sizes import DOCS, SMALLEST, parsed, size
from stage import FIRST_SEED, INSTRUMENTS, SOURCE, TITLES, precision, start_host
from ways import CACHE, CFG, CHUNK, LEARNED_ON, MORE_STEPS, SLIDES, STEPS, STRENGTHS, TARGETS, Bench, Way, seconds, ways_of

ALSO_LEARNED = ("AVI, paired",)  # what the way above them learns
SHARED = ("the target prompt", "the prompt switched")  # drawn from runs that serve several ways here
SLIDING_SEED = FIRST_SEED + 10_000
SLIDING_COUNT = size(6, 1)
BASES = {"smile": 0.0, "glasses": "none", "beard": 0.0, "age": 0.25, "background": "gray", "light": 0.0, "hat": "none", "hair": "black"}


@dataclass(frozen=True)
class Data:
    """What was drawn and what the judge found, by way, setting, attribute and first seed, of one instrument.

    folder: for the outcomes; cache: for the latents.
    """

    instrument: str
    folder: Path
    cache: Path

    @property
    def path(self) -> Path:
        return self.folder / f"evidence_{self.instrument}.json"

    def read(self) -> dict[str, dict]:
        return json.loads(self.path.read_text()) if self.path.exists() else {}

    def keep(self, outcomes: dict[str, dict]) -> None:
        """Add to the outcomes on disk."""
        lines = [f"{json.dumps(k)}: {json.dumps(v)}" for k, v in sorted((self.read() | outcomes).items())]
        partial = self.path.with_suffix(".partial")
        partial.write_text("{\n" + ",\n".join(lines) + "\n}\n")
        partial.replace(self.path)

    def drawn(self, key: str) -> Path:
        """The file of a key's latents."""
        return self.cache / self.instrument / f"{key.replace('|', '__').replace(' ', '_').replace(',', '')}.safetensors"

    def store(self, key: str, latents: Tensor) -> None:
        from safetensors.torch import save_file

        path = self.drawn(key)
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(".partial")
        save_file({"latents": latents.half().contiguous()}, partial)
        partial.replace(path)

    def latents(self, key: str) -> Tensor:
        from safetensors.torch import load_file

        return load_file(self.drawn(key))["latents"].float()


def tasks(ways: dict[str, Way], seeds: int) -> Iterator[tuple[str, Way, float, str, int]]:
    """Every key that is to be drawn, with its way, setting, attribute and first seed: chunk by chunk over all ways."""
    for first in range(FIRST_SEED, FIRST_SEED + seeds, CHUNK):
        for name in TARGETS:
            for title, way in ways.items():
                for setting in way.settings:
                    yield f"{title}|{setting:g}|{name}|{first}", way, setting, name, first
    for title, way in ways.items():
        if way.dial is not None:
            for name in SLIDES:
                for strength in STRENGTHS:
                    key = f"slide|{title}|{strength:g}|{name}|{SLIDING_SEED}"
                    yield key, way, strength * way.dial, name, SLIDING_SEED


def measure(data: Data, seeds: int, minutes: float, parts: list[str]) -> None:
    """Draw what is neither there nor judged yet, so that an early stop leaves all ways equally far."""
    known, mark = data.read(), judge_mark()
    bench, ends = Bench(data.instrument), time.monotonic() + 60 * minutes
    ways = {title: way for title, way in ways_of(data.instrument).items() if any(part in title for part in parts)}
    for key, way, setting, name, first in tasks(ways, seeds):
        if known.get(key, {}).get("judge") == mark:
            continue
        bench.take(way.steps, SLIDING_COUNT if first == SLIDING_SEED else CHUNK)
        base = f"{way.base}|{first}"
        if not data.drawn(base).exists():
            data.store(base, bench.base(first))
        if not data.drawn(key).exists():
            if time.monotonic() > ends:
                return
            start = time.monotonic()
            data.store(key, way.draw(bench, name, setting, first))
            print(f"{key}: {time.monotonic() - start:.1f} s", flush=True)


def judge_mark() -> str:
    """Which judge the outcomes are of."""
    from pack import demo
    from pack.demo import judge

    return hashlib.sha256((demo.JUDGES / judge.FILE).read_bytes()).hexdigest()[:16]


class Reader:
    """What the judge and the drawing of faces say of latents."""

    def __init__(self, data: Data):
        from pack import demo

        self.data, self.bench, self.mark = data, Bench(data.instrument), judge_mark()
        figures = json.loads((demo.JUDGES.parent / "figures.json").read_text())["readers"]["judge"]
        self.parts = [i for i, part in enumerate(self.bench.faces.IDENTITY) if figures[f"identity.{part}"] > 0.5]

    @cache  # noqa: B019 (a bench's object lives as long as the process)
    def seen(self, key: str) -> tuple[dict[str, Tensor], Tensor]:
        """What the judge reads off a key's pictures, and the pictures themselves, uint8."""
        pictures = self.bench.pictures(self.data.latents(key))
        return self.bench.judge.read(pictures), (pictures * 127.5 + 127.5).round().clamp(0, 255).to(torch.uint8)

    @cache  # noqa: B019 (a bench's object lives as long as the process)
    def region(self, name: str) -> Tensor:
        """Where drawn faces change with the attribute, with 8 pixels around it: (256, 256), true inside."""
        from pack.demo.drawing import render
        from pack.demo.faces import CATEGORICAL, sample_face

        changed = torch.zeros(256, 256)
        for seed in range(size(48, 2)):
            face = sample_face(np.random.default_rng([70_000, seed]), **{name: BASES[name]})
            field = "labels" if name in CATEGORICAL else "numbers"
            other = replace(face, **{field: getattr(face, field) | {name: TARGETS[name]}})
            a, b = (torch.from_numpy(np.array(render(each))).int() for each in (face, other))
            changed += ((a - b).abs().amax(-1) > 12).float()
        inside = (changed >= 0.1 * size(48, 2)).float()
        return torch.nn.functional.max_pool2d(inside[None, None], 17, 1, 8)[0, 0] > 0

    def judged(self, key: str, base: str, name: str) -> dict[str, list]:
        """By picture: whether it shows the attribute, the share of the others that it keeps, how far identity and pixels moved from those
        of the base's key."""
        (now, pictures), (then, before) = self.seen(key), self.seen(base)
        outside = ~self.region(name)
        moved = (pictures.int() - before.int()).abs().float().mean(1)[:, outside].mean(1)
        identity = ((now["identity"] - then["identity"])[:, self.parts] / 0.5).square().mean(1).sqrt()
        found = {
            "hit": self.bench.shows(now, name).int().tolist(),
            "before": self.bench.shows(then, name).int().tolist(),
            "kept": [round(x, 4) for x in self.bench.keeps(now, then, name).tolist()],
            "identity": [round(x, 3) for x in identity.tolist()],
            "outside": [round(x, 2) for x in moved.tolist()],
        }
        if name in self.bench.faces.CONTINUOUS:
            found |= {"number": [round(x, 3) for x in now[name].tolist()], "number before": [round(x, 3) for x in then[name].tolist()]}
        return found

    def all(self, seeds: int) -> None:
        """Judge what was drawn and not yet judged by this judge."""
        known, new = self.data.read(), {}
        for key, way, _, name, first in tasks(ways_of(self.data.instrument), seeds):
            if self.data.drawn(key).exists() and known.get(key, {}).get("judge") != self.mark:
                new[key] = self.judged(key, f"{way.base}|{first}", name) | {"judge": self.mark, "precision": precision()}
                self.seen.cache_clear() if len(new) % 40 == 0 else None
        self.data.keep(new)


def costs(data: Data, parts: list[str]) -> None:
    """How long each way whose name has one of the parts takes to prepare and to draw, beside drawing the same pictures plainly."""
    bench, name, first = Bench(data.instrument, shares=False), "smile", FIRST_SEED - CHUNK
    bench.count = size(4, 1)

    bench.base(first), bench.draw(first)
    prepare: dict[str, Callable[[], object]] = {
        "AVI, stored": lambda: bench.attribute(name),
    }
    found = {}
    for title, way in ways_of(data.instrument).items():
        if title not in SHARED and way.settings and any(part in title for part in parts):
            learning = seconds(prepare[title]) if title in prepare else 0.0
            way.draw(bench, name, way.settings[0], first)
            draw, plainly = bench.beside_plain(first, lambda way=way: way.draw(bench, name, way.settings[-1], first))
            found[f"cost|{title}"] = {
                "pictures": [learning / plainly * bench.count],
                "draw": [draw],
                "plain seconds": [plainly / bench.count],
            }
    data.keep(found)


def cost_rows(data: dict[str, dict[str, list]], ways: dict[str, Way]) -> list[str]:
    if not any(key.startswith("cost|") for key in data):
        return ["Not measured yet."]
    rows = ["| way | to learn it, in pictures drawn plainly | a picture, times a plain one |", "|---|---|---|"]
    for way in ways:
        if f"cost|{way}" in data:
            (pictures,), (draw,) = (data[f"cost|{way}"][key] for key in ("pictures", "draw"))
            learning = f"{pictures:.0f}" if pictures else "as above" if way in ALSO_LEARNED else ""
            rows.append(f"| {way} | {learning} | {draw:.2f} |")
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
        f"{'holds' if everywhere < chance / 4 else 'does not hold'} over the whole run ({everywhere}).\n\n{text}"
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
        + "\n\n![faces without one triplet, taken out at 0.3](encoded.jpg)"
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


def of_instrument(folder: Path, instrument: str, data: dict[str, dict]) -> dict[str, str]:
    """The sections of one instrument, by title; its figure goes to the folder. Ways of which nothing is judged yet are left out."""
    judged = {key.removeprefix("slide|").split("|")[0] for key in data}
    ways = {title: way for title, way in ways_of(instrument).items() if title in judged}
    if "the target prompt" not in ways:  # which all are compared with
        return {}
    outcomes = Outcomes(data, ways)
    if not outcomes.firsts:
        return {}
    figure(outcomes, [title for each in INSTRUMENTS for title in ways_of(each)], folder / f"evidence_{instrument}.png")
    short = TITLES[instrument].split(",")[0]
    return {
        f"{TITLES[instrument]}: the frontier": FRONTIER.format(widest=outcomes.widest(), count=outcomes.count, more=MORE_STEPS)
        + f"\n\n![success against preservation](evidence_{instrument}.png)\n\n"
        + "\n".join(frontier_rows(outcomes)),
        f"{short}: does it slide?": SLIDING.format(dials=dials(data, ways)) + "\n\n" + "\n".join(slide_rows(data, ways)),
        f"{short}: which attributes": f"Success, each way at its setting nearest to {EQUAL:.0%}.\n\n" + "\n".join(attribute_rows(outcomes)),
        f"{short}: what it costs": COST + "\n\n" + "\n".join(cost_rows(data, ways)),
    }


def dials(data: dict[str, dict], ways: dict[str, Way]) -> str:
    """What strength 1 is in each way that was drawn at strengths."""
    drawn = {key.split("|")[1] for key in data if key.startswith("slide|")}
    return ", ".join(f"{title} {way.dial:g}" for title, way in ways.items() if way.dial is not None and title in drawn)


ELSEWHERE: dict[str, tuple[str, Callable[[], str]]] = {  # sections from the pages of other benches, where there are some
    "First property: a small neighbourhood": ("properties.md", neighbourhood),
    "Second property: triplets carry attributes": ("properties.md", encoded),
    "Third property: mobility in order": ("properties.md", mobility),
    "What each term of AVI's loss buys": ("attributes.md", lambda: section("attributes.md", "What each term of the loss buys")),
    "Shifting the noise against shifting h": ("spaces.md", lambda: section("spaces.md", "What cancels")),
    "Inversion": ("hspace.md", lambda: section("hspace.md", "Inversion")),
    "Quality boosting": ("training.md", lambda: section("training.md", "Quality boosting")),
}


def computed_in(outcomes: dict[str, dict]) -> str:
    """What the networks computed in, of outcomes by key: most of them, and by way the others."""
    ways: dict[str, set[str]] = {}
    for key, outcome in outcomes.items():
        if "precision" in outcome:
            ways.setdefault(outcome["precision"], set()).add(key.removeprefix("slide|").split("|")[0])
    usual, *others = sorted(ways, key=lambda kind: -len(ways[kind]))
    return f"computed in {usual}" + "".join(f" (in {kind}: {'; '.join(sorted(ways[kind]))})" for kind in others)


def page(folder: Path, cache: Path) -> str:
    """Everything, from the data and from the other benches' pages."""
    sections: dict[str, str] = {}
    outcomes: dict[str, dict] = {}
    for instrument in INSTRUMENTS:
        found = Data(instrument, folder, cache).read()
        sections |= of_instrument(folder, instrument, found)
        outcomes |= {f"{key}|{instrument}": outcome for key, outcome in found.items()}
    if not sections:
        raise SystemExit("evidence: no chunk of seeds is there for all ways yet")
    for title, (page, text) in ELSEWHERE.items():
        if (DOCS / page).exists():
            sections[title] = text()
            other = page.replace(".md", "-dit.md")
            if (DOCS / other).exists():
                sections[title] += f"\n\nThe same on the transformer: [{other}]({other})."
    intro = (
        f"Written by `make bench-evidence`. Two models that are built like a user's ([model card](../demo/MODEL_CARD.md)), euler, {STEPS} "
        f"steps, cfg {CFG:g}, {computed_in(outcomes)}, prompt `{SOURCE}`; {len(TARGETS)} attributes on held-out seeds from {FIRST_SEED} "
        f"up. Attributes are learned on seeds from {LEARNED_ON} up. The windows and the focus of the contrasts (from 0.3 on at 0.7; with "
        "the rest held, which is Make Slider as it starts, from 0.1 on at 0.6) were chosen on six seeds from 500000 up, how far it may "
        "spread on four of them; settings were written down before anything was drawn on the held-out seeds, but for strength 2 of the "
        "focused contrast, added when the "
        "transformer had not reached 80 % at 1. Sections after those of the two models come from the pages of "
        "other benches, with their own seeds. What was measured on the 32-pixel model of version 0.1: [history](history.md)."
    )
    return f"# Evidence\n\n{intro}\n\n" + "\n\n".join(f"## {title}\n\n{text}" for title, text in sections.items()) + "\n"


FRONTIER = (
    "A cell `a / b`: the judge finds the attribute in a of the pictures, and b of the other attributes are kept: the same label, or a "
    "number that moved by less than a tenth of its range (attributes that the edit hides by itself, as a hat hides hair, do not count). "
    "That the judge finds it does not say that it is well drawn: a dark bar over the eyes may be read as sunglasses. "
    "Identity: how far what the judge reads of geometry and colours moved, in deviations of random faces (root mean square). Outside: "
    "how far pixels moved, of 255, outside the region in which drawn faces change with the attribute. {count} seeds an attribute; a mean "
    "success is known to +-{widest:.1%} or better; intervals come from resampling seeds, also those of differences, which compare ways "
    "on the same seeds. What is kept at 80 % success is read off straight lines between the settings, from the unedited pictures up. More "
    "steps: as many as take as long as the held prediction, {more}, beside an unedited run of as many."
)
SLIDING = (
    "Nine strengths from -1 to 1, where 1 is: {dials}. Continuous attributes alone, as one that is there or not has to jump. Rank "
    "correlation of the strength with the number that the judge reads, in each seed; the largest jump between neighbouring strengths as a "
    "share of the whole change (1/8 if it slides evenly), where the whole change is at least a fifth of the number's range; and how far "
    "each side moves it, as a share of its range."
)
COST = (
    "One CPU thread beside other work; each way was timed between two plain drawings of as many pictures. Learning is done once. A "
    "prompt switched on the way costs one run. The pictures' prompt is what the contrasts take for the words without, which is then not "
    "asked again; another prompt costs them a call of the model a step more."
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=INSTRUMENTS, default="portrait")
    parser.add_argument("--seeds", type=int, default=size(24, CHUNK), help="held-out seeds for each attribute and setting")
    parser.add_argument("--minutes", type=float, default=1e9, help="stop drawing after this long; the next run goes on")
    parser.add_argument("--ways", default="", help="draw only the ways whose names have one of these parts, with commas between")
    parser.add_argument("--judge", action="store_true", help="draw nothing, and judge what was drawn")
    parser.add_argument("--draw", action="store_true", help="draw, and judge nothing")
    parser.add_argument("--cost", action="store_true", help="time every way instead")
    parser.add_argument("--report", action="store_true", help="write the page from what is there")
    options = parsed(parser, DOCS)
    cache = (options.out / ".cache" if SMALLEST else CACHE) / "evidence"
    data = Data(options.model, options.out, cache)
    start_host()
    if not options.report:
        with torch.inference_mode():
            if options.cost:
                costs(data, options.ways.split(","))
            elif not options.judge:
                measure(data, options.seeds, options.minutes, options.ways.split(","))
            if not options.cost and not options.draw:
                Reader(data).all(options.seeds)
    if not options.draw:
        text = page(options.out, cache)
        (options.out / "evidence.md").write_text(text)
        print(text)


if __name__ == "__main__":
    main()
