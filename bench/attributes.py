"""What AVI does on a demo model, measured: `docs/attributes.md` or `attributes-dit.md`, and a picture.

    COMFYUI=<host's folder> python bench/attributes.py [--model portrait-dit] [--seeds 8] [--only "The network"] [--out docs]
                                                [--smallest]

Attributes are learned on seeds from 600 000 up and judged on seeds from 900 000 up by the judge of portraits, through the
pack's own nodes. Settings are compared on seeds from 500 000 up.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parent))
from sizes import DOCS, fewer, parsed, size
from stage import FIRST_SEED, INSTRUMENTS, SOURCE, Point, Stage, cell, mean, precision, save_sheet, start_host, write_report
from ways import ALL_TERMS, PAPERS, SCHEDULERS

LEARNED_ON, TUNED_ON, STEPS, CFG = 600_000, 500_000, size(12, 4), 3.0
TARGETS = {"glasses": "sunglasses", "smile": 0.7, "beard": 0.75, "background": "green"}
FEW = fewer(("glasses", "beard"))  # where every attribute would take too long
STRENGTHS = {"paired": fewer((0.5, 1.0, 1.5)), "stored": fewer((1.0, 1.5, 2.0))}
SEEDS = size(8, 1)  # that a stored attribute is learned on
TUNED = size(6, 1)  # seeds on which inputs are compared
CLEAR = 0.1, 0.03  # differences of success and of what is kept that are told
CLEARLY = f"Clearly better (success more by {CLEAR[0]:.0%} or others kept by {CLEAR[1]:.0%}, and neither less):"


class Bench(Stage):
    """The demo model, its judge, and the pack's nodes on them."""

    def __init__(self, model: str, seeds: int, first: int = FIRST_SEED):
        from comfy.samplers import sampler_object
        from comfy_extras.nodes_custom_sampler import BasicScheduler

        super().__init__(TARGETS, model)
        self.start, self.euler, self._learned = self.noise(seeds, first), sampler_object("euler"), {}
        self.sigmas = BasicScheduler.execute(self.model, SCHEDULERS[model], STEPS, 1.0).args[0]
        self.base = self.draw()
        self.before = self.judge.read(self.base)
        self.prompted = {name: self.draw(prompt=self.prompt(name)) for name in tqdm(fewer(TARGETS), "prompts")}

    def draw(self, sampler: Any = None, prompt: str = SOURCE) -> Tensor:
        """Pictures (n, 3, h, w) in [-1, 1] of the bench's seeds."""
        return self.pictures(self.sample(self.model, sampler or self.euler, self.sigmas, self.start, prompt, CFG))

    def learn(self, name: str, *, seeds: int = 1, **changes: Any):
        """An attribute; the same one is learned once."""
        key = (name, seeds, *sorted(changes.items()))
        if key not in self._learned:
            self._learned[key] = self.learn_attribute(name, self.sigmas, cfg=CFG, seed=LEARNED_ON, seeds=seeds, **changes)
        return self._learned[key]

    def edited(self, attribute: Any, strength: float, name: str | None = None) -> Tensor:
        """With the target prompt of an attribute's name (paired) or without one (stored)."""
        return self.draw(self.sampler_with(attribute, strength, name))

    def sampler_with(self, attribute: Any, strength: float, name: str | None) -> Any:
        from pack.nodes.avi import ApplyAttribute

        target = None if name is None else self.encode(self.prompt(name))
        return ApplyAttribute.execute(self.euler, attribute, strength, 0.0, target).args[0]

    def problem(self, attribute: Any, name: str) -> Any:
        """The pairs of the bench's own seeds under an attribute's recipe."""
        from comfy.samplers import KSAMPLER

        from pack.host.attributes import Learner
        from pack.host.pairs import Steps

        recipe = attribute.parts[0][0].recipe
        plan = Steps.of(recipe, self.model.get_model_object("model_sampling"), self.sigmas)
        learner = Learner(self.euler.sampler_function, self.encode(self.prompt(name)), recipe, plan, lambda *latents: None)
        self.draw(KSAMPLER(learner))
        return learner.problems[0]

    def path(self, sampler: Any) -> list[Tensor]:
        """The latents (n, 4, h, w) before each step of the bench's seeds, and the finished ones."""
        from pack.host.runs import guided

        met: list[Tensor] = []
        guider = guided(self.model, {"positive": self.encode(SOURCE), "negative": self.encode("")}, CFG)
        end = guider.sample(
            self.start,
            torch.zeros_like(self.start),
            sampler,
            self.sigmas,
            callback=lambda step, denoised, x, total: met.append(x.clone()),
            disable_pbar=True,
            seed=0,
        )
        return [*met, end]

    def names(self) -> str:
        """The few attributes that the smaller tables are about."""
        return " and ".join(f"{name}: {TARGETS[name]}" for name in FEW)

    def point(self, pictures: Tensor, name: str) -> Point:
        now = self.judge.read(pictures)
        return float(self.shows(now, name).float().mean()), float(self.keeps(now, self.before, name).mean())


