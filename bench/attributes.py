"""What AVI does on the demo model, measured: `docs/attributes.md` and its picture.

    COMFYUI=<host's folder> python bench/attributes.py [--seeds 24] [--out docs] [--smallest]

Attributes are learned on seeds from 600 000 up and judged on seeds from 900 000 up by the attribute classifier, through
the pack's own nodes. The defaults were chosen on seeds from 500 000 up.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parent))
from sizes import DOCS, fewer, parsed, size
from stage import FIRST_SEED, SOURCE, Point, Stage, cell, mean, save_sheet, start_host, write_report

LEARNED_ON, TUNED_ON, STEPS, CFG = 600_000, 500_000, size(16, 4), 3.0
TARGETS = {
    "skin": "dark",
    "glasses": "sunglasses",
    "beard": "beard",
    "background": "green",
    "style": "curly",
    "hat": "hat",
    "shirt": "red",
    "hair": "blue",
}
FEW = fewer(("skin", "glasses", "beard", "style"))  # where every attribute would take too long
STRENGTHS = {"paired": fewer((0.5, 1.0, 1.5)), "stored": fewer((0.5, 1.0, 1.5, 2.0))}
SEEDS = size(16, 1)  # that a stored attribute is learned on
READING = {
    "The network": "The exact solver finds each new pair's optimum in milliseconds, so the network is never needed for quality; "
    "it is the paper's form.",
}


class Bench(Stage):
    """The demo model, its judge, and the pack's nodes on them."""

    def __init__(self, seeds: int, first: int = FIRST_SEED):
        from comfy.samplers import sampler_object
        from comfy_extras.nodes_custom_sampler import BasicScheduler

        super().__init__(TARGETS)
        self.start, self.euler = self.noise(seeds, first), sampler_object("euler")
        self.sigmas = BasicScheduler.execute(self.model, "normal", STEPS, 1.0).args[0]
        self.base = self.draw()
        self.prompted = {name: self.draw(prompt=self.prompt(name)) for name in tqdm(fewer(TARGETS), "prompts")}

    def draw(self, sampler: Any = None, prompt: str = SOURCE, latent: Tensor | None = None, denoise: float = 1.0) -> Tensor:
        """Pictures (n, 3, h, w) in [-1, 1] of the bench's seeds, from nothing or from given ones."""
        from comfy_extras.nodes_custom_sampler import BasicScheduler

        sigmas = self.sigmas if denoise == 1 else BasicScheduler.execute(self.model, "normal", STEPS, denoise).args[0]
        return self.sample(self.model, sampler or self.euler, sigmas, self.start, prompt, CFG, latent)

    def learn(self, name: str, *, seeds: int = 1, **changes: Any):
        return self.learn_attribute(name, self.sigmas, cfg=CFG, seed=LEARNED_ON, seeds=seeds, **changes)

    def edited(self, attribute: Any, strength: float, name: str | None = None) -> Tensor:
        """With the target prompt of an attribute's name (paired) or without one (stored)."""
        from pack.nodes.avi import ApplyAttribute

        target = None if name is None else self.encode(self.prompt(name))
        return self.draw(ApplyAttribute.execute(self.euler, attribute, strength, 0.0, target).args[0])

    def point(self, images: Tensor, name: str) -> Point:
        return self.has(images, name), self.kept(images, self.base, name)


def success_table(bench: Bench) -> list[str]:
    """Each attribute over strength, paired and stored."""
    head = [f"{form} {s:+g}" for form, strengths in STRENGTHS.items() for s in strengths]
    rows = [f"| attribute | unedited | {' | '.join(head)} | prompt |", "|---|---|" + "---|" * (len(head) + 1)]
    curves = []
    for name in tqdm(fewer(TARGETS), "strengths"):
        attribute = bench.learn(name, seeds=SEEDS)
        drawn = [bench.edited(attribute, s, name if form == "paired" else None) for form, strengths in STRENGTHS.items() for s in strengths]
        curves.append([bench.point(images, name) for images in (bench.base, *drawn, bench.prompted[name])])
        rows.append(f"| {name}: {TARGETS[name]} | {curves[-1][0][0]:.0%} | " + " | ".join(map(cell, curves[-1][1:])) + " |")
    unedited, *means = map(mean, zip(*curves))
    rows.append(f"| mean | {unedited[0]:.0%} | " + " | ".join(map(cell, means)) + " |")
    return rows


