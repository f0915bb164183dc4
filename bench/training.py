"""What training a direction gives on the demo model, and when a run is edited and boosted, measured: `docs/training.md`.

    COMFYUI=<host's folder> python bench/training.py [--seeds 8] [--only "Quality boosting"] [--out docs] [--smallest]

Directions are found and trained on seeds from 600 000 up, thresholds calibrated on seeds from 500 000 up, and all is
judged on seeds from 900 000 up by the judge of portraits, through the pack's own nodes.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from scipy.linalg import sqrtm
from torch import Tensor
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parent))
from sizes import DOCS, SMALLEST, fewer, parsed, size
from stage import FIRST_SEED, INSTRUMENTS, ROOT, SOURCE, Point, Stage, cell, precision, save_sheet, start_host, write_report

STEPS, CFG, END = size(12, 2), 3.0, 0.8
TRAINED_ON, TUNED_ON = 600_000, 500_000
TARGETS = {"glasses": "sunglasses", "smile": 0.7}
STRENGTHS, IMAGES, EPOCHS = fewer((1.0, 2.0, 4.0)), size(8, 2), size(3, 1)
RISE = 0.1  # of success, from the unedited pictures, that counts as an effect
PROMPTS, MATCHING, DIRECTIONAL, PAPER = "from two prompts", "prompt matching", "CLIP directional", "the paper's form"
WINDOWS, BOOSTS = size((0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 1.0), (0.5, 1.0)), fewer((0.5, 0.6, 0.7, 0.8, 0.9))
LOOKED_AT = dict(images=size(4, 2), steps=size(16, 4))  # by Editing Schedule
DRAWN = size(300, 4)  # faces that distances are measured to


@dataclass(frozen=True)
class Way:
    """A way to a direction: from two prompts, or an objective, its learning rate, and whether in the paper's form with this weight of
    the L1 term (0 for ours, point by point)."""

    objective: str
    rate: float = 0.0
    papers: float = 0.0

    def __str__(self) -> str:
        form = f", the paper's form, keep_weight {self.papers:g}" if self.papers else ""
        return self.objective + (f", learning rate {self.rate:g}" if self.rate else "") + form

    @property
    def inputs(self) -> dict[str, object]:
        """Those of Train Direction."""
        form = dict(form=PAPER, keep_weight=self.papers) if self.papers else {}
        return dict(objective=self.objective, learning_rate=self.rate, **form)


WAYS = {
    "glasses": (Way(PROMPTS), Way(MATCHING, 2e-3), Way(MATCHING, 2e-3, 0.03), Way(DIRECTIONAL, 3e-3), Way(DIRECTIONAL, 3e-3, 0.03)),
}
WAYS = size(WAYS, {"glasses": (Way(PROMPTS), Way(MATCHING, 2e-3), Way(DIRECTIONAL, 3e-3, 0.03))})


class Bench(Stage):
    """The demo model with directions for each attribute: from two prompts, and trained. Pictures go to a folder."""

    def __init__(self, seeds: int, folder: Path):
        super().__init__(TARGETS)
        self.seeds, self.folder = seeds, folder
        self.base, self.losses, self._found = self.draw(self.model), {}, {}
        self.before = self.judge.read(self.base)

    @cached_property
    def scorer(self):
        from pack.nodes.pictures import DemoScorer

        return DemoScorer.execute().args[0]

    def found(self, name: str, way: Way):
        """The direction of an attribute's target value, found or trained when it is first asked for."""
        if (name, way) not in self._found:
            if way.objective == PROMPTS:
                direction = self.find_direction(name, IMAGES, IMAGES, STEPS, CFG, TRAINED_ON)
            else:
                scored = (
                    dict(clip_vision=self.scorer, clip=self.clip, source_text=SOURCE, target_text=self.prompt(name))
                    if way.objective == DIRECTIONAL
                    else {}
                )
                given = dict(images=IMAGES, epochs=EPOCHS, steps=STEPS, seed=TRAINED_ON, **way.inputs)
                direction, losses, _ = self.train_direction(name, **given, **scored)
                self.losses[name, way] = losses["loss"]
            self._found[name, way] = direction
        return self._found[name, way]

    def edited(self, direction, strength: float, asymmetric: bool = False):
        from pack.nodes.directions import ApplyDirection

        return ApplyDirection.execute(self.model, direction, strength, 0.0, END, 0.0, "both", asymmetric, False).args[0]

    def slid(self, name: str, end: float):
        """The model with Make Slider for an attribute, at strength 1, up to a part of the run."""
        from pack.nodes.sliders import MakeSlider

        return MakeSlider.execute(self.model, self.clip, 1.0, SOURCE, self.prompt(name), start_percent=0.0, end_percent=end).args[0]

    def draw(self, model, *, first: int = FIRST_SEED, seeds: int = 0, boost: float = 1.0, prompt: str = SOURCE) -> Tensor:
        """Pictures (n, 3, h, w) in [-1, 1] by DDIM, with fresh noise from boost on."""
        from comfy_extras.nodes_custom_sampler import BasicScheduler

        from pack.nodes.sampling import DDIMSampler

        sigmas = BasicScheduler.execute(self.model, "normal", STEPS, 1.0).args[0]
        noise = self.noise(seeds or self.seeds, first)
        return self.pictures(self.sample(model, DDIMSampler.execute(0.0, boost).args[0], sigmas, noise, prompt, CFG))

    def share(self, pictures: Tensor, name: str) -> float:
        return float(self.shows(self.judge.read(pictures), name).float().mean())

    def same(self, pictures: Tensor, before: Tensor) -> float:
        """Share of all attributes that are as they were."""
        return float(self.keeps(self.judge.read(pictures), self.judge.read(before), "").mean())

    def point(self, pictures: Tensor, name: str) -> Point:
        now = self.judge.read(pictures)
        return float(self.shows(now, name).float().mean()), float(self.keeps(now, self.before, name).mean())

    def features(self, pictures: Tensor) -> np.ndarray:
        """The judge's features (n, d)."""
        small = torch.nn.functional.interpolate(pictures, (128, 128), mode="area")
        return self.judge.features(self.judge.blocks(self.judge.stem(small)).flatten(1)).double().numpy()


