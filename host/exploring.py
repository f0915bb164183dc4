"""One latent of a run in variants: each has one singular value changed, and is finished from its step (Wang et al. 2025, figure 3)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from comfy.model_patcher import ModelPatcher
from torch import Tensor

from ..core.sampling.recording import recorded
from ..core.sampling.steering import Callback, Denoiser
from ..core.sampling.steps import first_step_from, is_descending
from ..core.svd.decomposition import variants
from .denoisers import levels_of, patcher_of
from .progress import Bar, interruptible
from .samplers import AroundSampler, SamplerFunction, draws_noise, traits_of


@dataclass(frozen=True, eq=False)
class Explorer(AroundSampler):
    """A sampler function that finishes a run once for each variant of its latent at a step: all from that step, not from noise."""

    inner: SamplerFunction
    triplets: list[int]
    gains: list[float]
    percent: float
    batch: int

    makes_runs = True

    def __call__(
        self,
        model: Denoiser,
        x: Tensor,
        sigmas: Tensor,
        extra_args: dict[str, Any] | None = None,
        callback: Callback | None = None,
        disable: bool | None = None,
        **options: Any,
    ) -> Tensor:
        run = dict(extra_args=extra_args, disable=True, **options)
        step, count = self._step(model, sigmas), len(self.triplets) * len(self.gains)
        size = 1 if draws_noise(self.inner) else self.batch or fitting(patcher_of(model), x, count)
        bar = Bar(step + -(-count // size) * (len(sigmas) - 1 - step), patcher_of(model))
        look = interruptible(bar.tick)
        moment = recorded(self.inner, model, x, sigmas, steps=(step,), callback=look, traits=traits_of(self.inner), **run)[step]
        latents = variants(moment.x, self.triplets, self.gains)
        shown = torch.cat([moment.denoised] * count)  # what the model foresees of each, as far as it is drawn
        finished = []
        for chunk, cells in zip(latents.split(size), shown.split(size)):

            def on_step(denoised: Tensor, cells: Tensor = cells) -> None:
                cells.copy_(denoised)
                bar.tick(shown, len(self.triplets))

            finished.append(self.inner(model, chunk.clone(), sigmas[step:], callback=interruptible(on_step), **run))
        return torch.cat(finished)

    def _step(self, model: Denoiser, sigmas: Tensor) -> int:
        """The step at which the variants are made; ValueError for a run without it."""
        if not is_descending(sigmas.tolist()):
            raise ValueError("sigmas: they go up (FlipSigmas makes them so); singular vectors are explored in a run that goes down.")
        step = first_step_from(sigmas.tolist(), levels_of(model).percent_to_sigma(self.percent))
        if step is None:
            raise ValueError(f"percent: this run ends before {self.percent:g} of the schedule; lower percent, or sample down to 0.")
        return step


def fitting(model: ModelPatcher, latent: Tensor, count: int) -> int:
    """How many latents of a size, count at the most, the host expects to fit into memory at once, both halves of the guidance together."""
    free = model.get_free_memory(model.load_device)
    while count > 1 and model.memory_required([2 * count, *latent.shape[1:]]) > free:
        count = (count + 1) // 2
    return count
