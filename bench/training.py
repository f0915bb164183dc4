"""What training a direction gives on the demo model, measured: `docs/training.md` and its pictures.

    COMFYUI=<host's folder> python bench/training.py [--seeds 24] [--only "Forms"] [--out docs] [--smallest]

Directions are found and trained on seeds from 600 000 up, thresholds calibrated on seeds from 500 000 up, and all is
judged on seeds from 900 000 up by the attribute classifier, through the pack's own nodes.
"""

from __future__ import annotations

import argparse
import sys
from itertools import combinations, product
from pathlib import Path

import numpy as np
import torch
from scipy.linalg import sqrtm
from torch import Tensor
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parent))
from sizes import DOCS, SMALLEST, fewer, parsed, size
from stage import FIRST_SEED, SOURCE, Point, Stage, cell, kept_at, mean, save_sheet, start_host, write_report

STEPS, CFG, END = size(16, 2), 3.0, 0.8
TRAINED_ON, TUNED_ON = 600_000, 500_000
TARGETS = {"smile": "smiling", "glasses": "sunglasses", "beard": "beard", "hat": "hat"}
STRENGTHS, EQUAL, IMAGES, EPOCHS = fewer((0.5, 1.0, 1.5)), 0.8, size(16, 2), size(3, 1)
PROMPTS, MATCHING, DIRECTIONAL = "from two prompts", "prompt matching", "CLIP directional"
SETTINGS = {
    MATCHING: dict(epochs=EPOCHS, learning_rate=2e-3, keep_weight=1.0),
    DIRECTIONAL: dict(epochs=EPOCHS, learning_rate=3e-3, keep_weight=0.3),
}
WINDOWS, BOOSTS = size((0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 1.0), (0.5, 1.0)), fewer((0.5, 0.6, 0.7, 0.8, 0.9))
LOOKED_AT = dict(images=size(8, 2), steps=size(20, 4))  # by Editing Schedule
DRAWN = size(1000, 4)  # faces that distances are measured to


class Bench(Stage):
    """The demo model with directions for each attribute: from two prompts, and trained for both objectives. Pictures go to a folder."""

    def __init__(self, seeds: int, folder: Path):
        from pack.nodes.pictures import DemoScorer

        super().__init__(TARGETS)
        self.seeds, self.folder, self.scorer = seeds, folder, DemoScorer.execute().args[0]
        self.base, self.losses, self._found = self.draw(self.model), {}, {}

    def found(self, name: str, way: str):
        """The direction of an attribute's target value, found or trained when it is first asked for."""
        if (name, way) not in self._found:
            if way == PROMPTS:
                direction = self.find_direction(name, IMAGES, 16, size(20, STEPS), CFG, TRAINED_ON)
            else:
                scored = (
                    dict(clip_vision=self.scorer, clip=self.clip, source_text=SOURCE, target_text=self.prompt(name))
                    if way == DIRECTIONAL
                    else {}
                )
                given = dict(objective=way, images=IMAGES, steps=size(20, STEPS), seed=TRAINED_ON)
                direction, losses, _ = self.train_direction(name, **given, **scored, **SETTINGS[way])
                self.losses[name, way] = losses["loss"]
            self._found[name, way] = direction
        return self._found[name, way]

    def edited(self, direction, strength: float, *, end: float = END, asymmetric: bool = False, form: str = "full", model=None):
        from pack.nodes.directions import ApplyDirection

        model = model or self.model
        return ApplyDirection.execute(model, direction, strength, 0.0, end, 0.0, "both", asymmetric, False, None, form).args[0]

    def draw(self, model, *, first: int = FIRST_SEED, seeds: int = 0, boost: float = 1.0, prompt: str = SOURCE) -> Tensor:
        """Pictures (n, 3, h, w) in [-1, 1] by DDIM, with fresh noise from boost on."""
        from comfy_extras.nodes_custom_sampler import BasicScheduler

        from pack.nodes.sampling import DDIMSampler

        sigmas = BasicScheduler.execute(self.model, "normal", STEPS, 1.0).args[0]
        latents = self.sample(model, DDIMSampler.execute(0.0, boost).args[0], sigmas, self.noise(seeds or self.seeds, first), prompt, CFG)
        return self.vae.decode(latents).movedim(-1, 1) * 2 - 1

    def point(self, pictures: Tensor, name: str, *more: str) -> Point:
        return self.has(pictures, name), self.kept(pictures, self.base, name, *more)

    def odds(self, pictures: Tensor, name: str) -> Tensor:
        """The judge's log-odds (n,) of the attribute's target value against all others."""
        logits = self.judge(pictures.float())[name].log_softmax(1)
        at = self.faces.ATTRIBUTES[name].index(self.targets[name])
        return logits[:, at] - torch.cat([logits[:, :at], logits[:, at + 1 :]], 1).logsumexp(1)

    def features(self, pictures: Tensor) -> np.ndarray:
        return self.judge.features(self.judge.trunk(pictures.float()).flatten(1)).double().numpy()


