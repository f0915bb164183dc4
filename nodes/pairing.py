"""Source and target runs of one sampler from one noise: the pair that an attribute is learned and applied with."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import comfy.sampler_helpers
import comfy.samplers
import torch
from comfy.model_patcher import ModelPatcher
from torch import Tensor

from ..core.attribute import LatentKind, Pair, Recipe
from ..core.steering import Moment, SwitchedDenoiser, WrappedDenoiser, recorded
from .feedback import interruptible


def kind_of(model: ModelPatcher) -> LatentKind:
    """The kind of latents that a model works on."""
    latent_format = model.get_model_object("latent_format")
    return LatentKind(type(latent_format).__name__, latent_format.latent_channels)


@dataclass(frozen=True)
class Steps:
    """A recipe's percents as steps of a run: where the source is edited, the target taken, and the runs part."""

    edited: int
    taken: int
    parted: int

    @classmethod
    def of(cls, recipe: Recipe, levels: Any, sigmas: Tensor, *, learned: bool = False) -> Steps:
        """levels: the model's sampling object. Raises ValueError if a percent lies past the run's last step; learned: those of a finished attribute."""
        def first_from(percent: float) -> int:
            level = levels.percent_to_sigma(percent)
            steps = [i for i, sigma in enumerate(sigmas[:-1].tolist()) if sigma <= level]
            if not steps:
                input, advice = ("attribute", "sample further down") if learned else ("percent, ahead", "lower percent or ahead")
                raise ValueError(f"{input}: this run ends before {percent:g} of the whole schedule, so that no step is left there; {advice}.")
            return steps[0]

        edited = first_from(recipe.percent)
        return cls(edited, first_from(recipe.percent + recipe.ahead), min(edited, first_from(recipe.branch)))


def under_prompt(model: Any, target: Any, x: Tensor, denoise_mask: Tensor | None) -> Any:
    """The denoiser of a run with another positive prompt; ControlNets of the run's own prompt stay in force.

    Raises ValueError for a guider without a positive prompt, and for a target that brings models of its own.
    """
    if isinstance(model, WrappedDenoiser):
        return model.on(under_prompt(model.model, target, x, denoise_mask))
    guider = model.inner_model
    if "positive" not in getattr(guider, "conds", {}):
        raise ValueError(f"target: {type(guider).__name__} has no positive prompt that a target could replace; use CFGGuider or BasicGuider, or leave target empty.")
    own = [name for name in ("control", "gligen", "hooks") for _, extras in target if name in extras]
    if own:
        raise ValueError(f"target: it carries {', '.join(own)} of its own; connect the bare prompt, what the positive prompt carries is used for both.")
    other = copy.copy(guider)
    prompts = {"positive": comfy.sampler_helpers.convert_cond(target)}
    processed = comfy.samplers.process_conds(
        guider.inner_model, x, prompts, x.device, latent_image=getattr(model, "latent_image", None), denoise_mask=denoise_mask)
    first = guider.conds["positive"][0]
    shared = {name: first[name] for name in ("control", "control_apply_to_uncond", "gligen") if name in first}
    positive = [{**cond, **shared} for cond in processed["positive"]]
    other.conds = {name: list(conds or ()) for name, conds in guider.conds.items()} | {"positive": positive}
    for conds in (conds for name, conds in other.conds.items() if name != "positive"):
        match_areas(conds, positive)
        match_areas(positive, conds)
    result = copy.copy(model)
    result.inner_model = other
    return result


def match_areas(conds: list[dict[str, Any]], others: list[dict[str, Any]]) -> None:
    """Add to a run's prompts a part for each area of the others, as the host does it for those that it prepares together."""
    for other in list(others):
        comfy.samplers.create_cond_with_same_area_if_none(conds, other)


@contextmanager
def same_randomness(x: Tensor):
    """Leaves the random state as it was, so that a run inside does not change the noise of the run after it."""
    with torch.random.fork_rng(devices=[x.device] if x.device.type == "cuda" else []):
        yield


def target_moments(
    inner: Callable[..., Tensor], model: Any, target: Any, x: Tensor, sigmas: Tensor, *, parted: int, steps: Iterable[int],
    extra_args: dict[str, Any], tick: Callable[[Tensor], None] = lambda denoised: None, **options: Any,
) -> dict[int, Moment]:
    """A sampler's run under the target prompt from the same noise, the source's until step parted, seen at steps."""
    other = under_prompt(model, target, x, extra_args.get("denoise_mask"))
    with same_randomness(x):
        return recorded(inner, SwitchedDenoiser(model, other, sigmas, parted), x, sigmas, steps=steps,
                        extra_args=extra_args, callback=interruptible(tick), disable=True, **options)


def paired(moments: dict[int, Moment], steps: Steps, sigmas: Tensor) -> Pair:
    """The pair for a source edited at its step."""
    return Pair.at(moments[steps.taken], float(sigmas[steps.taken]), float(sigmas[steps.edited]))