def frechet(a: np.ndarray, b: np.ndarray) -> float:
    """Frechet distance of two sets of features (n, d); with few pictures it is too large, alike for sets of equal size."""
    spread_a, spread_b = np.cov(a.T), np.cov(b.T)
    return float(np.square(a.mean(0) - b.mean(0)).sum() + np.trace(spread_a + spread_b - 2 * np.real(sqrtm(spread_a @ spread_b))))


def against(bench: Bench) -> list[str]:
    """Success and kept share over strength, for each way to a direction, beside the target prompt."""
    head = " | ".join(f"{s:g}" for s in STRENGTHS)
    rows = [f"| attribute | way | unedited | {head} | the target prompt |", "|---|---|---|---|" + "---|" * len(STRENGTHS)]
    blocks, acting, most = [], [], 0.0
    for name, ways in WAYS.items():
        prompted = bench.draw(bench.model, prompt=bench.prompt(name))
        unedited = bench.point(bench.base, name)[0]
        for way in tqdm(ways, name):
            drawn = [bench.draw(bench.edited(bench.found(name, way), s, way.papers > 0)) for s in STRENGTHS]
            points = [bench.point(pictures, name) for pictures in drawn]
            cells = " | ".join(map(cell, (*points, bench.point(prompted, name))))
            rows.append(f"| {name}: {TARGETS[name]} | {way} | {unedited:.0%} | {cells} |")
            rise = max(hit for hit, _ in points) - unedited
            most = max(most, rise)
            if rise > max(RISE, 1.5 / bench.seeds):  # one picture is chance
                acting.append(f"{name}, {way}")
            labels = ["unedited", *(f"{way.objective}{', the paper' if way.papers else ''} {s:g}" for s in STRENGTHS), "the prompt"]
            blocks.append(([[pictures[0] for pictures in (bench.base, *drawn, prompted)]], labels))
    save_sheet(blocks, bench.folder / "training.jpg")
    if acting:
        reading = f"These directions **act**, so that more pictures show the attribute by over {RISE:.0%} and by two or more: "
        reading += f"{'; '.join(acting)}."
    else:
        reading = f"**None of these directions acts** on this model: no way shows the attribute in more pictures by over {RISE:.0%} "
        reading += f"({most:+.0%} at the most)."
    return [reading, "", *rows, "", "![one face over strength, by each way](training.jpg)"]


