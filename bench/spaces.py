"""Shifting the predicted noise against shifting h, measured on the demo model: `docs/spaces.md` and its figure.

    COMFYUI=<host's folder> python bench/spaces.py [--seeds 8] [--only "..."] [--out docs] [--smallest]

Kwon et al. 2023 say that a shift of the predicted noise cancels in a step of DDIM (theorem 1), while one of h does not under the
asymmetric process; that a direction in h-space does the same to all pictures (homogeneity); and that h-space forgives random
shifts (robustness). All is judged on seeds from 900 000 up by the judge of portraits.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parent))
from sizes import DOCS, fewer, parsed, size
from stage import FIRST_SEED, INSTRUMENTS, SOURCE, Stage, precision, start_host, write_report

LEARNED_ON, LEARNED, CFG = 600_000, size(12, 2), 3.0
STEPS, USUAL = size((10, 20, 40), (2, 3)), size(20, 3)
TARGETS = {"glasses": "sunglasses", "smile": 0.7}
RANDOM, SHARES = size(2, 1), fewer((0.03, 0.1, 0.3))  # directions, and their sizes as shares of what they are added to


@dataclass(frozen=True)
class Cut:
    """A run's noise levels, and by how many times an asymmetric step moves more than a symmetric one, at each."""

    sigmas: list[float]

    def gain(self, sigma: float) -> float:
        after = next((level for level in self.sigmas if level < sigma * (1 - 1e-5)), 0.0)
        return 1 / (1 - after / sigma)

    @property
    def left(self) -> float:
        """Mean share of a shift of the predicted noise that one step leaves."""
        return float(np.mean([1 / self.gain(sigma) for sigma in self.sigmas[:-1]]))


class Bench(Stage):
    """The demo model, and runs of it in which the predicted noise is shifted."""

    def __init__(self, seeds: int):
        super().__init__(TARGETS)
        self.seeds, self._base = seeds, {}

    def cut(self, steps: int) -> Tensor:
        from comfy_extras.nodes_custom_sampler import BasicScheduler

        return BasicScheduler.execute(self.model, "normal", steps, 1.0).args[0]

    def latents(self, model, steps: int, prompt: str = SOURCE) -> Tensor:
        """Finished latents of the held-out seeds, by euler."""
        from comfy.samplers import sampler_object

        return self.sample(model, sampler_object("euler"), self.cut(steps), self.noise(self.seeds), prompt, CFG)

    def base(self, steps: int) -> Tensor:
        if steps not in self._base:
            self._base[steps] = self.latents(self.model, steps)
        return self._base[steps]

    def shifting_noise(self, shift: Callable[[Tensor, float], Tensor], steps: int, asymmetric: bool):
        """The model with a shift of the noise that the guided prediction stands for: D - sigma times it; in the first term alone, if
        asymmetric."""
        cut = Cut(self.cut(steps).tolist())

        def shifted(args: dict) -> Tensor:
            sigma = float(args["sigma"].flatten()[0])
            move = sigma * shift(args["denoised"], sigma).to(args["denoised"])
            return args["denoised"] - (cut.gain(sigma) if asymmetric else 1.0) * move

        model = self.model.clone()
        model.set_model_sampler_post_cfg_function(shifted)
        return model

    def mean_contrast(self, name: str, steps: int) -> Callable[[Tensor, float], Tensor]:
        """By noise level the mean over seeds of how the noise under the target's prompt differs from that under the source's, guided."""
        from comfy.samplers import sampler_object

        from pack.host.runs import guided

        found: dict[float, Tensor] = {}

        def note(args: dict) -> Tensor:
            sigma, prompts = float(args["sigma"].flatten()[0]), (self.prompt(name), SOURCE)
            options = {**args["model_options"], "sampler_post_cfg_function": []}
            foreseen = [self.foreseen(prepared[prompt], args["input"], args["sigma"], options) for prompt in prompts]
            found[sigma] = CFG * (foreseen[1] - foreseen[0]).mean(0, keepdim=True) / sigma
            return args["denoised"]

        model = self.model.clone()
        model.set_model_sampler_post_cfg_function(note)
        guider = guided(
            model, {"positive": self.encode(SOURCE), "negative": self.encode(""), "target": self.encode(self.prompt(name))}, CFG
        )
        prepared = {SOURCE: (guider, "positive"), self.prompt(name): (guider, "target")}
        noise = self.noise(LEARNED, LEARNED_ON)
        guider.sample(noise, torch.zeros_like(noise), sampler_object("euler"), self.cut(steps), disable_pbar=True, seed=0)
        return lambda like, sigma: found[min(found, key=lambda level: abs(level - sigma))]

    @staticmethod
    def foreseen(prepared, x: Tensor, sigma: Tensor, options: dict) -> Tensor:
        """What the model foresees under one prompt alone."""
        import comfy.samplers

        guider, name = prepared
        return comfy.samplers.calc_cond_batch(guider.inner_model, [guider.conds[name]], x, sigma, options)[0]

    def shifting_h(self, direction, strength: float, steps: int, asymmetric: bool):
        """The model with a direction in h-space, without the scale that makes both processes alike."""
        from pack.core.hspace.injection import matched_scale
        from pack.nodes.directions import ApplyDirection

        sigmas = self.cut(steps).tolist()
        unit = 1 / matched_scale(sigmas, [1.0] * (len(sigmas) - 1)) if asymmetric else 1.0
        return ApplyDirection.execute(self.model, direction, unit * strength, 0.0, 1.0, 0.0, "both", asymmetric, False).args[0]

    def component(self):
        """The first principal component of h, and the root mean square of h, by noise level in the mean."""
        from pack.nodes.directions import DiscoverDirections

        inputs = {port.id: port.default for port in DiscoverDirections.define_schema().inputs if getattr(port, "default", None) is not None}
        inputs |= dict(model=self.model, positive=self.encode(SOURCE), negative=self.encode(""), latent={"samples": self.empty()})
        inputs |= dict(method="PCA", images=size(16, 4), steps=size(12, 2), cfg=CFG, count=1, seed=LEARNED_ON)
        return DiscoverDirections.execute(**inputs).args[0][0]

    def size_of_h(self) -> float:
        """Root mean square of h over a run."""
        sizes: list[float] = []

        def note(args: dict) -> dict:
            sizes.append(float(args["h"].float().square().mean().sqrt()))
            return {"h": args["h"]}

        model = self.model.clone()
        model.set_model_middle_block_after_patch(note)
        self.latents(model, size(6, 2))
        return float(np.mean(sizes))

    def numbers(self, latents: Tensor) -> Tensor:
        """All numbers that the judge reads (n, k), in shares of their ranges."""
        read = self.read(latents)
        return torch.stack([read[name] / (high - low) for name, (low, high) in self.faces.CONTINUOUS.items()], 1)


