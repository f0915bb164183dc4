"""What editing in h-space does on the demo model, measured: `docs/hspace.md` and its picture.

    COMFYUI=<host's folder> python bench/hspace.py [--seeds 60] [--out docs] [--smallest]

Directions are found on seeds 0 to 15 and judged on seeds from 900 000 up by the attribute classifier, through the
pack's own nodes.
"""

from __future__ import annotations

import argparse
import sys
from itertools import product
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parent))
from sizes import DOCS, fewer, parsed, size
from stage import ELSEWHERE, FIRST_SEED, SOURCE, Stage, kept_at, save_sheet, start_host, write_report

FOUND_ON, STEPS, CFG = size(16, 1), size(15, 2), 3.0
UNSEEN = 1_000_003  # drawn faces from a random stream that the demo model was not trained on
TARGETS = {"skin": "dark", "glasses": "sunglasses", "beard": "beard", "background": "green", "style": "curly", "hat": "hat"}
STRENGTHS = fewer((0.5, 1.0, 1.5, 3.0))
STEP_COUNTS = size((15, 30, 60), (2, 3, 4))  # compared with the one in the middle
EQUAL = 0.8
FORMS = {"conditional": ("conditional", False), "both halves": ("both", False), "both, asymmetric": ("both", True)}


class Bench(Stage):
    """The demo model with a direction for each attribute, and the pack's nodes on it."""

    def __init__(self, seeds: int):
        super().__init__(TARGETS)
        self.seeds = seeds
        self.directions = {name: self.find_direction(name, FOUND_ON, FOUND_ON, STEPS, CFG, 0) for name in tqdm(TARGETS, "directions")}

    def edited(self, name: str, strength: float, form: str = "conditional", model=None):
        from pack.nodes.directions import ApplyDirection

        branch, asymmetric = FORMS[form]
        return ApplyDirection.execute(model or self.model, self.directions[name], strength, 0.0, 1.0, 0.0, branch, asymmetric, False).args[
            0
        ]

    def draw(self, model, prompt: str = SOURCE, steps: int = STEPS, seeds: int | None = None) -> Tensor:
        """Pictures (n, 3, h, w) in [-1, 1] of the held-out seeds, by euler."""
        import comfy.sample

        noise = self.noise(seeds or self.seeds)
        return comfy.sample.sample(
            model, noise, steps, CFG, "euler", "normal", self.encode(prompt), self.encode(""), torch.zeros_like(noise), disable_pbar=True
        )


def measured(bench: Bench, base: Tensor) -> dict[tuple[str, str], list[tuple[float, float]]]:
    """Success and kept share of each attribute and form: unedited, at each strength, and last by the prompt itself."""
    curves = {}
    for name in tqdm(fewer(TARGETS), "strengths"):
        prompted = bench.draw(bench.model, bench.prompt(name))
        for form in FORMS:
            drawn = [base, *(bench.draw(bench.edited(name, s, form)) for s in STRENGTHS), prompted]
            curves[name, form] = [(bench.has(x, name), bench.kept(x, base, name)) for x in drawn]
    return curves


def frontier(curves: dict[tuple[str, str], list[tuple[float, float]]]) -> list[str]:
    """Success and kept share over strength, for each form, beside the prompt that names the attribute."""
    head = " | ".join(f"{s:+g}" for s in STRENGTHS)
    rows = [f"| attribute | form | unedited | {head} | prompt |", "|---|---|---|" + "---|" * (len(STRENGTHS) + 1)]
    for (name, form), (unedited, *rest) in curves.items():
        rows.append(
            f"| {name}: {TARGETS[name]} | {form} | {unedited[0]:.0%} | "
            + " | ".join(f"{hit:.0%} / {kept:.0%}" for hit, kept in rest)
            + " |"
        )
    return rows