def frechet(a: np.ndarray, b: np.ndarray) -> float:
    """Frechet distance of two sets of features (n, d); with few pictures it is too large, alike for sets of equal size."""
    spread_a, spread_b = np.cov(a.T), np.cov(b.T)
    return float(np.square(a.mean(0) - b.mean(0)).sum() + np.trace(spread_a + spread_b - 2 * np.real(sqrtm(spread_a @ spread_b))))


def frontier(bench: Bench) -> list[str]:
    """Success and kept share over strength, for each way to a direction, and kept share at equal success."""
    head = " | ".join(f"{s:g}" for s in STRENGTHS)
    rows = [f"| attribute | way | unedited | {head} | kept at {EQUAL:.0%} success |", "|---|---|---|" + "---|" * (len(STRENGTHS) + 1)]
    curves: dict[str, list[list[Point]]] = {way: [] for way in (PROMPTS, *SETTINGS)}
    for name in tqdm(fewer(TARGETS), "strengths"):
        for way in curves:
            points = [
                bench.point(bench.base, name),
                *(bench.point(bench.draw(bench.edited(bench.found(name, way), s)), name) for s in STRENGTHS),
            ]
            curves[way].append(points)
            rows.append(
                f"| {name}: {TARGETS[name]} | {way} | {points[0][0]:.0%} | {' | '.join(map(cell, points[1:]))} "
                f"| {never(kept_at(EQUAL, points))} |"
            )
        prompted = bench.point(bench.draw(bench.model, prompt=bench.prompt(name)), name)
        rows.append(f"| {name}: {TARGETS[name]} | the target prompt itself | | " + " | " * (len(STRENGTHS) - 1) + f"| {cell(prompted)} |")
    for way, all_points in curves.items():
        means = [mean(points[i] for points in all_points) for i in range(1, len(STRENGTHS) + 1)]
        rows.append(f"| mean | {way} | | {' | '.join(map(cell, means))} | |")
    return rows


def never(share: float) -> str:
    return "not reached" if np.isnan(share) else f"{share:.0%}"


def losses(bench: Bench) -> list[str]:
    """How far each objective comes: mean loss of the first and the last twenty updates."""
    rows = ["| attribute | " + " | ".join(f"{way}, first, last" for way in SETTINGS) + " |", "|---|---|---|"]
    for name in fewer(TARGETS):
        for way in SETTINGS:
            bench.found(name, way)
        ends = [(np.mean(bench.losses[name, way][:20]), np.mean(bench.losses[name, way][-20:])) for way in SETTINGS]
        rows.append(f"| {name} | " + " | ".join(f"{a:.2f}, {b:.2f}" for a, b in ends) + " |")
    return rows


def forms(bench: Bench) -> list[str]:
    """A trained direction as it is, its mean, its global form, and by the asymmetric process, at strength 1."""
    ways = {"full": {}, "mean over pictures": {"form": "mean"}, "global": {"form": "global"}, "asymmetric": {"asymmetric": True}}
    rows = ["| attribute | " + " | ".join(ways) + " |", "|---|" + "---|" * len(ways)]
    for name in tqdm(fewer(TARGETS), "forms"):
        rows.append(
            f"| {name} | "
            + " | ".join(
                cell(bench.point(bench.draw(bench.edited(bench.found(name, MATCHING), 1.0, **way)), name)) for way in ways.values()
            )
            + " |"
        )
    return rows


def homogeneity(bench: Bench) -> list[str]:
    """One direction, many pictures: how alike the judge's log-odds move, and the share of pictures in which they rise."""
    rows = ["| attribute | way | rises in | mean rise of the log-odds | its deviation over pictures |", "|---|---|---|---|---|"]
    for name, way in product(fewer(TARGETS), (PROMPTS, *SETTINGS)):
        rise = bench.odds(bench.draw(bench.edited(bench.found(name, way), 1.0)), name) - bench.odds(bench.base, name)
        rows.append(f"| {name} | {way} | {(rise > 0).float().mean():.0%} | {rise.mean():.1f} | {rise.std():.1f} |")
    direction, shown = bench.found("glasses", MATCHING), min(8, bench.seeds)
    drawn = bench.draw(bench.edited(direction, 1.0), seeds=shown)
    save_sheet([([bench.base[:shown]], ["unedited"] * shown), ([drawn], ["glasses"] * shown)], bench.folder / "homogeneity.jpg")
    return [*rows, "", "![eight faces, without and with one direction](homogeneity.jpg)"]


