"""Runs of a model in which h is looked at: under one prompt, or under two at the same running latent."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import comfy.sample
import comfy.samplers
import torch
from comfy.model_patcher import ModelPatcher
from torch import Tensor

from .feedback import Bar
from .hspace import unet_of

PROBING = "semantic_latents_probing"  # in the transformer options of calls that are no part of the run itself
SOURCE, NEGATIVE, TARGET = 0, 1, 2  # places in a model call's cond_or_uncond; the host's own for the first two


class Watch:
    """A patch of the middle block that keeps h of each prompt of the last model call."""

    def __init__(self):
        self.parts: dict[int, list[Tensor]] = {}

    def __call__(self, args: dict[str, Any]) -> dict[str, Tensor]:
        options, entries = args["transformer_options"], args["transformer_options"]["cond_or_uncond"]
        for index, part in zip(entries, () if options.get(PROBING) else args["h"].chunk(len(entries))):
            self.parts.setdefault(index, []).append(part.float())
        return {"h": args["h"]}

    def take(self) -> dict[int, Tensor]:
        """h (b, c, h, w) by place, the mean where a prompt has several parts; forgets them."""
        taken = {index: torch.stack(parts).mean(0) for index, parts in self.parts.items()}
        self.parts.clear()
        return taken


class WatchedGuider(comfy.samplers.CFGGuider):
    """The host's guidance, with a further prompt evaluated at each step for its h alone."""

    def __init__(self, model: ModelPatcher, prompts: dict[str, Any], cfg: float, on_step: Callable[[dict[int, Tensor], float], None]):
        self.watch, self.on_step = Watch(), on_step
        watched = model.clone()
        watched.set_model_middle_block_after_patch(self.watch)
        super().__init__(watched)
        self.inner_set_conds(prompts)
        self.set_cfg(cfg)

    def predict_noise(self, x, timestep, model_options={}, seed=None):
        negative = None if self.cfg == 1.0 else self.conds["negative"]
        prompts = [self.conds["positive"], negative, *([self.conds["target"]] if "target" in self.conds else [])]
        self.watch.take()
        positive, unguided, *_ = comfy.samplers.calc_cond_batch(self.inner_model, prompts, x, timestep, model_options)
        self.on_step(self.watch.take(), float(timestep.flatten()[0]))
        return positive if negative is None else unguided + self.cfg * (positive - unguided)


def checked_latent(model: ModelPatcher, latent: dict[str, Any]) -> Tensor:
    """One latent (1, c, h, w) of the LATENT's size, empty, in the model's own format."""
    unet_of(model)
    empty = torch.zeros_like(latent["samples"][:1])
    return comfy.sample.fix_empty_latent_channels(model, empty, latent.get("downscale_ratio_spacial"))


def schedule(model: ModelPatcher, steps: int) -> Tensor:
    """Noise levels (steps + 1,) at equal time steps, the host's scheduler `normal`."""
    return comfy.samplers.calculate_sigmas(model.get_model_object("model_sampling"), "normal", steps)


def watched_runs(
    model: ModelPatcher, prompts: dict[str, Any], cfg: float, latent: Tensor, *, steps: int, seed: int, count: int, batch: int
) -> Iterator[tuple[float, dict[int, Tensor]]]:
    """For each step of each run, the noise level and h by place; count seeds from seed up, batch of them at a time."""
    sigmas, bar = schedule(model, steps), Bar(steps * -(-count // batch))
    for first in range(seed, seed + count, batch):
        seen: list[tuple[float, dict[int, Tensor]]] = []

        def on_step(parts: dict[int, Tensor], sigma: float) -> None:
            seen.append((sigma, {index: part.cpu() for index, part in parts.items()}))
            bar.tick()

        size = min(batch, seed + count - first)
        noise = torch.cat([comfy.sample.prepare_noise(latent, one) for one in range(first, first + size)])
        guider = WatchedGuider(model, prompts, cfg, on_step)
        guider.sample(noise, latent.expand(size, *latent.shape[1:]), comfy.samplers.sampler_object("euler"), sigmas, disable_pbar=True, seed=first)
        yield from seen
