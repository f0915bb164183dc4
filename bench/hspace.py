"""What editing in h-space does on the demo model, measured: `docs/hspace.md` and its picture.

    COMFYUI=<host's folder> python bench/hspace.py [--seeds 12] [--out docs] [--smallest]

Directions are found on seeds from 0 up and judged on seeds from 900 000 up by the judge of portraits, through the pack's
own nodes. Trained directions have a page of their own (`bench/training.py`).
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parent))
from sizes import DOCS, fewer, parsed, size
from stage import FIRST_SEED, INSTRUMENTS, SOURCE, Point, Stage, cell, mean, precision, save_sheet, start_host, write_report

FOUND_ON, STEPS, CFG = size(8, 4), size(12, 2), 3.0
UNSEEN = 1_000_003  # drawn faces from a random stream that the demo models were not trained on
TARGETS = {"glasses": "sunglasses", "smile": 0.7, "background": "green"}
STRENGTHS = fewer((1.0, 4.0, 8.0))
FORMS = {"conditional": ("conditional", False), "both halves": ("both", False), "both, asymmetric": ("both", True)}
RISE = 0.1  # of success, from the unedited pictures, that counts as an effect
METHODS, COUNT = {"PCA": fewer((2.0, 8.0, 32.0)), "Jacobian": fewer((2.0, 8.0, 32.0))}, size(2, 1)
INVERTED = size((20, 50), (2,))


class Bench(Stage):
    """The demo model, the pictures that nothing edits, and the pack's nodes."""

    def __init__(self, seeds: int):
        super().__init__(TARGETS)
        self.seeds = seeds
        self.base = self.draw(self.model)
        self.before = self.judge.read(self.base)

    def edited(self, direction, strength: float, form: str = "both halves"):
        from pack.nodes.directions import ApplyDirection

        branch, asymmetric = FORMS[form]
        return ApplyDirection.execute(self.model, direction, strength, 0.0, 1.0, 0.0, branch, asymmetric, False).args[0]

    def draw(self, model, prompt: str = SOURCE) -> Tensor:
        """Pictures (n, 3, h, w) in [-1, 1] of the held-out seeds, by euler."""
        from comfy.samplers import sampler_object
        from comfy_extras.nodes_custom_sampler import BasicScheduler

        sigmas = BasicScheduler.execute(self.model, "normal", STEPS, 1.0).args[0]
        return self.pictures(self.sample(model, sampler_object("euler"), sigmas, self.noise(self.seeds), prompt, CFG))

    def point(self, pictures: Tensor, name: str) -> Point:
        now = self.judge.read(pictures)
        return float(self.shows(now, name).float().mean()), float(self.keeps(now, self.before, name).mean())


def contrasts(bench: Bench, path: Path) -> list[str]:
    """Success and kept share over strength, for each attribute and form, beside the prompt that names the attribute; and a picture."""
    head = " | ".join(f"{s:+g}" for s in STRENGTHS)
    rows = [f"| attribute | form | unedited | {head} | prompt |", "|---|---|---|" + "---|" * (len(STRENGTHS) + 1)]
    curves: dict[str, list[list[Point]]] = {form: [] for form in FORMS}
    blocks = []
    for name in tqdm(fewer(TARGETS), "contrasts"):
        direction = bench.find_direction(name, FOUND_ON, FOUND_ON, STEPS, CFG, 0)
        prompted = bench.draw(bench.model, bench.prompt(name))
        for form in FORMS:
            drawn = [bench.base, *(bench.draw(bench.edited(direction, s, form)) for s in STRENGTHS), prompted]
            points = [bench.point(pictures, name) for pictures in drawn]
            curves[form].append(points)
            cells = " | ".join(map(cell, points[1:]))
            rows.append(f"| {name}: {TARGETS[name]} | {form} | {points[0][0]:.0%} | {cells} |")
            if form == "conditional":
                labels = ["unedited", *(f"{name} {s:+g}" for s in STRENGTHS), "the prompt"]
                blocks.append((list(zip(*(pictures[:2] for pictures in drawn))), labels))
    save_sheet(blocks, path)
    return [reading({form: [mean(points) for points in zip(*all_points)] for form, all_points in curves.items()}), "", *rows]