def at_equal_success(curves: dict[tuple[str, str], list[tuple[float, float]]]) -> list[str]:
    """Kept share where success first reaches EQUAL, read off straight lines between the strengths measured."""
    rows = ["| attribute | " + " | ".join(FORMS) + " | the prompt itself, at its own success |", "|---|" + "---|" * (len(FORMS) + 1)]
    table = {
        name: [kept_at(EQUAL, curves[name, form][:-1]) for form in FORMS] + [curves[name, "both halves"][-1][1]] for name in fewer(TARGETS)
    }
    rows += [f"| {name}: {TARGETS[name]} | " + " | ".join(f"{kept:.0%}" for kept in row) + " |" for name, row in table.items()]
    return [*rows, "| mean | " + " | ".join(f"{kept:.0%}" for kept in np.mean(list(table.values()), axis=0)) + " |"]


def steps_table(bench: Bench) -> list[str]:
    """How far an edit at other step counts is from the edit at the middle one, as a share of its size."""
    few, middle, many = STEP_COUNTS
    rows = [
        f"| form | {few} against {middle} steps | {many} against {middle} steps | unedited pictures, {few} against {middle} |",
        "|---|---|---|---|",
    ]
    base = {n: bench.draw(bench.model, steps=n, seeds=size(8, 1)) for n in STEP_COUNTS}
    unedited = (base[few] - base[middle]).norm()
    for form in FORMS:
        shares, plain = {few: [], many: []}, []
        for name in fewer(("glasses", "background")):
            edit = {n: bench.draw(bench.edited(name, 1.0, form), steps=n, seeds=size(8, 1)) - base[n] for n in STEP_COUNTS}
            for n, share in shares.items():
                share.append(float((edit[n] - edit[middle]).norm() / edit[middle].norm()))
            plain.append(float(unedited / edit[middle].norm()))
        rows.append(f"| {form} | {np.mean(shares[few]):.0%} | {np.mean(shares[many]):.0%} | {np.mean(plain):.0%} |")
    return rows


def pairs_table(bench: Bench, base: Tensor) -> list[str]:
    """Two directions at once, both forms of the question: do both appear, and does the rest stay."""
    rows = ["| directions at strength 1 | first | second | both | others kept |", "|---|---|---|---|---|"]
    for one, two in fewer((("skin", "glasses"), ("background", "beard"), ("glasses", "hat"))):
        drawn = bench.draw(bench.edited(two, 1.0, model=bench.edited(one, 1.0)))
        labels = bench.judge.label(drawn)
        hits = [labels[n] == bench.faces.ATTRIBUTES[n].index(TARGETS[n]) for n in (one, two)]
        rows.append(
            f"| {one} + {two} | {hits[0].float().mean():.0%} | {hits[1].float().mean():.0%} | {(hits[0] & hits[1]).float().mean():.0%} | "
            f"{bench.kept(drawn, base, one, two):.0%} |"
        )
    return rows


def opposite_table(bench: Bench) -> list[str]:
    """What a negative strength takes away from pictures whose prompt asks for the attribute."""
    rows = ["| attribute asked for | shown, unedited | at -0.5 | at -1 | at -1.5 |", "|---|---|---|---|---|"]
    for name in fewer(("glasses", "beard", "hat", "skin")):
        prompt = bench.prompt(name)
        shares = [bench.has(bench.draw(bench.edited(name, s) if s else bench.model, prompt), name) for s in (0, -0.5, -1.0, -1.5)]
        rows.append(f"| {name}: {TARGETS[name]} | " + " | ".join(f"{share:.0%}" for share in shares) + " |")
    return rows


