"""Runs of a model: their noise levels, their latents, and a guider that draws them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import comfy.model_management
import comfy.sample
import comfy.samplers
import comfy.utils
import torch
from comfy.model_patcher import ModelPatcher
from comfy.samplers import KSAMPLER, CFGGuider
from torch import Tensor

from .families import guidance, unet_of
from .progress import Bar
from .samplers import SamplerFunction, sampler_of, with_function
from .seeds import noise_of, seeds_from
from .types import Conditioning, Latent, Noise, Sampler

# Told by Empty Latent Image and its like: how many pixels, or frames, its cells stand for.
RATIOS = ("downscale_ratio_spacial", "downscale_ratio_temporal")


def fitted(model: ModelPatcher, latent: Latent) -> Latent:
    """The LATENT for a model: an empty one has the model's channels and resolution, another one is as it came."""
    told = {name: latent[name] for name in RATIOS if name in latent}
    rest = {name: value for name, value in latent.items() if name not in RATIOS}
    return {**rest, "samples": comfy.sample.fix_empty_latent_channels(model, latent["samples"], **told)}


def empty_latent(model: ModelPatcher, latent: Latent) -> Tensor:
    """One latent (1, c, ..., h, w) of the LATENT's size, empty, in the model's own format."""
    return fitted(model, {**latent, "samples": torch.zeros_like(latent["samples"][:1])})["samples"]


def checked_latent(model: ModelPatcher, latent: Latent) -> Tensor:
    """The empty latent (1, c, h, w) for a model with an h-space; ValueError for another."""
    unet_of(model)
    return empty_latent(model, latent)


def schedule(model: ModelPatcher, steps: int) -> Tensor:
    """Noise levels (steps + 1,) at equal time steps, the host's scheduler `normal`."""
    return comfy.samplers.calculate_sigmas(model.get_model_object("model_sampling"), "normal", steps)


def euler() -> KSAMPLER:
    """The sampler of the pack's own runs."""
    return comfy.samplers.sampler_object("euler")


def guided(model: ModelPatcher, prompts: dict[str, Conditioning], cfg: float = 1.0) -> CFGGuider:
    """The host's guidance. prompts: CONDITIONING by role, "positive" and others."""
    guider = CFGGuider(model)
    guider.inner_set_conds(prompts)
    guider.set_cfg(guidance(model, cfg))
    return guider


def run(
    guider: CFGGuider,
    noise: Tensor,
    sampler: KSAMPLER | SamplerFunction,
    sigmas: Tensor,
    *,
    latent: Tensor | None = None,
    callback: Callable[..., None] | None = None,
    seed: int | None = None,
) -> Tensor:
    """The latents (b, ...) that a guider's run ends at, without a progress bar of its own.

    noise: (b, ...) of unit variance. latent: (b or 1, ...), what the run starts from beside it; an empty one if None.
    """
    start = torch.zeros_like(noise) if latent is None else latent.expand_as(noise)
    whole = sampler if isinstance(sampler, KSAMPLER) else sampler_of(sampler)
    return guider.sample(noise, start, whole, sigmas, callback=callback, disable_pbar=True, seed=seed)


def run_as_wired(
    noise: Noise, guider: CFGGuider, sampler: Sampler, sigmas: Tensor, latent: Latent, callback: Callable[..., None] | None = None
) -> Latent:
    """The LATENT of a run as core's SamplerCustomAdvanced makes it of the same inputs."""
    given = fitted(guider.model_patcher, latent)
    result = guider.sample(
        noise.generate_noise(given),
        given["samples"],
        sampler,
        sigmas,
        denoise_mask=latent.get("noise_mask"),
        callback=callback,
        disable_pbar=not comfy.utils.PROGRESS_BAR_ENABLED,
        seed=noise.seed,
    )
    return {**given, "samples": result.to(comfy.model_management.intermediate_device())}


@dataclass(eq=False)
class PreviewedRuns:
    """Runs from one empty latent (1, ...) that differ in sampler function and seed. The preview shows each beside those before it."""

    guider: CFGGuider
    sampler: KSAMPLER
    sigmas: Tensor
    latent: Tensor
    bar: Bar
    finished: list[Tensor] = field(default_factory=list)
    running: list[Tensor] = field(default_factory=list)

    def draw(self, function: SamplerFunction, seed: int) -> Tensor:
        """The latents of a run by a sampler function, in the place of the sampler's own."""
        sampler, noise = with_function(self.sampler, function), noise_of(self.latent, [seed])
        latents = run(self.guider, noise, sampler, self.sigmas, latent=self.latent, callback=self._show, seed=seed)
        self.finished, self.running = [*self.finished, *self.running], []
        return latents

    def _show(self, step: int, denoised: Tensor, x: Tensor, total: int) -> None:
        self.running = [denoised]
        self.bar.tick(torch.cat([*self.finished, denoised]))


def noise_for(model: ModelPatcher, latent: Latent, count: int, seed: int) -> Tensor:
    """The noise (count, c, h, w) of pictures that the model draws."""
    return noise_of(checked_latent(model, latent), seeds_from(seed, count))


def check_set(pictures: Tensor) -> None:
    """Raise ValueError for a training set of one picture."""
    if len(pictures) < 2:
        raise ValueError(
            "pictures, images: a direction trained on one picture fits that one alone; give two at the least, 20 or more if you can."
        )