def losses(bench: Bench) -> list[str]:
    """How far each objective comes: mean loss of the first and the last passes over the pictures."""
    rows = ["| attribute | way | updates | first pass | last pass |", "|---|---|---|---|---|"]
    trained = [(name, way) for name, ways in WAYS.items() for way in ways if way.rate]
    for name, way in trained:
        bench.found(name, way)
        curve = np.array_split(np.array(bench.losses[name, way]), EPOCHS)
        rows.append(f"| {name} | {way} | {len(bench.losses[name, way])} | {curve[0].mean():.2f} | {curve[-1].mean():.2f} |")
    note = "Prompt matching: the share of the way to the target that is left, 1 where nothing is shifted. CLIP directional: 1.19 where "
    return [note + "nothing moves, 0 where all pictures move as the texts do.", "", *rows]


def calibration(bench: Bench) -> list[str]:
    """The shortest window that edits as well as the whole run, the longest boost that changes little, and the distances there."""
    from pack.host.denoisers import percent_of
    from pack.host.progress import Bar
    from pack.host.runs import guided, schedule
    from pack.nodes.schedule import distance_of, measured

    base = bench.draw(bench.model, first=TUNED_ON)
    success = {
        end: np.mean([bench.share(bench.draw(bench.slid(name, end), first=TUNED_ON), name) for name in TARGETS])
        for end in tqdm(WINDOWS, "windows")
    }
    kept = {boost: bench.same(bench.draw(bench.model, first=TUNED_ON, boost=boost), base) for boost in tqdm(BOOSTS, "boosts")}
    end = min(window for window, share in success.items() if share >= 0.95 * success[1.0])
    boost = min((b for b, share in kept.items() if share >= 0.95), default=1.0)
    prompts = " and ".join(f"`{bench.prompt(name)}`" for name in TARGETS)
    rows = [
        f"The edit is Make Slider's at strength 1 from the start of the run ({prompts}), as directions in h-space may not act; the boost "
        "is on unedited pictures.",
        "",
        "| edit ends at | " + " | ".join(f"{end:g}" for end in WINDOWS) + " |",
        "|---|" + "---|" * len(WINDOWS),
        "| success | " + " | ".join(f"{share:.0%}" for share in success.values()) + " |",
        "",
        "| boost starts at | " + " | ".join(f"{b:g}" for b in BOOSTS) + " |",
        "|---|" + "---|" * len(BOOSTS),
        "| attributes kept | " + " | ".join(f"{share:.0%}" for share in kept.values()) + " |",
        "",
        f"t_edit: the shortest window with 95 % of the whole run's success, {end:g}. "
        f"t_boost: the earliest start that keeps 95 % of the attributes, {boost:g}. The distances there:",
        "",
        "| distance | editing strength at t_edit | quality deficiency at t_boost |",
        "|---|---|---|",
    ]
    sigmas, levels = schedule(bench.model, LOOKED_AT["steps"]), bench.model.get_model_object("model_sampling")
    percents = [percent_of(levels, sigma) for sigma in sigmas[:-1].tolist()]
    for name in ("SSIM", "RMS", "CLIP vision"):
        curves = measured(
            guided(bench.model, {"positive": bench.encode(SOURCE), "negative": bench.encode("")}, CFG),
            bench.vae,
            bench.noise(LOOKED_AT["images"], TUNED_ON),
            sigmas,
            distance_of(name, bench.scorer),
            Bar(1),
        )
        rows.append(
            f"| {name} | " + " | ".join(f"{np.interp(at, percents, curve.mean(1)):.3f}" for at, curve in zip((end, boost), curves)) + " |"
        )
    return rows