def inversion_table(bench: Bench, count: int = size(8, 1)) -> list[str]:
    """PSNR of drawn faces, inverted and drawn again by plain ddim at cfg 1, and by the exact sampler."""
    from comfy.samplers import sampler_object
    from comfy_extras.nodes_custom_sampler import BasicGuider, BasicScheduler, SamplerCustomAdvanced

    from pack.demo.photograph import photographed
    from pack.nodes.sampling import Invert

    rows = ["| pictures | steps | plain inversion | 5 refinements | exact sampler |", "|---|---|---|---|---|"]
    faces = [bench.faces.sample_face(np.random.default_rng([UNSEEN, i])) for i in range(count)]
    captions = [
        bench.prompts.prompt_for({k: v for k, v in f.labels.items() if k != "hair" or bench.faces.hair_is_visible(f.labels)}) for f in faces
    ]
    looks = {"drawn": [bench.faces.render(f) for f in faces], "photograph-like": [photographed(f) for f in faces]}
    for look, steps in product(looks, size((20, 50, 100), (2,))):
        pictures = [(torch.from_numpy(pixels.copy())[None].float() / 255, caption) for pixels, caption in zip(looks[look], captions)]
        sigmas = BasicScheduler.execute(bench.model, "normal", steps, 1.0).args[0]
        values: dict[str, list[float]] = {}
        for image, caption in tqdm(pictures, f"inversion, {steps} steps"):
            latent, prompt = {"samples": bench.vae.encode(image)}, bench.encode(caption)
            guider = BasicGuider.execute(bench.model, prompt).args[0]
            for refinements in (0, 5):
                noise, _, exact, _ = Invert.execute(bench.model, prompt, latent, sigmas, refinements, 1e-5).args
                samplers = {f"{refinements}": sampler_object("ddim")} | ({"exact": exact} if refinements == 0 else {})
                for key, sampler in samplers.items():
                    back = bench.vae.decode(SamplerCustomAdvanced.execute(noise, guider, sampler, sigmas, latent).args[0]["samples"])
                    values.setdefault(key, []).append(float(-10 * (back - image).square().mean().clamp(min=1e-12).log10()))
        rows.append(f"| {look} | {steps} | " + " | ".join(f"{np.mean(values[key]):.1f} dB" for key in ("0", "5", "exact")) + " |")
    return rows


def picture(bench: Bench, path: Path) -> None:
    """Held-out seeds over strength, for three attributes."""
    strengths, blocks = fewer((-1.0, 0.0, 0.5, 1.0, 1.5), 2), []
    for name in fewer(("glasses", "skin", "beard")):
        drawn = [bench.draw(bench.edited(name, s) if s else bench.model, seeds=2) for s in strengths]
        blocks.append((list(zip(*drawn)), [f"{name} {s:+g}" if s else "unedited" for s in strengths]))
    save_sheet(blocks, path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=size(60, 2), help="held-out seeds a cell")
    options = parsed(parser, DOCS)
    start_host()
    with torch.inference_mode():
        bench = Bench(options.seeds)
        picture(bench, options.out / "hspace.jpg")
        base = bench.draw(bench.model)
        curves = measured(bench, base)
        parts = {
            "Success and preservation over strength": lambda: frontier(curves),
            f"Other labels kept at {EQUAL:.0%} success": lambda: at_equal_success(curves),
            "Two directions at once": lambda: pairs_table(bench, base),
            "Inversion": lambda: inversion_table(bench),
            "Independence of the number of steps": lambda: steps_table(bench),
            "Negative strengths": lambda: opposite_table(bench),
        }
        write_report(options.out / "hspace.md", head(options.seeds), parts)


def head(count: int) -> str:
    intro = (
        f"Written by `bench/hspace.py`. The demo model, euler, {STEPS} steps, cfg {CFG:g}, prompt `{SOURCE}`; directions from prompts, "
        f"{FOUND_ON} seeds from 0 up; judged on {count} seeds from {FIRST_SEED} up. A cell `a / b`: the classifier finds the attribute in "
        "a of the pictures, and b of the other attributes' labels are those of the unedited picture of the same seed."
    )
    return f"# Editing in h-space, measured\n\n{intro}\n\n{ELSEWHERE}\n\n![glasses, skin and beard over strength](hspace.jpg)"


if __name__ == "__main__":
    main()