def change(now: Tensor, before: Tensor) -> float:
    """Root mean square of a change of latents."""
    return float((now - before).square().mean().sqrt())


def cancelling(bench: Bench, path: Path) -> list[str]:
    """How much of a shift one step leaves, and a whole run, in both spaces and both processes, over the number of steps."""
    component, spaces = bench.component(), {}
    rows = [
        "| steps | left of a shift by one step, mean | noise, symmetric | noise, asymmetric | h, symmetric | h, asymmetric |",
        "|---|---|---|---|---|---|",
    ]
    for steps in tqdm(STEPS, "cancelling"):
        contrast = bench.mean_contrast("glasses", steps)
        models = {
            "noise, symmetric": bench.shifting_noise(lambda x, s, c=contrast: 0.3 * c(x, s), steps, False),
            "noise, asymmetric": bench.shifting_noise(lambda x, s, c=contrast: 0.3 * c(x, s), steps, True),
            "h, symmetric": bench.shifting_h(component, 2.0, steps, False),
            "h, asymmetric": bench.shifting_h(component, 2.0, steps, True),
        }
        before, cells = bench.read(bench.base(steps)), []
        for space, model in models.items():
            latents = bench.latents(model, steps)
            moved = change(latents, bench.base(steps))
            spaces.setdefault(space, []).append(moved)
            kept = float(bench.keeps(bench.read(latents), before, "").mean())
            cells.append(f"{moved:.2f} / {kept:.0%}")
        rows.append(f"| {steps} | {Cut(bench.cut(steps).tolist()).left:.1%} | " + " | ".join(cells) + " |")
    figure(spaces, path)
    grows = {space: moved[-1] / moved[0] for space, moved in spaces.items()}
    return [
        "The same shift in runs of more and more steps: three tenths of the mean contrast of two prompts (sunglasses) in the predicted "
        "noise, two deviations of the first principal component in h. A cell: how far the finished latents move (root mean square) / the "
        "share of attributes kept. In one step a symmetric shift of the noise cancels but for 1 - sigma'/sigma (theorem 1), the "
        f"less the more steps there are. Over a whole run: from {STEPS[0]} to {STEPS[-1]} steps the finished latents "
        f"move {grows['noise, symmetric']:.2f} times as far by the shift of the noise, {grows['h, symmetric']:.2f} times by that of h; "
        f"where both are asymmetric, {grows['noise, asymmetric']:.2f} and {grows['h, asymmetric']:.2f} times.",
        "",
        *rows,
        "",
        "![how far the finished latents move, over the number of steps](spaces.png)",
    ]