def linearity(bench: Bench) -> list[str]:
    """R^2 of a straight line through the judge's log-odds over strength, of the mean and of single pictures."""
    strengths = fewer((-1.0, -0.5, 0.0, 0.5, 1.0), 2)
    rows = [
        "| attribute | way | log-odds at " + ", ".join(f"{s:g}" for s in strengths) + " | R^2 of the mean | median R^2 of a picture |",
        "|---|---|---|---|---|",
    ]
    blocks = []
    for name, way in product(fewer(("glasses", "beard", "hat")), (PROMPTS, MATCHING)):
        drawn = [bench.draw(bench.edited(bench.found(name, way), s)) for s in strengths]
        odds = torch.stack([bench.odds(x, name) for x in drawn]).numpy()
        single = [np.corrcoef(strengths, column)[0, 1] ** 2 for column in odds.T]
        rows.append(
            f"| {name} | {way} | {', '.join(f'{v:.1f}' for v in odds.mean(1))} "
            f"| {np.corrcoef(strengths, odds.mean(1))[0, 1] ** 2:.2f} | {np.median(single):.2f} |"
        )
        if way == MATCHING:
            blocks.append(([[x[0] for x in drawn]], [f"{name} {s:g}" for s in strengths]))
    save_sheet(blocks, bench.folder / "linearity.jpg")
    return [*rows, "", "![one face over strength, for three attributes](linearity.jpg)"]


def compositionality(bench: Bench) -> list[str]:
    """Two trained directions at once: both shown, and how far the change is from the sum of the two changes."""
    rows = [
        "| directions | first alone | second alone | first of both | second of both | both | kept | distance from the sum of changes |",
        "|---|---|---|---|---|---|---|---|",
    ]
    blocks = []
    for one, two in fewer(combinations(("glasses", "beard", "hat"), 2)):
        first, second = (bench.found(name, MATCHING) for name in (one, two))
        alone = [bench.draw(bench.edited(direction, 1.0)) for direction in (first, second)]
        both = bench.draw(bench.edited(second, 1.0, model=bench.edited(first, 1.0)))
        total = sum(x - bench.base for x in alone)
        apart = (both - bench.base - total).norm() / total.norm()
        hits = [bench.judge.label(both)[name] == bench.faces.ATTRIBUTES[name].index(TARGETS[name]) for name in (one, two)]
        shares = [
            bench.has(alone[0], one),
            bench.has(alone[1], two),
            *(float(hit.float().mean()) for hit in (*hits, hits[0] & hits[1])),
            bench.kept(both, bench.base, one, two),
            float(apart),
        ]
        rows.append(f"| {one} + {two} | " + " | ".join(f"{share:.0%}" for share in shares) + " |")
        blocks.append(([[bench.base[i], alone[0][i], alone[1][i], both[i]] for i in range(1)], ["unedited", one, two, "both"]))
    save_sheet(blocks, bench.folder / "compositionality.jpg")
    return [*rows, "", "![each direction alone and both](compositionality.jpg)"]


