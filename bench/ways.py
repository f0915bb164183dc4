"""Ways to change an attribute of a drawn picture, this pack's and what a user would do instead, for `bench/evidence.py`."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parent))
import joint
from sizes import fewer, size
from stage import ROOT, SOURCE, Stage

LEARNED_ON, STEPS, CFG, CHUNK = 600_000, size(16, 6), 3.0, size(12, 1)
TARGETS: dict[str, str | float] = {
    "smile": 0.7,
    "glasses": "sunglasses",
    "beard": 0.75,
    "hat": "hat",
}
TARGETS = size(TARGETS, {"smile": 0.7})
SLIDES = ("smile",)  # continuous attributes, for the question whether a way slides
STRENGTHS = fewer((-1.0, -0.75, -0.5, -0.25, 0.25, 0.5, 0.75, 1.0), 2)
CACHE = ROOT / "bench/.cache"
MORE_STEPS = size(40, 8)  # of a run that takes as long as one with the prediction held in STEPS
FLUXSPACE_STRENGTHS = (1.0, 2.0)
SCHEDULERS = {"portrait": "normal", "portrait-dit": "simple"}

# AVI as the paper has it: all four terms of the loss, both runs from the same noise, the target's code further denoised, no residual.
ALL_TERMS = {"target_weight": 1.0, "source_weight": 0.25, "target_values_weight": 0.1, "source_values_weight": 0.1}
PAPERS = ALL_TERMS | {"branch": 0.0, "ahead": size(0.1, 0.0), "residual": False}  # the smallest run has no step so late


def seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


class Bench(Stage):
    """The ways on one instrument, on a chunk of seeds at a time.

    count: how many seeds a chunk has. shares: whether the run without an edit is made once for all edits of a chunk that need it, which
    changes no picture.
    """

    def __init__(self, instrument: str, shares: bool = True):
        from comfy.samplers import sampler_object

        super().__init__(TARGETS, instrument)
        self.instrument, self.euler, self.count, self.shares = instrument, sampler_object("euler"), CHUNK, shares
        self.steps = STEPS
        self.sigmas = self.schedule()
        self.levels = self.model.get_model_object("model_sampling")

    def schedule(self, denoise: float = 1.0) -> Tensor:
        from comfy_extras.nodes_custom_sampler import BasicScheduler

        return BasicScheduler.execute(self.model, SCHEDULERS[self.instrument], self.steps, denoise).args[0]

    def take(self, steps: int, count: int) -> None:
        """Draw chunks of so many seeds in so many steps from now on."""
        self.count = count
        if steps != self.steps:
            self.steps = steps
            self.sigmas = self.schedule()

    def draw(
        self,
        first: int,
        *,
        model: Any = None,
        sampler: Any = None,
        prompt: str = SOURCE,
        positive: list | None = None,
        latent: Tensor | None = None,
        denoise: float = 1.0,
    ) -> Tensor:
        """Latents of a chunk of seeds; positive: conditioning in place of a prompt's."""
        import comfy.samplers

        noise = self.noise(self.count, first)
        guider = comfy.samplers.CFGGuider(model or self.model)
        guider.set_conds(positive or self.encode(prompt), self.encode(""))
        guider.set_cfg(CFG)
        start = torch.zeros_like(noise) if latent is None else latent
        return guider.sample(noise, start, sampler or self.euler, self.schedule(denoise), disable_pbar=True, seed=0)

    def beside_plain(self, first: int, work: Callable[[], object]) -> tuple[float, float]:
        """The time of work over that of a chunk drawn plainly, and the seconds of that: medians of three, each between two plain ones."""

        def plain() -> float:
            return seconds(lambda: self.draw(first))

        rounds = [(plain(), seconds(work), plain()) for _ in range(size(3, 1))]
        ratio, plainly = np.median([(2 * at / (before + after), (before + after) / 2) for before, at, after in rounds], axis=0)
        return float(ratio), float(plainly)

    def run(self, first: int, prompt: str = SOURCE) -> tuple[list[Tensor], Tensor]:
        """The running latents before each step of a prompt's run, and its last ones."""
        return self._run(first, prompt, self.steps)

    @lru_cache(maxsize=2 * (len(TARGETS) + 1))  # noqa: B019 (a bench's object lives as long as the process)
    def _run(self, first: int, prompt: str, steps: int) -> tuple[list[Tensor], Tensor]:
        from comfy.k_diffusion.sampling import sample_euler
        from comfy.samplers import KSAMPLER

        latents: list[Tensor] = []

        def sampler(model, x, sigmas, **options):
            return sample_euler(model, x, sigmas, **options | {"callback": lambda moment: latents.append(moment["x"].clone())})

        return latents, self.draw(first, sampler=KSAMPLER(sampler), prompt=prompt)

    def drawn_on(self, latent: Tensor, step: int, prompt: str, first: int) -> Tensor:
        """Latents at the end of a run from running ones at a step."""
        from comfy.k_diffusion.sampling import sample_euler
        from comfy.samplers import KSAMPLER

        return self.draw(
            first,
            sampler=KSAMPLER(lambda model, x, sigmas, **options: sample_euler(model, latent, sigmas[step:], **options)),
            prompt=prompt,
        )

    def base(self, first: int) -> Tensor:
        return self.run(first)[1]

    def model_for(self, first: int) -> Any:
        """The model for an edit that needs the run without it, on the chunk of seeds from first up."""
        return self._sharing(first, self.count) if self.shares else self.model

    @lru_cache(maxsize=1)  # noqa: B019 (a bench's object lives as long as the process)
    def _sharing(self, first: int, count: int) -> Any:
        from pack.host.unedited import UneditedRun, sharing

        return sharing(self.model, UneditedRun())

    @cache  # noqa: B019 (a bench's object lives as long as the process)
    def attribute(self, name: str, papers: bool = False):
        """Learned as Train Attribute starts, or in the paper's form."""
        form = dict(solver="MLP", steps=size(200, 2), **PAPERS) if papers else {}
        return self.learn_attribute(name, self.sigmas, cfg=CFG, seed=LEARNED_ON, seeds=size(8 if papers else 16, 1), **form)

    @cache  # noqa: B019 (a bench's object lives as long as the process)
    def calibrated(self, name: str, spread: bool):
        """Make Slider for an attribute, as it starts but for the spread, with the unit that Calibrate Slider gives it."""
        from pack.nodes.calibration import CalibrateSlider
        from pack.nodes.sliders import MakeSlider

        slider = MakeSlider.execute(self.model, self.clip, 1.0, SOURCE, self.prompt(name), spread=spread).args[1]
        prompts = self.encode(SOURCE), self.encode("")
        run = size(3, 2), STEPS, CFG, "euler", SCHEDULERS[self.instrument]
        return CalibrateSlider.execute(self.model, slider, *prompts, {"samples": self.empty()}, self.vae, LEARNED_ON, *run).args[0]

    def step_at(self, percent: float) -> int:
        level = self.levels.percent_to_sigma(percent)
        return next(i for i, sigma in enumerate(self.sigmas.tolist()) if sigma <= level)