def boosting(bench: Bench, count: int = size(32, 2)) -> list[str]:
    """Pictures with and without quality boosting from the proposed t_boost, and from earlier."""
    from pack.demo import drawing
    from pack.nodes.schedule import EditingSchedule

    world = (bench.model, bench.encode(SOURCE), bench.encode(""), bench.vae, {"samples": bench.empty()})
    _, end, boost, picture = EditingSchedule.execute(*world, "SSIM", *LOOKED_AT.values(), CFG, TUNED_ON, 0.0, 0.0, "", "").args
    save_picture(picture, bench.folder / "schedule.png")
    faces = [drawing.render(bench.faces.sample_face(np.random.default_rng([73, i]))) for i in range(DRAWN)]
    real = bench.features(torch.from_numpy(np.stack(faces)).movedim(-1, 1) / 127.5 - 1)
    rows, drawn, distances = ["| boost | attributes kept, against no boost | Frechet distance |", "|---|---|---|"], {}, {}
    for at in (1.0, boost, max(0.3, boost - 0.2)):
        drawn[at] = bench.draw(bench.model, seeds=count, boost=at)
        distances[at] = frechet(bench.features(drawn[at]), real)
        rows.append(f"| {'none' if at == 1 else f'from {at:.2f}'} | {bench.same(drawn[at], drawn[1.0]):.0%} | {distances[at]:.2f} |")
    blocks = [([x[:6]], ["no boost" if at == 1 else f"from {at:.2f}"] * len(x[:6])) for at, x in drawn.items()]
    save_sheet(blocks, bench.folder / "boosting.jpg")
    nearer = [f"from {at:.2f}" for at, distance in distances.items() if at < 1 and distance < 0.95 * distances[1.0]]
    return [
        f"Editing Schedule (SSIM, {LOOKED_AT['images']} pictures, thresholds as they start) proposes to edit up to {end:.2f} and to "
        f"boost from {boost:.2f}; the "
        "thresholds that would propose what was calibrated are in the table above.",
        "",
        "![the curves](schedule.png)",
        "",
        f"{count} seeds, unedited; the distance is to {DRAWN} drawn faces, in the judge's features. Boosting that brings the pictures "
        f"nearer to them by more than a twentieth: {', '.join(nearer) or 'none'}.",
        "",
        *rows,
        "",
        "![no boost, the proposed one, an earlier one](boosting.jpg)",
    ]


def cost(bench: Bench) -> list[str]:
    """Time and peak memory, each model in a process of its own."""
    import subprocess

    rows = [
        f"One epoch, 20 steps, edits up to 0.8, prompt matching, cfg 1, in float32 on {torch.get_num_threads()} CPU threads, pictures of "
        "256 x 256; the SD 1.5 shape has random weights.",
        "",
        "| model | batch | a denoising step | an update | in steps | 100 latents | memory before | peak |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name in fewer(("portrait", "sd15")):
        command = [sys.executable, "-P", str(Path(__file__).with_name("training_cost.py")), name, *(["--smallest"] if SMALLEST else [])]
        rows += [
            line for line in subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines() if line.startswith("|")
        ]
    return [*rows, "", "The yardstick published for Asyrp: 475 s for 100 latents, on a GPU."]


def save_picture(picture: Tensor, path: Path) -> None:
    from PIL import Image

    Image.fromarray((picture[0] * 255).round().to(torch.uint8).numpy()).save(path, optimize=True)


def head(seeds: int) -> str:
    return (
        "# Training a direction, measured\n\n"
        f"Written by `bench/training.py`. The demo model `{INSTRUMENTS['portrait']}`, whose prompt enters at every level as in "
        f"SD 1.5, computed in {precision()}; DDIM, {STEPS} steps, cfg {CFG:g}, prompt `{SOURCE}`, directions up to {END:g} on both "
        f"halves, found on {IMAGES} seeds from {TRAINED_ON} up (trained: {EPOCHS} epochs, the rest as Train Direction starts); "
        f"thresholds on seeds from {TUNED_ON} up; judged on {seeds} seeds from {FIRST_SEED} up. A cell `a / b`: the judge finds the "
        "attribute in a of the pictures, and b of the other attributes are those of the unedited picture of the same seed. CLIP: the demo "
        f"scorer, which is right in {scorer_is_right():.0%} where it chooses among an attribute's prompts."
    )


def scorer_is_right() -> float:
    figures = json.loads((ROOT / "demo/figures.json").read_text())
    return figures["readers"]["scorer"]["mean"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=size(8, 2), help="held-out seeds a cell")
    parser.add_argument("--only", help="measure this section alone, and keep the page's others")
    options = parsed(parser, DOCS)
    start_host()
    with torch.inference_mode():
        bench = Bench(options.seeds, options.out)
        parts = {
            "Against directions from two prompts": against,
            "What the objectives reach": losses,
            "Calibration of Editing Schedule": calibration,
            "Quality boosting": boosting,
            "Time and memory": cost,
        }
        write_report(
            options.out / "training.md",
            head(options.seeds),
            {title: lambda part=part: part(bench) for title, part in parts.items()},
            options.only,
        )


if __name__ == "__main__":
    main()
