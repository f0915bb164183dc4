"""Strips of pictures: a slider at one strength after the other, each picture drawn as KSampler draws it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import comfy.samplers
import torch
from comfy.model_patcher import ModelPatcher
from comfy.samplers import KSAMPLER
from torch import Tensor

from .exploring import fitting
from .progress import Bar
from .runs import fitted, guided, run_as_wired
from .samplers import chooses_steps, draws_noise, inner_function
from .seeds import noise_of
from .sliders import Slider, adds_contrasts_alone
from .types import VAE, Conditioning, Latent
from .unedited import UneditedRun, sharing

SAMPLERS: list[str] = comfy.samplers.KSampler.SAMPLERS
SCHEDULERS: list[str] = comfy.samplers.KSampler.SCHEDULERS


@dataclass(frozen=True, eq=False)
class Settings:
    """What KSampler is given beside model, positive prompt and seed."""

    negative: Conditioning
    latent: Latent
    steps: int
    cfg: float
    sampler_name: str
    scheduler: str
    denoise: float

    def sampler(self) -> KSAMPLER:
        return comfy.samplers.sampler_object(self.sampler_name)

    def sigmas(self, model: ModelPatcher) -> Tensor:
        """Noise levels (steps + 1,), or none at denoise 0."""
        device, names = model.load_device, {"sampler": self.sampler_name, "scheduler": self.scheduler}
        return comfy.samplers.KSampler(model, self.steps, device, **names, denoise=self.denoise).sigmas

    def joins_seeds(self) -> bool:
        """Whether seeds drawn in one batch are, up to rounding, what each is by itself: one latent a seed, and no random numbers but its
        noise."""
        function = inner_function(self.sampler())
        alone = draws_noise(function) or chooses_steps(function) or "noise_mask" in self.latent
        return len(self.latent["samples"]) == 1 and not alone


@dataclass(frozen=True, eq=False)
class Rows:
    """Rows of a strip, one for each of their seeds, that differ in nothing else."""

    model: ModelPatcher
    positive: Conditioning
    seeds: list[int]


@dataclass(frozen=True, eq=False)
class Run:
    """One run of a strip: the pictures of a column, from one row down, one a seed."""

    model: ModelPatcher
    positive: Conditioning
    seeds: list[int]
    row: int
    column: int


class SeededNoise:
    """A NOISE of a batch of several seeds: for each what KSampler draws from it."""

    def __init__(self, seeds: list[int]) -> None:
        self.seeds, self.seed = seeds, seeds[0]

    def generate_noise(self, input_latent: Latent) -> Tensor:
        """Noise (seeds b, c, ..., h, w)."""
        samples = input_latent["samples"]
        return noise_of(samples[: len(samples) // len(self.seeds)], self.seeds, input_latent.get("batch_index"))


def planned(slider: Slider, strengths: Sequence[float], rows: Sequence[Rows], settings: Settings, batch_size: int) -> list[Run]:
    """The runs of a strip. batch_size: how many seeds are drawn at once at the most, 0 for as many as the host expects to fit.

    Raises ValueError for a slider that does not fit the model.
    """
    runs: list[Run] = []
    first = 0
    for group in rows:
        count, size = len(group.seeds), 1
        if settings.joins_seeds() and batch_size != 1:
            size = batch_size or fitting(group.model, fitted(group.model, settings.latent)["samples"], count)
        for i in range(0, count, size):
            model = sharing(group.model, UneditedRun()) if adds_contrasts_alone(slider) else group.model
            runs += [
                Run(slider.on(model, strength), group.positive, group.seeds[i : i + size], first + i, column)
                for column, strength in enumerate(strengths)
            ]
        first += count
    return runs


class Strip:
    """The runs of a strip of so many columns, drawn under one progress bar, whose preview shows all pictures as far as they are."""

    def __init__(self, runs: list[Run], settings: Settings, columns: int) -> None:
        self.runs, self.settings, self.columns = runs, settings, columns
        self.cells, self.batch = sum(len(run.seeds) for run in runs), len(settings.latent["samples"])
        self.sigmas = settings.sigmas(runs[0].model)
        self.bar = Bar(len(runs) * max(0, len(self.sigmas) - 1) + self.cells, runs[0].model)  # and a tick to decode each
        self.shown: Tensor | None = None

    def drawn(self) -> list[Tensor]:
        """The latents (b, c, ..., h, w) of every cell, row by row."""
        found: dict[int, Tensor] = {}
        while self.runs:  # a run is forgotten when it is drawn, with what its model keeps
            found.update(self._draw(self.runs.pop(0)))
        return [found[place] for place in range(self.cells)]

    def pictures(self, vae: VAE) -> Tensor:
        """The pictures (n, h, w, c) of all cells, row by row; of a video its first frame."""
        found = []
        for latent in self.drawn():
            whole = vae.decode(latent)
            found.append(whole[:, 0] if whole.ndim == 5 else whole)
            self.bar.tick()
        return torch.stack(found).unflatten(0, (-1, self.columns)).transpose(1, 2).flatten(0, 2)  # (r k) b h w c -> (r b k) h w c

    def _draw(self, run: Run) -> Iterator[tuple[int, Tensor]]:
        """The cells that a run draws, with their places."""
        cells = [(run.row + i) * self.columns + run.column for i in range(len(run.seeds))]
        tiles = [((run.row + i) * self.batch + j) * self.columns + run.column for i in range(len(run.seeds)) for j in range(self.batch)]

        def on_step(step: int, denoised: Tensor, x: Tensor, total: int) -> None:
            if self.shown is None:
                self.shown = denoised.new_zeros(self.cells * self.batch, *denoised.shape[1:])
            self.shown[tiles] = denoised
            self.bar.tick(self.shown, self.columns)

        settings = self.settings
        guider = guided(run.model, {"positive": run.positive, "negative": settings.negative}, settings.cfg)
        latent = {**settings.latent, "samples": torch.cat([settings.latent["samples"]] * len(run.seeds))}
        drawn = run_as_wired(SeededNoise(run.seeds), guider, settings.sampler(), self.sigmas, latent, on_step)
        yield from zip(cells, drawn["samples"].split(self.batch), strict=True)