# Ways: each draws the pictures of a chunk of seeds from first up, for an attribute, at a setting.


def avi(paired: bool = True, papers: bool = False) -> Callable[..., Tensor]:
    def way(bench: Bench, name: str, strength: float, first: int) -> Tensor:
        from pack.nodes.avi import ApplyAttribute

        target = bench.encode(bench.prompt(name)) if paired else None
        return bench.draw(first, sampler=ApplyAttribute.execute(bench.euler, bench.attribute(name, papers), strength, 0.0, target).args[0])

    return way


def contrast(
    place: str, focus: float = 0.0, start: float = 0.3, end: float = 1.0, hold: bool = False, spreads: bool = False
) -> Callable[..., Tensor]:
    """The contrast of the two prompts, live, in a part of the run; hold: the rest stays that of the unedited run; spreads: the focus takes
    in what is joined to it."""

    def way(bench: Bench, name: str, strength: float, first: int) -> Tensor:
        from pack.core.hspace.injection import Window
        from pack.host.contrasts import Contrast, with_contrast

        edit = Contrast(
            bench.encode(bench.prompt(name)), bench.encode(SOURCE), place, strength, Window(start, end), None, focus, hold, spreads
        )
        return bench.draw(first, model=with_contrast(bench.model_for(first) if hold else bench.model, edit))

    return way


def calibrated_slider(spread: bool = False) -> Callable[..., Tensor]:
    def way(bench: Bench, name: str, strength: float, first: int) -> Tensor:
        return bench.draw(first, model=bench.calibrated(name, spread).on(bench.model_for(first), strength, None))

    return way


def fluxspace(start: float = 0.3) -> Callable[..., Tensor]:
    def way(bench: Bench, name: str, strength: float, first: int) -> Tensor:
        acting = joint.Orthogonal(range(joint.blocks_of(bench)), strength, start)
        parts = bench.noise(bench.count, first).split(4)  # all four prompts of a part have to fit into one call
        return torch.cat([joint.draw(bench, acting, name, SOURCE, CFG, noise) for noise in parts])

    return way


