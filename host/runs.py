"""Runs of a model: their noise levels, their latents, and a guider that draws them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import comfy.model_management
import comfy.sample
import comfy.samplers
import comfy.utils
import torch
from comfy.model_patcher import ModelPatcher
from comfy.samplers import KSAMPLER
from torch import Tensor

from .families import unet_of
from .seeds import noise_of, seeds_from

# Told by Empty Latent Image and its like: how many pixels, or frames, its cells stand for.
RATIOS = ("downscale_ratio_spacial", "downscale_ratio_temporal")


def fitted(model: Any, latent: dict[str, Any]) -> dict[str, Any]:
    """The LATENT for a model: an empty one has the model's channels and resolution, another one is as it came."""
    told = {name: latent[name] for name in RATIOS if name in latent}
    rest = {name: value for name, value in latent.items() if name not in RATIOS}
    return {**rest, "samples": comfy.sample.fix_empty_latent_channels(model, latent["samples"], **told)}


def checked_latent(model: ModelPatcher, latent: dict[str, Any]) -> Tensor:
    """One latent (1, c, h, w) of the LATENT's size, empty, in the model's own format."""
    unet_of(model)
    return fitted(model, {**latent, "samples": torch.zeros_like(latent["samples"][:1])})["samples"]


def schedule(model: ModelPatcher, steps: int) -> Tensor:
    """Noise levels (steps + 1,) at equal time steps, the host's scheduler `normal`."""
    return comfy.samplers.calculate_sigmas(model.get_model_object("model_sampling"), "normal", steps)


def guided_run(
    noise: Any, guider: Any, sampler: Any, sigmas: Tensor, latent: dict[str, Any], callback: Callable[..., None] | None = None
) -> dict[str, Any]:
    """The LATENT of a run as core's SamplerCustomAdvanced makes it."""
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


def run(model: Any, positive: Any, samples: Tensor, sigmas: Tensor, function: Any) -> Tensor:
    """The host's guidance at cfg 1 around a sampler function that starts from the latent itself."""
    guider = comfy.samplers.CFGGuider(model)
    guider.inner_set_conds({"positive": positive})
    return guider.sample(torch.zeros_like(samples), samples, KSAMPLER(function), sigmas, disable_pbar=True)


def drawn(model: ModelPatcher, latent: dict[str, Any], count: int, seed: int) -> Tensor:
    """The noise (count, c, h, w) of pictures that the model draws."""
    return noise_of(checked_latent(model, latent), seeds_from(seed, count))


def check_set(pictures: Tensor) -> None:
    """Raise ValueError for a training set of one picture."""
    if len(pictures) < 2:
        raise ValueError(
            "pictures, images: a direction trained on one picture fits that one alone; give two at the least, 20 or more if you can."
        )