def reading(curves: dict[str, list[Point]]) -> str:
    """What the mean curves say: which forms show the attribute more often than unedited pictures do, and what the rest becomes."""
    acting = [form for form, (unedited, *edited, _) in curves.items() if max(hit for hit, _ in edited) - unedited[0] > RISE]
    unedited, *_, prompted = curves["conditional"]
    most = max(hit for _, *edited, _ in curves.values() for hit, _ in edited)
    least = min(kept for _, *edited, _ in curves.values() for _, kept in edited)
    told = (
        f"On average the attribute is shown by {unedited[0]:.0%} of the unedited pictures, by {most:.0%} of the edited ones at the most, "
        f"and by {prompted[0]:.0%} where the prompt asks for it; the edits keep {least:.0%} of the rest at the least. "
    )
    if acting:
        return told + f"Contrasts of two prompts **act** here, in the form {' and '.join(acting)}."
    return told + "Contrasts of two prompts **do not act** on this model, at no strength and in no form measured."


@dataclass(frozen=True)
class Push:
    """What a push along a found direction does to the held-out pictures. changed: by attribute, the share of pictures."""

    kept: float
    moved: float
    changed: dict[str, float]


def pushed(bench: Bench, direction, strength: float) -> Push:
    """Both signs together."""
    now = [bench.draw(bench.edited(direction, sign * strength)) for sign in (1, -1)]
    reads = [bench.judge.read(pictures) for pictures in now]
    changed = {}
    for name in (*bench.faces.CATEGORICAL, *bench.faces.CONTINUOUS):
        low, high = bench.faces.CONTINUOUS.get(name, (0, 0))
        changed[name] = float(np.mean([((read[name] - bench.before[name]).abs() > 0.1 * (high - low)).float().mean() for read in reads]))
    moved = float(np.mean([(pictures - bench.base).square().mean().sqrt() for pictures in now]))
    return Push(1 - float(np.mean(list(changed.values()))), moved, changed)


def discovered(bench: Bench) -> list[str]:
    """What the directions of Discover Directions change at large strengths."""
    from pack.nodes.directions import DiscoverDirections

    rows = ["| method | direction | strength | attributes kept | mean change of a pixel | changed most |", "|---|---|---|---|---|---|"]
    found: dict[tuple[str, float], list[Push]] = {}
    for method, strengths in METHODS.items():
        inputs = {port.id: port.default for port in DiscoverDirections.define_schema().inputs if getattr(port, "default", None) is not None}
        inputs |= dict(model=bench.model, positive=bench.encode(SOURCE), negative=bench.encode(""), latent={"samples": bench.empty()})
        inputs |= dict(method=method, images=size(16, 4), steps=STEPS, cfg=CFG, count=COUNT, iterations=size(6, 1))
        directions, labels, _ = DiscoverDirections.execute(**inputs).args
        for direction, label, strength in tqdm([(d, n, s) for d, n in zip(directions, labels) for s in strengths], method):
            push = pushed(bench, direction, strength)
            found.setdefault((method, strength), []).append(push)
            most = sorted(push.changed, key=lambda name: -push.changed[name])[:3]
            told = ", ".join(f"{name} {push.changed[name]:.0%}" for name in most if push.changed[name])
            rows.append(f"| {method} | {label} | {strength:g} | {push.kept:.0%} | {push.moved:.3f} | {told} |")
    return [reading_of_pushes(found), "", *rows]


def reading_of_pushes(found: dict[tuple[str, float], list[Push]]) -> str:
    """From which strength on a method's directions change a tenth of the attributes."""
    told = []
    for method in METHODS:
        kept = {strength: float(np.mean([push.kept for push in pushes])) for (of, strength), pushes in found.items() if of == method}
        acting = [strength for strength, share in kept.items() if share < 1 - RISE]
        told.append(
            f"{method}: from strength {min(acting):g} on"
            if acting
            else f"{method}: at none up to {max(kept):g} (kept {min(kept.values()):.0%})"
        )
    return (
        f"Both signs, the whole run; an attribute is kept if its label is, or if its number stays within a tenth of its range. "
        f"Directions that change more than {RISE:.0%} of the attributes: {'; '.join(told)}."
    )


