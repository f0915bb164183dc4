"""What guidance by a reference picture and by a scorer does on the demo model, measured: `docs/guidance.md` and its picture.

    COMFYUI=<host's folder> python bench/guidance.py [--seeds 8] [--out docs] [--smallest]

Pictures are drawn from seeds from 900 000 up and judged by the judge of portraits, through the pack's own nodes.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parent))
from sizes import DOCS, fewer, parsed, size
from stage import FIRST_SEED, INSTRUMENTS, SOURCE, Stage, precision, save_sheet, start_host, write_report

STEPS, CFG, SHOWN = size(12, 4), 3.0, size(4, 1)
TARGETS = {"glasses": "sunglasses", "hat": "hat", "smile": 0.7}
IN_REFERENCE, REFERENCE_SEED = ("glasses", "smile"), 17
FACTORS, STRENGTHS = fewer((8, 4, 2)), fewer((1.0, 2.0, 3.0))


class Bench(Stage):
    """The demo model, the scorer, and the pictures that nothing guides."""

    def __init__(self, seeds: int):
        from pack.nodes.pictures import DemoScorer

        super().__init__(TARGETS)
        self.seeds = seeds
        self.clip_vision, self.scorer_clip = DemoScorer.execute().args
        self.seconds: dict[str, float] = {}
        self.base = self.pictures(self.draw("a plain run"))
        self.before = self.judge.read(self.base)
        self.blocks: list[tuple[list[list[Tensor]], list[str]]] = []

    def draw(self, what: str, model=None, prompt: str = SOURCE, seeds: int = 0, first: int = FIRST_SEED) -> Tensor:
        """Latents of the held-out seeds, by euler; notes the processor's seconds for one, under a name of the way."""
        from comfy.samplers import sampler_object
        from comfy_extras.nodes_custom_sampler import BasicScheduler

        model, noise = model or self.model, self.noise(seeds or self.seeds, first)
        sigmas, start = BasicScheduler.execute(self.model, "normal", STEPS, 1.0).args[0], time.process_time()
        latents = self.sample(model, sampler_object("euler"), sigmas, noise, prompt, CFG)
        self.seconds.setdefault(what, (time.process_time() - start) / len(noise))
        return latents

    def found(self, pictures: Tensor, name: str) -> tuple[float, float]:
        """In how many of the pictures the judge finds the attribute, and the share of the others that are kept."""
        now = self.judge.read(pictures)
        return float(self.shows(now, name).float().mean()), float(self.keeps(now, self.before, name).mean())

    def score(self, pictures: Tensor, name: str) -> float:
        """The scorer's own score: cosine with the target text less that with the source text, the mean over pictures in [-1, 1]."""
        from pack.nodes.pictures import embedded

        shown = (pictures.movedim(1, -1) + 1) / 2
        texts, (images,) = embedded(self.clip_vision, self.scorer_clip, [SOURCE, self.prompt(name)], [shown])
        return float((images @ (texts[1] - texts[0])).mean())

    def show(self, columns: list[Tensor], labels: list[str], rows: int = SHOWN) -> None:
        """Pictures (n, 3, h, w) of the first seeds, a row each, for the page's sheet."""
        self.blocks.append(([[column[i] for column in columns] for i in range(min(rows, self.seeds))], labels))


def likeness(pictures: Tensor, reference: Tensor) -> float:
    """1 - RMS difference from a picture (1, 3, h, w), both in [-1, 1] as 0 to 1; the mean."""
    return 1 - float(((pictures - reference) / 2).square().flatten(1).mean(1).sqrt().mean())


def by_reference(bench: Bench) -> list[str]:
    """Success, kept share and likeness to the reference over the factor."""
    from pack.nodes.guidance import ImageGuidance

    latent = bench.draw("the reference", prompt=bench.prompt(*IN_REFERENCE), seeds=1, first=REFERENCE_SEED)
    reference = bench.pictures(latent)
    rows = ["| downsample | sunglasses | smile | others kept | likeness to the reference |", "|---|---|---|---|---|"]
    columns, labels = [bench.base], ["unedited"]

    def row(label: str, pictures: Tensor) -> str:
        cells = [bench.found(pictures, name) for name in IN_REFERENCE]
        kept = sum(kept for _, kept in cells) / len(cells)
        return f"| {label} | {cells[0][0]:.0%} | {cells[1][0]:.0%} | {kept:.0%} | {likeness(pictures, reference):.2f} |"

    rows.append(row("unedited", bench.base))
    for factor in tqdm(FACTORS, "image guidance"):
        model = ImageGuidance.execute(bench.model, {"samples": latent}, 1.0, factor).args[0]
        pictures = bench.pictures(bench.draw("Image Guidance", model))
        rows.append(row(str(factor), pictures))
        columns.append(pictures)
        labels.append(f"downsample {factor}")
    bench.show([*columns, reference.expand_as(bench.base)], [*labels, "reference"])
    there = bench.found(reference, "glasses")[0], bench.found(reference, "smile")[0]
    note = (
        f"Strength 1, steps from 0 to 0.5 of the run, as the node starts. One reference for all seeds, drawn from seed {REFERENCE_SEED} "
        f"under the prompt `{bench.prompt(*IN_REFERENCE)}`; the judge finds sunglasses in it: {'yes' if there[0] else 'no'}, a smile: "
        f"{'yes' if there[1] else 'no'}."
    )
    return [note, "", *rows]