def beats(one: Point, other: Point) -> bool:
    """Whether success or what is kept is clearly more, and neither is less."""
    more = [a - b for a, b in zip(one, other)]
    return min(more) >= 0 and any(m > least for m, least in zip(more, CLEAR))


def success_table(bench: Bench) -> list[str]:
    """Each attribute over strength, paired and stored."""
    head = [f"{form} {s:+g}" for form, strengths in STRENGTHS.items() for s in strengths]
    rows = [f"| attribute | unedited | {' | '.join(head)} | prompt |", "|---|---|" + "---|" * (len(head) + 1)]
    curves = []
    for name in tqdm(fewer(TARGETS), "strengths"):
        attribute = bench.learn(name, seeds=SEEDS)
        drawn = [bench.edited(attribute, s, name if form == "paired" else None) for form, strengths in STRENGTHS.items() for s in strengths]
        curves.append([bench.point(pictures, name) for pictures in (bench.base, *drawn, bench.prompted[name])])
        rows.append(f"| {name}: {TARGETS[name]} | {curves[-1][0][0]:.0%} | " + " | ".join(map(cell, curves[-1][1:])) + " |")
    unedited, *means = map(mean, zip(*curves))
    rows.append(f"| mean | {unedited[0]:.0%} | " + " | ".join(map(cell, means)) + " |")
    return [reading_of_success(unedited[0], dict(zip(head, means)), means[-1]), "", *rows]


def reading_of_success(unedited: float, edited: dict[str, Point], prompted: Point) -> str:
    """Which edit shows the attribute most often, and whether it keeps more than the prompt does."""
    strongest = max(edited, key=lambda what: edited[what])
    hit, kept = edited[strongest]
    return (
        f"The prompt itself shows the attribute in {prompted[0]:.0%} (unedited: {unedited:.0%}) and keeps {prompted[1]:.0%}. Of the edits "
        f"{strongest} shows it most often, in {hit:.0%}, and keeps {'more' if kept - prompted[1] > CLEAR[1] else 'no more'}: {kept:.0%}."
    )