def robustness(bench: Bench, count: int = size(4, 1)) -> list[str]:
    """Random directions as long as a found one, at each noise level: do pictures stay whole, do attributes stay."""
    from dataclasses import replace

    real = bench.features(
        torch.stack(
            [torch.from_numpy(bench.faces.render(bench.faces.sample_face(np.random.default_rng([71, i]))).copy()) for i in range(DRAWN)]
        ).movedim(-1, 1)
        / 127.5
        - 1
    )
    table = bench.found("glasses", MATCHING).mean()
    generator, drawn = torch.Generator().manual_seed(1), []
    for _ in range(count):
        noise = torch.randn(1, *table.shifts.shape[1:], generator=generator).expand(table.shifts.shape)
        noise = noise / noise.flatten(1).norm(dim=1)[:, None, None, None] * table.shifts.flatten(1).norm(dim=1)[:, None, None, None]
        drawn.append(bench.draw(bench.edited(replace(table, shifts=noise.contiguous()), 1.0)))
    along = bench.draw(bench.edited(table, 1.0))
    kept = [bench.kept(x, bench.base) for x in drawn]
    rows = [
        "| pictures | all labels kept | Frechet distance to drawn faces | sunglasses shown |",
        "|---|---|---|---|",
        f"| unedited | 100% | {frechet(bench.features(bench.base), real):.1f} | {bench.has(bench.base, 'glasses'):.0%} |",
        f"| {count} random directions, mean | {np.mean(kept):.0%} | {np.mean([frechet(bench.features(x), real) for x in drawn]):.1f} "
        f"| {np.mean([bench.has(x, 'glasses') for x in drawn]):.0%} |",
        f"| the direction itself, its mean form | {bench.kept(along, bench.base):.0%} | {frechet(bench.features(along), real):.1f} "
        f"| {bench.has(along, 'glasses'):.0%} |",
    ]
    save_sheet(
        [
            (
                list(zip(bench.base[:2], *(x[:2] for x in drawn), along[:2])),
                ["unedited", *[f"random {i + 1}" for i in range(count)], "glasses"],
            )
        ],
        bench.folder / "robustness.jpg",
    )
    return [*rows, "", "![random directions of equal length](robustness.jpg)"]


def consistency(bench: Bench) -> list[str]:
    """Cosines of the mean shift between noise levels, and what one shift for all levels does."""
    rows = [
        "| attribute | way | cosine of neighbouring levels | of the first and the last | edit: full | mean | global |",
        "|---|---|---|---|---|---|---|",
    ]
    blocks = []
    for name, way in product(fewer(("glasses", "beard", "hat")), (PROMPTS, MATCHING)):
        direction = bench.found(name, way)
        unit = torch.nn.functional.normalize(direction.mean().shifts.flatten(1), dim=1)
        unit = unit[: int(END * len(unit))] if way == PROMPTS else unit
        drawn = [bench.draw(bench.edited(direction, 1.0, form=form)) for form in ("full", "mean", "global")]
        rows.append(
            f"| {name} | {way} | {(unit[1:] * unit[:-1]).sum(1).mean():.2f} | {float(unit[0] @ unit[-1]):.2f} | "
            + " | ".join(cell(bench.point(x, name)) for x in drawn)
            + " |"
        )
        if way == MATCHING:
            blocks.append(([[bench.base[i], *(x[i] for x in drawn)] for i in range(1)], ["unedited", f"{name}: full", "mean", "global"]))
    save_sheet(blocks, bench.folder / "consistency.jpg")
    return [*rows, "", "![full, mean and global form](consistency.jpg)"]