def map_table(bench: Bench) -> list[str]:
    """One setting changed at a time, at strength 1, on the tuning seeds; the defaults in bold."""
    changes = {
        "percent": (0.4, 0.5, 0.6, 0.7, 0.8, 0.9),
        "ahead": (0.0, 0.06, 0.12, 0.2),
        "branch": (0.0, 0.12, 0.19, 0.25, 0.31, 0.4),
        "source_rank": (2, 4, 6, 10, 16),
        "target_rank": (2, 4, 6, 10, 16),
        "source_weight": (0.0, 0.25, 1.0),
    }
    defaults = {"percent": 0.7, "ahead": 0.0, "branch": 0.25, "source_rank": 6, "target_rank": 6, "source_weight": 0.25}
    rows, known = ["| input | success / others kept |", "|---|---|"], {}
    for key, values in tqdm(fewer(changes.items(), 2), "map"):
        cells = []
        for value in fewer(values):
            setting = tuple({**defaults, key: value}.items())
            if setting not in known:
                known[setting] = mean(bench.point(bench.edited(bench.learn(name, **dict(setting)), 1.0, name), name) for name in FEW)
            text = f"{value:g}: {cell(known[setting])}"
            cells.append(f"**{text}**" if value == defaults[key] else text)
        rows.append(f"| {key} | " + ", ".join(cells) + " |")
    return rows


def ablation_table(bench: Bench) -> list[str]:
    """The loss without each of its terms, at strength 1: what the paper says of each, and what is seen."""
    full = {"target_weight": 1.0, "source_weight": 0.25, "target_values_weight": 0.1, "source_values_weight": 0.1}
    variants = {
        "all four": full,
        **{f"without {key.removesuffix('_weight').replace('_', ' ')}": {**full, key: 0.0} for key in full},
        "the first two (default)": {**full, "target_values_weight": 0.0, "source_values_weight": 0.0},
    }
    rows = [
        "| loss | success / others kept | distance to source | distance to target | colour saturation | contrast |",
        "|---|---|---|---|---|---|",
    ]

    def look(images: Tensor) -> tuple[float, float]:
        pixels = ((images + 1) / 2).clamp(0, 1)
        return float((pixels.amax(1) - pixels.amin(1)).mean()), float(pixels.std())

    for label, weights in tqdm(fewer(variants.items()), "ablation"):
        figures = []
        for name in FEW:
            images = bench.edited(bench.learn(name, **weights), 1.0, name)
            apart = [float((images - other).square().mean().sqrt()) for other in (bench.base, bench.prompted[name])]
            figures.append([*bench.point(images, name), *apart, *look(images)])
        m = np.mean(figures, axis=0)
        rows.append(f"| {label} | {cell(m[:2])} | {m[2]:.3f} | {m[3]:.3f} | {m[4]:.3f} | {m[5]:.3f} |")
    plain = np.mean([look(bench.base)] + [look(bench.prompted[name]) for name in FEW], axis=0)
    return [*rows, f"| unedited and prompted pictures | | | | {plain[0]:.3f} | {plain[1]:.3f} |"]


def network_table(bench: Bench) -> list[str]:
    """The MLP trained on 1, 4 and 16 seeds: its loss on its own pairs and on new ones, against the exact optimum of each."""
    from comfy.samplers import KSAMPLER

    from pack.host.attributes import Learner
    from pack.host.pairs import Steps

    rows = [
        "| trained on | loss on its own pairs, of the optimum | loss on new pairs (the judged seeds), of their optimum "
        "| success / others kept at strength 1 |",
        "|---|---|---|---|",
    ]
    figures: dict[str, list[list[float]]] = {}
    for name in tqdm(FEW, "network"):

        def unseen(attribute, name=name):
            """Problems of the bench's own seeds under an attribute's recipe."""
            recipe = attribute.parts[0][0].recipe
            plan = Steps.of(recipe, bench.model.get_model_object("model_sampling"), bench.sigmas)
            learner = Learner(bench.euler.sampler_function, bench.encode(bench.prompt(name)), recipe, plan, lambda *latents: None)
            bench.draw(KSAMPLER(learner))
            return learner.problems[0]

        exact = bench.learn(name)
        problem = unseen(exact)
        best = float(problem.loss(problem.loss.solution()).sum())
        figures.setdefault("exact solver", []).append([1.0, 1.0, *bench.point(bench.edited(exact, 1.0, name), name)])
        for seeds in fewer((1, 4, 16)):
            learned = bench.learn(name, seeds=seeds, solver="MLP", steps=size(200, 2))
            attribute = learned.parts[0][0]
            new = float(problem.loss(problem.values(attribute.network)).sum()) / best
            figures.setdefault(f"MLP, {seeds} {'seed' if seeds == 1 else 'seeds'}", []).append(
                [attribute.losses["MLP"] / attribute.losses["exact"], new, *bench.point(bench.edited(learned, 1.0, name), name)]
            )
    for label, values in figures.items():
        m = np.mean(values, axis=0)
        rows.append(f"| {label} | {m[0]:.3f} | {m[1]:.2f} | {cell(m[2:])} |")
    return rows