def target_prompt(bench: Bench, name: str, _: float, first: int) -> Tensor:
    return bench.run(first, bench.prompt(name))[1]


def prompt_switched(bench: Bench, name: str, percent: float, first: int) -> Tensor:
    step = bench.step_at(percent)
    return bench.drawn_on(bench.run(first)[0][step], step, bench.prompt(name), first)


def conditioning_moved(bench: Bench, name: str, weight: float, first: int) -> Tensor:
    """Core's ConditioningAverage of the two prompts, past 1 too, from 0.3 of the run on by ConditioningSetTimestepRange."""
    from nodes import ConditioningAverage, ConditioningSetTimestepRange

    source, target = bench.encode(SOURCE), bench.encode(bench.prompt(name))
    (moved,) = ConditioningAverage().addWeighted(target, source, weight)
    early, late = (
        ConditioningSetTimestepRange().set_range(part, *window)[0] for part, window in ((source, (0.0, 0.3)), (moved, (0.3, 1.0)))
    )
    return bench.draw(first, positive=early + late)


def image_to_image(bench: Bench, name: str, denoise: float, first: int) -> Tensor:
    return bench.draw(first, prompt=bench.prompt(name), latent=bench.base(first), denoise=denoise)


@dataclass(frozen=True)
class Way:
    """A way, the settings that it is drawn at, and what they are called.

    dial: the setting that stands for strength 1 where the question is whether a way slides, negative ones being its other side;
    None where it has no such side. Without settings that is all that is asked of it. only: the instrument that it needs, if one.
    steps: of its run, and of the unedited one that it is compared with.
    """

    draw: Callable[[Bench, str, float, int], Tensor]
    what: str = ""
    settings: tuple[float, ...] = (1.0,)
    dial: float | None = None
    only: str = ""
    steps: int = STEPS

    @property
    def base(self) -> str:
        """What the run without an edit is called, that its pictures are compared with."""
        return "base" if self.steps == STEPS else f"base in {self.steps} steps"


WAYS: dict[str, Way] = {
    "prediction contrast, rest held": Way(contrast("prediction", 0.6, 0.1, hold=True), "strength", fewer((0.25, 0.5, 0.75, 1.0)), dial=1.0),
    "prediction contrast, rest held, calibrated": Way(calibrated_slider(), "strength", (), dial=1.0),
    "prediction contrast, rest held, spread": Way(
        contrast("prediction", 0.6, 0.1, hold=True, spreads=True), "strength", fewer((0.125, 0.25, 0.5, 1.0)), dial=1.0
    ),
    "prediction contrast, rest held, spread, calibrated": Way(calibrated_slider(spread=True), "strength", (), dial=1.0),
    "prediction contrast, focused": Way(contrast("prediction", 0.7), "strength", fewer((0.25, 0.5, 1.0, 2.0)), dial=1.0),
    "prediction contrast": Way(contrast("prediction"), "strength", fewer((0.25, 0.5))),
    "cross-attention contrast": Way(contrast("cross-attention"), "strength", fewer((1.0, 1.5)), dial=1.5, only="portrait"),
    "FluxSpace's formula": Way(fluxspace(), "strength", fewer(FLUXSPACE_STRENGTHS), dial=1.0, only="portrait-dit"),
    "AVI, stored": Way(avi(paired=False), "strength", fewer((1.0, 2.0, 3.0)), dial=2.0),
    "AVI, paired": Way(avi(), "strength", fewer((0.75, 1.0))),
    "AVI, the paper's form": Way(avi(papers=True), "strength", fewer((1.0, 1.5))),
    "the target prompt": Way(target_prompt),
    "the prompt switched": Way(prompt_switched, "part of the run", fewer((0.45, 0.35, 0.25))),
    "the prompt switched, more steps": Way(prompt_switched, "part of the run", fewer((0.4, 0.25)), steps=MORE_STEPS),
    "the conditioning moved": Way(conditioning_moved, "weight", fewer((0.6, 0.85)), dial=1.0),
    "image-to-image": Way(image_to_image, "denoise", fewer((0.5, 0.7))),
}


def ways_of(instrument: str) -> dict[str, Way]:
    """The ways that an instrument has."""
    return {name: way for name, way in WAYS.items() if way.only in ("", instrument)}