def calibration(bench: Bench) -> list[str]:
    """The shortest window that edits as well as the whole run, the longest boost that changes no label, and the distances there."""
    from pack.host.denoisers import percent_of
    from pack.host.progress import Bar
    from pack.host.runs import guided, schedule
    from pack.nodes.schedule import distance_of, measured

    base = bench.draw(bench.model, first=TUNED_ON)
    success = {
        end: np.mean(
            [
                bench.has(bench.draw(bench.edited(bench.found(n, PROMPTS), 1.0, end=end), first=TUNED_ON), n)
                for n in fewer(("glasses", "beard", "hat"))
            ]
        )
        for end in tqdm(WINDOWS, "windows")
    }
    kept = {boost: bench.kept(bench.draw(bench.model, first=TUNED_ON, boost=boost), base) for boost in tqdm(BOOSTS, "boosts")}
    end = min(window for window, share in success.items() if share >= 0.95 * success[1.0])
    boost = min((b for b, share in kept.items() if share >= 0.95), default=1.0)
    rows = [
        "| edit ends at | " + " | ".join(f"{end:g}" for end in WINDOWS) + " |",
        "|---|" + "---|" * len(WINDOWS),
        "| success | " + " | ".join(f"{share:.0%}" for share in success.values()) + " |",
        "",
        "| boost starts at | " + " | ".join(f"{b:g}" for b in BOOSTS) + " |",
        "|---|" + "---|" * len(BOOSTS),
        "| labels kept | " + " | ".join(f"{share:.0%}" for share in kept.values()) + " |",
        "",
        f"t_edit: the shortest window with 95 % of the whole run's success, {end:g}. "
        f"t_boost: the earliest start that keeps 95 % of the labels, {boost:g}. The distances there:",
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


def boosting(bench: Bench, count: int = size(96, 2)) -> list[str]:
    """Edited pictures at strength 1.5 with and without quality boosting at the proposed t_boost, and earlier and later."""
    from pack.nodes.schedule import EditingSchedule

    world = (bench.model, bench.encode(SOURCE), bench.encode(""), bench.vae, {"samples": bench.empty()})
    _, end, boost, picture = EditingSchedule.execute(*world, "SSIM", *LOOKED_AT.values(), CFG, TUNED_ON, 0.0, 0.0, "", "").args
    save_picture(picture, bench.folder / "schedule.png")
    rows = [
        f"Editing Schedule (SSIM, {LOOKED_AT['images']} pictures) proposes to edit up to {end:.2f} and to boost from {boost:.2f}.",
        "",
        "![the curves](schedule.png)",
        "",
        f"Strength 1.5, {count} seeds; the distance is to {DRAWN} drawn faces that have the attribute.",
        "",
        "| attribute | boost | shown | labels kept, against no boost | Frechet distance |",
        "|---|---|---|---|---|",
    ]
    blocks = []
    for name in fewer(("glasses", "beard")):
        faces = [bench.faces.sample_face(np.random.default_rng([73, i]), **{name: TARGETS[name]}) for i in range(DRAWN)]
        real = bench.features(torch.stack([torch.from_numpy(bench.faces.render(face).copy()) for face in faces]).movedim(-1, 1) / 127.5 - 1)
        model, drawn = bench.edited(bench.found(name, MATCHING), 1.5, end=end), {}
        for at in (1.0, boost, max(0.3, boost - 0.2)):
            drawn[at] = bench.draw(model, seeds=count, boost=at)
            rows.append(
                f"| {name} | {'none' if at == 1 else f'from {at:.2f}'} | {bench.has(drawn[at], name):.0%} "
                f"| {bench.kept(drawn[at], drawn[1.0]):.0%} | {frechet(bench.features(drawn[at]), real):.1f} |"
            )
        blocks += [([x[:6]], [f"{name}, {'no boost' if at == 1 else f'from {at:.2f}'}"] * len(x[:6])) for at, x in drawn.items()]
    save_sheet(blocks, bench.folder / "boosting.jpg")
    return [*rows, "", "![no boost, the proposed one, an earlier one](boosting.jpg)"]


def cost(bench: Bench) -> list[str]:
    """Time and peak memory, each model in a process of its own."""
    import subprocess

    rows = [
        "One epoch, 20 steps, edits up to 0.8, prompt matching, cfg 1, on one CPU thread; "
        "random weights for the SD 1.5 shape at 512 x 512.",
        "",
        "| model | batch | a denoising step | an update | in steps | 100 latents | memory before | peak |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name in fewer(("demo", "sd15")):
        command = [sys.executable, "-P", str(Path(__file__).with_name("training_cost.py")), name, *(["--smallest"] if SMALLEST else [])]
        rows += [
            line for line in subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines() if line.startswith("|")
        ]
    return [*rows, "", "The yardstick published for Asyrp: 475 s for 100 latents, on a GPU."]


def save_picture(picture: Tensor, path: Path) -> None:
    from PIL import Image

    Image.fromarray((picture[0] * 255).round().to(torch.uint8).numpy()).save(path, optimize=True)


def head(seeds: int) -> str:
    settings = "; ".join(f"{way}: {', '.join(f'{key} {value:g}' for key, value in settings.items())}" for way, settings in SETTINGS.items())
    return (
        "# Training a direction, measured\n\n"
        f"Written by `bench/training.py`. The demo model, DDIM, {STEPS} steps, cfg {CFG:g}, prompt `{SOURCE}`, edits up to {END:g} on both "
        f"halves. Directions from {IMAGES} seeds from {TRAINED_ON} up ({settings}); thresholds on seeds from {TUNED_ON} up; judged on "
        f"{seeds} seeds from {FIRST_SEED} up. A cell `a / b`: the classifier finds the attribute in a of the pictures, and b of the other "
        "attributes' labels are those of the unedited picture of the same seed. Differences of a few points are within chance."
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=size(24, 2), help="held-out seeds a cell")
    parser.add_argument("--only", help="measure this section alone, and keep the page's others")
    options = parsed(parser, DOCS)
    start_host()
    with torch.inference_mode():
        bench = Bench(options.seeds, options.out)
        parts = {
            "Calibration of Editing Schedule": calibration,
            "Against directions from two prompts": frontier,
            "What the objectives reach": losses,
            "Forms": forms,
            "Homogeneity": homogeneity,
            "Linearity": linearity,
            "Compositionality": compositionality,
            "Robustness": robustness,
            "Consistency over time": consistency,
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
