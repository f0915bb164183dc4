"""Runs of a model in which h is looked at: under one prompt, or under two at the same running latent."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import comfy.samplers
import torch
from comfy.model_patcher import ModelPatcher
from torch import Tensor

from .compiled import seen_by_patches
from .families import guidance
from .model_calls import check_undivided, told, undivided
from .options import PROBING
from .other_patches import options_of, step_skipped
from .progress import Bar
from .runs import euler, run, schedule
from .seeds import noise_of, seeds_from
from .types import Conditioning
from .unedited import in_one_pass

SOURCE, NEGATIVE, TARGET = 0, 1, 2  # places in a model call's cond_or_uncond; the host's own for the first two
NOT_IN_FORCE = (
    "{}: it is not in force at every step, and there is nothing to learn from at the others. Connect a prompt without a range of steps."
)


def check_whole(**prompts: Conditioning | None) -> None:
    """Raise ValueError for a prompt that is meant for a part of the picture: its h has another size. None passes."""
    for name, prompt in prompts.items():
        if any("area" in extras or extras.get("set_area_to_bounds") for _, extras in prompt or []):
            raise ValueError(
                f"{name}: it covers an area of the picture only. Connect a prompt for the whole picture, or one with a mask "
                "whose area is default."
            )


def same_size(size: torch.Size | None, h: Tensor) -> torch.Size:
    """The size (c, h, w) of h: (b, c, h, w); ValueError if another one was seen before."""
    if size not in (None, h.shape[1:]):
        raise ValueError("model: h changes its size during the run (deep shrink does so). Connect the model without that patch here.")
    return h.shape[1:]


class Watch:
    """A patch of the middle block that keeps h of each prompt of the last model call, called by names in errors.

    Raises ValueError at a call on a part of the latents.
    """

    def __init__(self, names: dict[int, str]) -> None:
        self.parts: dict[int, list[Tensor]] = {}
        self.names = names
        self.size: torch.Size | None = None

    def __call__(self, args: dict[str, Any]) -> dict[str, Tensor]:
        options, entries = args["transformer_options"], args["transformer_options"]["cond_or_uncond"]
        if self.names and not options.get(PROBING):
            check_undivided(args["x"], options)
            for index, part in zip(entries, args["h"].chunk(len(entries))):
                self.parts.setdefault(index, []).append(part.float())
        return {"h": args["h"]}

    def take(self, model_options: dict[str, Any] = {}) -> dict[int, Tensor]:
        """h (b, c, h, w) by place, the mean where a prompt has several parts; forgets them.

        Raises ValueError if a prompt has none at this step, or if the size of h changes. model_options: to say why there is none.
        """
        found, self.parts = self.parts, {}
        if not self.names:
            return {}
        if not found:
            raise step_skipped(model_options)
        for place, name in self.names.items():
            if place not in found:
                raise ValueError(NOT_IN_FORCE.format(name))
        self.size = same_size(self.size, next(iter(found.values()))[0])
        return {place: torch.stack(parts).mean(0) for place, parts in found.items()}


class WatchedGuider(comfy.samplers.CFGGuider):
    """The host's guidance, with a further prompt evaluated at each step for its h alone.

    Further calls by patches of the guidance are not looked at, nor are those of a run aside, which an attribute on the model makes.
    """

    aside = False

    def __init__(
        self,
        model: ModelPatcher,
        prompts: dict[str, Conditioning],
        cfg: float,
        on_step: Callable[[dict[int, Tensor], float], None],
        *,
        looked_at: bool = True,
    ) -> None:
        cfg = guidance(model, cfg)
        names = {NEGATIVE: "negative", TARGET: "target", SOURCE: "source" if "target" in prompts else "positive"}
        places = (SOURCE, *([TARGET] if "target" in prompts else []), *([NEGATIVE] if cfg != 1.0 else [])) if looked_at else ()
        self.watch = Watch({place: names[place] for place in places})
        self.on_step = on_step
        watched = in_one_pass(seen_by_patches(model))
        watched.set_model_middle_block_after_patch(self.watch)
        super().__init__(watched)
        self.inner_set_conds(prompts)
        self.set_cfg(cfg)

    def predict_noise(self, x: Tensor, timestep: Tensor, model_options: dict[str, Any] = {}, seed: int | None = None) -> Tensor:
        model_options = undivided(model_options, x)
        if self.aside:
            return super().predict_noise(x, timestep, told(model_options, {PROBING: True}), seed)

        def look(args: dict[str, Any]) -> list[Tensor]:
            prompts = [*args["conds"], *([self.conds["target"]] if "target" in self.conds else [])]
            found = comfy.samplers.calc_cond_batch(self.inner_model, prompts, x, timestep, model_options)
            self.on_step(self.watch.take(self.model_options), float(timestep.flatten()[0]))
            return found[:2]

        return super().predict_noise(x, timestep, {**told(model_options, {PROBING: True}), "sampler_calc_cond_batch_function": look}, seed)


def watched_runs(
    model: ModelPatcher,
    prompts: dict[str, Conditioning],
    cfg: float,
    latent: Tensor,
    *,
    steps: int,
    seed: int,
    count: int,
    batch: int,
    looked_at: bool = True,
) -> Iterator[tuple[float, dict[int, Tensor]]]:
    """Yields, for each step of each run, the noise level and h (b, c, h, w) by the prompt's place; without h unless looked_at.

    Draws count pictures from the seeds seed, seed + 1 and so on, batch of them at a time. Raises ValueError if a step does not
    reach the middle block.
    """
    sigmas, bar, seeds = schedule(model, steps), Bar(steps * -(-count // batch)), seeds_from(seed, count)
    for chunk in [seeds[i : i + batch] for i in range(0, count, batch)]:
        seen: list[tuple[float, dict[int, Tensor]]] = []

        def on_step(parts: dict[int, Tensor], sigma: float, seen: list[tuple[float, dict[int, Tensor]]] = seen) -> None:
            seen.append((sigma, {index: part.cpu() for index, part in parts.items()}))
            bar.tick()

        noise = noise_of(latent, chunk)
        guider = WatchedGuider(model, prompts, cfg, on_step, looked_at=looked_at)
        run(guider, noise, euler(), sigmas, latent=latent, seed=chunk[0])
        if looked_at and len(seen) != steps:
            raise step_skipped(options_of(model))
        yield from seen