def seeds_table(bench: Bench) -> list[str]:
    """The stored form, learned on more and more seeds, at strength 1.5."""
    rows = ["| learned on | success / others kept, stored at 1.5 |", "|---|---|"]
    for seeds in tqdm(fewer((1, 2, 4, 8, 16, 32)), "stored"):
        rows.append(
            f"| {seeds} {'seed' if seeds == 1 else 'seeds'} "
            f"| {cell(mean(bench.point(bench.edited(bench.learn(name, seeds=seeds), 1.5), name) for name in FEW))} |"
        )
    return rows


def time_table() -> list[str]:
    """Solving on an SD-shaped pair of latents, 4 x 64 x 64, ranks 13 and 13."""
    from pack.core.avi.attribute import Pair, Problem, Recipe
    from pack.core.avi.network import train

    generator, side, steps = torch.Generator().manual_seed(0), size(64, 8), size(60, 1)
    x = torch.randn(1, 4, side, side, generator=generator)
    z = x + 0.5 * torch.randn(1, 4, side, side, generator=generator)

    def milliseconds(work, rounds: int) -> float:
        work()
        spans = []
        for _ in range(rounds):
            begun = time.perf_counter()
            work()
            spans.append(1e3 * (time.perf_counter() - begun))
        return float(np.median(spans))

    def exact():
        problem = Problem.of(x, Pair(z, z), Recipe())
        return problem.edited(problem.values(None))

    problem = Problem.of(x, Pair(z, z), Recipe())
    network, losses = train([problem.both.S], [problem.loss], [problem.both.shape], steps=steps, seed=0)
    reached = float(problem.loss(problem.values(network)).sum() / problem.loss(problem.loss.solution()).sum())
    span = milliseconds(lambda: train([problem.both.S], [problem.loss], [problem.both.shape], steps=steps, seed=0), size(3, 1))
    return [
        f"| on a 4 x {side} x {side} pair | time |",
        "|---|---|",
        f"| exact: decompose both, solve, compose | {milliseconds(exact, size(15, 1)):.1f} ms |",
        f"| MLP, {steps} steps; its loss is {reached:.4f} of the optimum | {span / 1e3:.2f} s |",
    ]


def picture(bench: Bench, path: Path) -> None:
    """Held-out seeds over strength, for three attributes, paired."""
    start, bench.start = bench.start, bench.start[:2]
    shown, blocks = fewer((-1.0, 0.0, 0.5, 1.0, 1.5), 2), []
    for name in fewer(("glasses", "background", "beard")):
        attribute = bench.learn(name, seeds=SEEDS)
        drawn = [bench.edited(attribute, s, name) for s in shown] + [bench.edited(attribute, 1.5)]
        blocks.append((list(zip(*drawn)), [f"{name} {s:+g}" if s else f"{name} 0" for s in shown] + ["stored +1.5"]))
    bench.start = start
    save_sheet(blocks, path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=size(24, 1), help="held-out seeds a cell")
    options = parsed(parser, DOCS)
    start_host()
    with torch.inference_mode():
        bench = Bench(options.seeds)
        picture(bench, options.out / "attributes.jpg")
        parts = {
            "Success and preservation over strength": lambda: success_table(bench),
            "The network": lambda: network_table(bench),
            "What each term of the loss buys": lambda: ablation_table(bench),
            "Seeds for the stored form": lambda: seeds_table(bench),
            "What each input does": lambda: map_table(Bench(size(16, 1), TUNED_ON)),
            "Time": time_table,
        }
        write_report(
            options.out / "attributes.md", head(options.seeds), {title: with_reading(title, measure) for title, measure in parts.items()}
        )


def with_reading(title: str, measure: Callable[[], list[str]]) -> Callable[[], list[str]]:
    return lambda: [*([READING[title], ""] if title in READING else []), *measure()]


def head(seeds: int) -> str:
    intro = (
        f"Written by `bench/attributes.py`. The demo model, euler, {STEPS} steps, cfg {CFG:g}, prompt `{SOURCE}`; attributes learned on "
        f"seeds from {LEARNED_ON} up; judged on {seeds} seeds from {FIRST_SEED} up, the map on 16 from {TUNED_ON} up, where the defaults "
        "were chosen. A cell `a / b`: the classifier finds the attribute in a of the pictures, and b of the other attributes' labels are "
        "those of the unedited picture of the same seed."
    )
    return f"# AVI, measured\n\n{intro}\n\n![three attributes over strength](attributes.jpg)"


if __name__ == "__main__":
    main()