def figure(spaces: dict[str, list[float]], path: Path) -> None:
    from matplotlib.figure import Figure

    drawn = Figure(figsize=(5.5, 3.4), layout="constrained")
    axes = drawn.subplots()
    for space, moved in spaces.items():
        axes.plot(STEPS, moved, marker="o", linestyle="-" if "asym" not in space else "--", label=space)
    axes.set(xlabel="steps", ylabel="change of the finished latents", xticks=STEPS, ylim=(0, None))
    axes.legend()
    drawn.savefig(path, dpi=110)


def random_shifts(bench: Bench) -> list[str]:
    """Random directions of one size in both spaces: what is kept, and whether they do the same to all pictures."""
    from dataclasses import replace

    component, h = bench.component(), bench.size_of_h()
    base, before = bench.numbers(bench.base(USUAL)), bench.read(bench.base(USUAL))
    rows = [
        "| space | size, of what is shifted | finished latents move | attributes kept | alike for all pictures |",
        "|---|---|---|---|---|",
    ]

    def told(space: str, share: str, latents: list[Tensor]) -> None:
        moved = float(np.mean([change(each, bench.base(USUAL)) for each in latents]))
        kept = float(np.mean([float(bench.keeps(bench.read(each), before, "").mean()) for each in latents]))
        alike = float(np.mean([agreement(bench.numbers(each) - base) for each in latents]))
        rows.append(f"| {space} | {share} | {moved:.2f} | {kept:.0%} | {alike:+.2f} |")

    for share in tqdm(SHARES, "random"):
        for space in ("noise", "h"):
            drawn = []
            for i in range(RANDOM):
                generator = torch.Generator().manual_seed(i)
                if space == "noise":
                    shift = share * torch.randn(bench.empty().shape, generator=generator)
                    model = bench.shifting_noise(lambda x, s, shift=shift: shift, USUAL, False)
                else:
                    shifts = share * h * torch.randn((1, *component.shifts.shape[1:]), generator=generator)
                    model = bench.shifting_h(replace(component, shifts=shifts, sigmas=(1.0,)), 1.0, USUAL, False)
                drawn.append(bench.latents(model, USUAL))
            told(f"{space}, {RANDOM} random directions", f"{share:g}", drawn)
    for strength in fewer((2.0, 6.0)):
        told(
            "h, its first principal component",
            f"{strength:g} deviations",
            [bench.latents(bench.shifting_h(component, strength, USUAL, False), USUAL)],
        )
    contrast = bench.mean_contrast("glasses", USUAL)
    told(
        "noise, mean contrast of two prompts",
        "0.3 of it",
        [bench.latents(bench.shifting_noise(lambda x, s: 0.3 * contrast(x, s), USUAL, False), USUAL)],
    )
    return [
        f"Symmetric, {USUAL} steps, the whole run. Random directions have independent normal entries, with their root mean square as a "
        "share of that of the noise (1) or of h. Alike for all pictures (homogeneity): mean cosine between pictures of how the judge's "
        "numbers change, 1 if a direction does the same to each, 0 if it does anything.",
        "",
        *rows,
    ]


def agreement(changes: Tensor) -> float:
    """Mean cosine between rows (n, k)."""
    unit = torch.nn.functional.normalize(changes, dim=1)
    alike, count = unit @ unit.T, len(unit)
    return float((alike.sum() - alike.diagonal().sum()) / max(1, count * (count - 1)))


def head(seeds: int) -> str:
    return (
        "# Shifting the noise, shifting h\n\n"
        f"Written by `bench/spaces.py`. The demo model `{INSTRUMENTS['portrait']}`, computed in {precision()}; euler, cfg {CFG:g}, prompt "
        f"`{SOURCE}`; directions from {LEARNED} and 16 seeds from {LEARNED_ON} up; judged on {seeds} seeds from {FIRST_SEED} up. What it "
        "tests are claims of Kwon et al. 2023 for unconditional pixel-space models; this one is a latent diffusion model with prompts."
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=size(8, 2), help="held-out seeds a cell")
    parser.add_argument("--only", help="measure this section alone, and keep the page's others")
    options = parsed(parser, DOCS)
    start_host()
    with torch.inference_mode():
        bench = Bench(options.seeds)
        parts = {
            "What cancels": lambda: cancelling(bench, options.out / "spaces.png"),
            "Robust and homogeneous?": lambda: random_shifts(bench),
        }
        write_report(options.out / "spaces.md", head(options.seeds), parts, options.only)


if __name__ == "__main__":
    main()