def inversion_table(bench: Bench, count: int = size(2, 1)) -> list[str]:
    """PSNR of drawn faces that were inverted and drawn again, at cfg 1, to what the VAE alone gives back of them."""
    from comfy.samplers import sampler_object
    from comfy_extras.nodes_custom_sampler import BasicGuider, BasicScheduler, SamplerCustomAdvanced

    from pack.demo import drawing
    from pack.demo.photograph import photographed
    from pack.nodes.sampling import Invert

    rows = ["| pictures | steps | plain inversion | 5 refinements | exact sampler | the VAE alone |", "|---|---|---|---|---|---|"]
    faces = [bench.faces.sample_face(np.random.default_rng([UNSEEN, i])) for i in range(count)]
    looks = {"drawn": [drawing.render(face) for face in faces], "photograph-like": [photographed(face) for face in faces]}

    def likeness(one: Tensor, other: Tensor) -> float:
        return float(-10 * (one - other).square().mean().clamp(min=1e-12).log10())

    for look, steps in product(looks, INVERTED):
        sigmas, values = BasicScheduler.execute(bench.model, "normal", steps, 1.0).args[0], {}
        prompt = bench.encode(SOURCE)
        for pixels in tqdm(looks[look], f"inversion, {steps} steps"):
            image = torch.from_numpy(pixels.copy())[None].float() / 255
            latent = {"samples": bench.vae.encode(image)}
            plain, guider = bench.vae.decode(latent["samples"]), BasicGuider.execute(bench.model, prompt).args[0]
            values.setdefault("vae", []).append(likeness(plain, image))
            for refinements in (0, 5):
                noise, _, exact, _ = Invert.execute(bench.model, prompt, latent, sigmas, refinements, 1e-5).args
                samplers = {f"{refinements}": sampler_object("ddim")} | ({"exact": exact} if refinements == 0 else {})
                for key, sampler in samplers.items():
                    back = bench.vae.decode(SamplerCustomAdvanced.execute(noise, guider, sampler, sigmas, latent).args[0]["samples"])
                    values.setdefault(key, []).append(likeness(back, plain))
        rows.append(f"| {look} | {steps} | " + " | ".join(f"{np.mean(values[key]):.1f} dB" for key in ("0", "5", "exact", "vae")) + " |")
    note = "PSNR beside what the VAE alone gives back of the picture, whose own PSNR to the picture is the last column; 120 dB is equal."
    return [f"{note} Prompt `{SOURCE}`, cfg 1, computed in float32.", "", *rows]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=size(12, 1), help="held-out seeds a cell")
    options = parsed(parser, DOCS)
    start_host()
    with torch.inference_mode():
        bench = Bench(options.seeds)
        parts = {
            "Contrasts of two prompts": lambda: contrasts(bench, options.out / "hspace.jpg"),
            "Directions without prompts": lambda: discovered(bench),
            "Inversion": lambda: inversion_table(Stage(TARGETS, half=False)),
        }
        write_report(options.out / "hspace.md", head(options.seeds), parts)


def head(count: int) -> str:
    intro = (
        f"Written by `bench/hspace.py`. The demo model `{INSTRUMENTS['portrait']}`, whose prompt enters at every level as in SD 1.5, "
        f"computed in {precision()}; euler, {STEPS} steps, cfg {CFG:g}, prompt `{SOURCE}`; directions from prompts on {FOUND_ON} seeds "
        f"from 0 up; judged on {count} seeds from {FIRST_SEED} up. A cell `a / b`: the judge finds the attribute in a of the "
        "pictures, and b of the other attributes are those of the unedited picture of the same seed."
    )
    return f"# Editing in h-space, measured\n\n{intro}\n\n![contrasts of two prompts over strength, and the prompt](hspace.jpg)"


if __name__ == "__main__":
    main()