def map_table(bench: Bench) -> list[str]:
    """One setting changed at a time, at strength 1, on the tuning seeds; the defaults in bold."""
    changes = {
        "percent": (0.5, 0.7, 0.9),
        "ahead": (0.0, 0.12),
        "branch": (0.0, 0.25, 0.4),
        "source_rank": (2, 6, 16),
        "target_rank": (2, 6, 16),
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
    better = [
        next(f"{key} {value:g}" for key, value in setting if value != defaults[key])
        for setting, point in known.items()
        if beats(point, known[tuple(defaults.items())])
    ]
    return [
        f"Strength 1, paired, {bench.names()}; the defaults in bold. {CLEARLY} {', '.join(better) or 'no other value measured'}.",
        "",
        *rows,
    ]


def ablation_table(bench: Bench) -> list[str]:
    """The loss without each of its terms, at strength 1: what the paper says of each, and what is seen."""
    full = ALL_TERMS
    variants = {
        "all four": full,
        **{f"without {key.removesuffix('_weight').replace('_', ' ')}": {**full, key: 0.0} for key in full},
        "the first two (default)": {**full, "target_values_weight": 0.0, "source_values_weight": 0.0},
    }
    points: dict[str, Point] = {}
    rows = [
        "| loss | success / others kept | distance to source | distance to target | colour saturation | contrast |",
        "|---|---|---|---|---|---|",
    ]

    def look(pictures: Tensor) -> tuple[float, float]:
        pixels = ((pictures + 1) / 2).clamp(0, 1)
        return float((pixels.amax(1) - pixels.amin(1)).mean()), float(pixels.std())

    for label, weights in tqdm(fewer(variants.items()), "ablation"):
        figures = []
        for name in FEW:
            pictures = bench.edited(bench.learn(name, **weights), 1.0, name)
            apart = [float((pictures - other).square().mean().sqrt()) for other in (bench.base, bench.prompted[name])]
            figures.append([*bench.point(pictures, name), *apart, *look(pictures)])
        m = np.mean(figures, axis=0)
        points[label] = m[0], m[1]
        rows.append(f"| {label} | {cell(m[:2])} | {m[2]:.3f} | {m[3]:.3f} | {m[4]:.3f} | {m[5]:.3f} |")
    plain = np.mean([look(bench.base)] + [look(bench.prompted[name]) for name in FEW], axis=0)
    rows.append(f"| unedited and prompted pictures | | | | {plain[0]:.3f} | {plain[1]:.3f} |")
    return [f"Strength 1, paired, {bench.names()}. {reading_of_terms(points)}", "", *rows]


def reading_of_terms(points: dict[str, Point]) -> str:
    """What each term adds to success and takes from what is kept, or the other way round."""
    (_, whole), *without = points.items()
    told = [
        f"{label.removeprefix('without ')}: {whole[0] - hit:+.0%} success, {whole[1] - kept:+.0%} kept"
        for label, (hit, kept) in without
        if label.startswith("without ") and (abs(whole[0] - hit) > CLEAR[0] or abs(whole[1] - kept) > CLEAR[1])
    ]
    return f"What a term clearly changes when it joins the other three: {'; '.join(told) or 'nothing'}."


def network_table(bench: Bench) -> list[str]:
    """The MLP trained on one seed and on more: its loss on its own pairs and on new ones, against the exact optimum of each."""
    rows = [
        "| trained on | loss on its own pairs, of the optimum | loss on new pairs (the judged seeds), of their optimum "
        "| success / others kept at strength 1 |",
        "|---|---|---|---|",
    ]
    figures: dict[str, list[list[float]]] = {}
    for name in tqdm(FEW, "network"):
        exact = bench.learn(name)
        problem = bench.problem(exact, name)
        best = float(problem.loss(problem.loss.solution()).sum())
        figures.setdefault("exact solver", []).append([1.0, 1.0, *bench.point(bench.edited(exact, 1.0, name), name)])
        for seeds in fewer((1, 8)):
            learned = bench.learn(name, seeds=seeds, solver="MLP", steps=size(200, 2))
            attribute = learned.parts[0][0]
            new = float(problem.loss(problem.values(attribute.network)).sum()) / best
            figures.setdefault(f"MLP, {seeds} {'seed' if seeds == 1 else 'seeds'}", []).append(
                [attribute.losses["MLP"] / attribute.losses["exact"], new, *bench.point(bench.edited(learned, 1.0, name), name)]
            )
    for label, values in figures.items():
        m = np.mean(values, axis=0)
        rows.append(f"| {label} | {m[0]:.3f} | {m[1]:.2f} | {cell(m[2:])} |")
    exact, *networks = (np.mean(values, axis=0) for values in figures.values())
    better = [label for label, m in zip(list(figures)[1:], networks) if beats(tuple(m[2:]), tuple(exact[2:]))]
    learned = {name: bench.learn(name, solver="MLP", steps=size(200, 2), seeds=SEEDS, **PAPERS) for name in FEW}
    whole = mean(bench.point(bench.edited(attribute, 1.0, name), name) for name, attribute in learned.items())
    rows.append(f"| **the paper's form**: MLP, {SEEDS} seeds, with all that it has | | | {cell(whole)} |")
    reading = (
        f"Strength 1, paired, {bench.names()}. The exact solver finds each new pair's optimum. The network has the paper's layout, but, as "
        "the solver, two of the four terms, the residual and the later branch of the defaults; only the last row is the paper's form: all "
        f"four terms ({', '.join(f'{value:g}' for key, value in PAPERS.items() if 'weight' in key)}), both runs from the same noise, the "
        f"target's code further denoised by {PAPERS['ahead']:g}, and no residual."
    )
    return [f"{reading} {CLEARLY} {', '.join(better) or 'no network'}.", "", *rows]


def fidelity_table(bench: Bench) -> list[str]:
    """How far an edit moves the latent: foretold in closed form, met in the run, and what is left of it in the finished picture."""
    from pack.core.avi.fidelity import change_of

    rows = [
        "| attribute | target and source weight | strength | change at T_x: foretold | met | in the finished latent "
        "| in the picture, of 255 |",
        "|---|---|---|---|---|---|---|",
    ]
    plain = bench.path(bench.euler)
    off, foretold, finished = 0.0, [], []
    for name in tqdm(FEW, "fidelity"):
        for weight in fewer((0.25, 1.0), 1):
            attribute = bench.learn(name, source_weight=weight)
            problem = bench.problem(attribute, name)
            S = problem.values(None)
            for strength in fewer((0.5, 1.0, 1.5, -1.0), 1):
                edited = bench.path(bench.sampler_with(attribute, strength, name))
                moved = [(a - b).flatten(1).norm(dim=1) for a, b in zip(edited, plain, strict=True)]
                first = next(i for i, norm in enumerate(moved) if float(norm.max()) > 0)
                told, met = change_of(problem, S, strength), moved[first].double()
                pixels = 127.5 * (bench.pictures(edited[-1]) - bench.pictures(plain[-1])).square().mean((1, 2, 3)).sqrt()
                off = max(off, float(((told - met).abs() / met).max()))
                foretold, finished = [*foretold, *told.tolist()], [*finished, *pixels.tolist()]
                figures = " | ".join(f"{float(part.mean()):.2f}" for part in (told, met, moved[-1], pixels))
                rows.append(f"| {name}: {TARGETS[name]} | 1, {weight:g} | {strength:+g} | {figures} |")
    correlation = float(np.corrcoef(foretold, finished)[0, 1])
    return [
        "How far an edit moves the latent at T_x follows from Gram matrices of triplets, strength, ranks and weights alone, before "
        f"anything is drawn (`core/avi/fidelity.py`): at most {off:.1e} of it off from what the runs met. Over the pictures, settings and "
        f"attributes here its correlation with the change of the finished picture is {correlation:.2f}. Paired, norms, means "
        f"of {len(bench.start)} seeds.",
        "",
        *rows,
    ]


def seeds_table(bench: Bench) -> list[str]:
    """The stored form, learned on more and more seeds, at strength 2."""
    rows = ["| learned on | success / others kept, stored at 2 |", "|---|---|"]
    for seeds in tqdm(fewer((1, 4, SEEDS, 16)), "stored"):
        point = mean(bench.point(bench.edited(bench.learn(name, seeds=seeds), 2.0), name) for name in FEW)
        rows.append(f"| {seeds} {'seed' if seeds == 1 else 'seeds'} | {cell(point)} |")
    return [f"Attributes: {bench.names()}.", "", *rows]


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
    """Held-out seeds over strength, for three attributes, paired, and the stored form."""
    start, bench.start = bench.start, bench.start[:2]
    shown, blocks = fewer((-1.0, 0.0, 0.5, 1.0, 1.5), 2), []
    for name in fewer(("glasses", "smile", "beard")):
        attribute = bench.learn(name, seeds=SEEDS)
        drawn = [bench.edited(attribute, s, name) if s else bench.base[:2] for s in shown] + [bench.edited(attribute, 2.0)]
        blocks.append((list(zip(*drawn)), [f"{name} {s:+g}" if s else f"{name} 0" for s in shown] + ["stored +2"]))
    bench.start = start
    save_sheet(blocks, path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=list(INSTRUMENTS), default="portrait", help="which demo model draws")
    parser.add_argument("--seeds", type=int, default=size(8, 1), help="held-out seeds a cell")
    parser.add_argument("--only", help="measure this section alone, and keep the page's others and its picture")
    options = parsed(parser, DOCS)
    name = options.model.replace("portrait", "attributes")
    start_host()
    with torch.inference_mode():
        bench = Bench(options.model, options.seeds)
        if not options.only:
            picture(bench, options.out / f"{name}.jpg")
        parts = {
            "Success and preservation over strength": lambda: success_table(bench),
            "The network": lambda: network_table(bench),
            "What each term of the loss buys": lambda: ablation_table(bench),
            "Fidelity: foretold and met": lambda: fidelity_table(bench),
            "Seeds for the stored form": lambda: seeds_table(bench),
            "What each input does": lambda: map_table(Bench(options.model, TUNED, TUNED_ON)),
            "Time": time_table,
        }
        write_report(options.out / f"{name}.md", head(options.model, options.seeds), parts, options.only)


def head(model: str, seeds: int) -> str:
    intro = (
        f"Written by `bench/attributes.py`. `{INSTRUMENTS[model]}`, computed in {precision()}; euler, {SCHEDULERS[model]}, {STEPS} steps, "
        f"cfg {CFG:g}, prompt `{SOURCE}`; attributes learned on seeds from {LEARNED_ON} up; judged on {seeds} seeds from {FIRST_SEED} up, "
        f"inputs compared on {TUNED} from {TUNED_ON} up. A cell `a / b`: the judge finds the attribute in a of the pictures, and b of the "
        "other attributes are those of the unedited picture of the same seed. "
        f"One picture of {seeds} is {1 / seeds:.0%}: less than two of them are chance."
    )
    return f"# AVI, measured\n\n{intro}\n\n![three attributes over strength]({model.replace('portrait', 'attributes')}.jpg)"


if __name__ == "__main__":
    main()