def by_scorer(bench: Bench) -> list[str]:
    """Success, kept share and the scorer's own score over the strength, by attribute; and for the prompt that names it."""
    from pack.nodes.guidance import ClassifierGuidance

    rows = ["| attribute | strength | success | others kept | the scorer's own score |", "|---|---|---|---|---|"]
    for name in tqdm(fewer(TARGETS), "classifier guidance"):
        label, columns = name if name != "glasses" else "sunglasses", [bench.base]
        rows.append(f"| {label} | unedited | {bench.found(bench.base, name)[0]:.0%} | 100% | {bench.score(bench.base, name):+.3f} |")
        for strength in STRENGTHS:
            given = (bench.vae, bench.clip_vision, bench.scorer_clip, SOURCE, bench.prompt(name), strength)
            columns.append(bench.pictures(bench.draw("Classifier Guidance", ClassifierGuidance.execute(bench.model, *given).args[0])))
        columns.append(bench.pictures(bench.draw("the prompt", prompt=bench.prompt(name))))
        for way, pictures in zip([*(f"{strength:g}" for strength in STRENGTHS), "the prompt"], columns[1:], strict=True):
            hit, kept = bench.found(pictures, name)
            rows.append(f"| {label} | {way} | {hit:.0%} | {kept:.0%} | {bench.score(pictures, name):+.3f} |")
        bench.show(columns, ["unedited", *(f"{label} {s:+g}" for s in STRENGTHS), "the prompt"], SHOWN // 2 or 1)
    note = (
        f"Load Demo Scorer, `{SOURCE}` against the prompt with the attribute; steps from 0.1 to 0.8 of the run, as the node starts. The "
        "score is the cosine with the target text less the cosine with the source text, of the finished pictures: where it rises and "
        "the judge finds no more, the change pleases the scorer alone. *The prompt* draws the same seeds under the target text."
    )
    return [note, "", *rows]


def cost(bench: Bench) -> list[str]:
    plain = bench.seconds["a plain run"]
    rows = ["| run | of a plain one |", "|---|---|"]
    rows += [f"| {way} | {bench.seconds[way] / plain:.2f} |" for way in ("Image Guidance", "Classifier Guidance")]
    return [f"The processor's time for a picture of {STEPS} steps, on one core of a CPU, without decoding the result.", "", *rows]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=size(8, 1), help="held-out seeds a cell")
    options = parsed(parser, DOCS)
    start_host()
    with torch.inference_mode():
        bench = Bench(options.seeds)
        parts = {
            "By a reference picture": lambda: by_reference(bench),
            "By a scorer": lambda: by_scorer(bench),
            "Cost": lambda: cost(bench),
        }
        write_report(options.out / "guidance.md", head(options.seeds), parts)
        save_sheet(bench.blocks, options.out / "guidance.jpg")


def head(count: int) -> str:
    intro = (
        f"Written by `bench/guidance.py`. The demo model `{INSTRUMENTS['portrait']}`, computed in {precision()}; euler, {STEPS} steps, "
        f"cfg {CFG:g}, prompt `{SOURCE}`; {count} seeds from {FIRST_SEED} up, so that a share is uncertain by about {1 / count**0.5:.0%}. "
        "Success: in how many of the pictures the judge finds the attribute. Others kept: how many of the other attributes are those of "
        "the unedited picture of the same seed. What the two ways are, and their relatives, is on [a page of rivals](rivals.md)."
    )
    title, picture = "Guidance by a picture and by a scorer, measured", "![unedited, guided, and the reference or the prompt](guidance.jpg)"
    return f"# {title}\n\n{intro}\n\n{picture}"


if __name__ == "__main__":
    main()
