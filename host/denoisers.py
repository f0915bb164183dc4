"""What a sampler function is given in the model's place, by the host or by another pack's sampler around ours."""

from __future__ import annotations

from collections import UserDict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol

import comfy.sampler_helpers
import comfy.samplers
import torch
from comfy.model_patcher import ModelPatcher
from torch import Tensor

from ..core.sampling.steering import Denoiser, WrappedDenoiser
from ..core.sampling.steps import at_or_below
from .families import check_reads_prompts
from .types import CFGGuider, Conditioning

INNER = "inner_model"  # by this name the host's own denoiser holds the guider, and packs' wrappers what they wrap


class NoiseLevels(Protocol):
    """The model's sampling object, as far as it is asked."""

    sigma_max: Tensor

    def percent_to_sigma(self, percent: float) -> float:
        """The noise level at a part of the schedule, 0..1."""

    def noise_scaling(self, sigma: Tensor, noise: Tensor, latent_image: Tensor, max_denoise: bool = False) -> Tensor:
        """The running latent of a picture with noise."""


def found_in(denoiser: Denoiser | None, name: str) -> Any:
    """An attribute of a denoiser, or of what it wraps; None if none of them has it."""
    passed: list[Denoiser] = []
    while denoiser is not None and all(denoiser is not one for one in passed):
        if getattr(denoiser, name, None) is not None:
            return getattr(denoiser, name)
        passed.append(denoiser)
        denoiser = getattr(denoiser, INNER, None)
    return None


def guider_of(denoiser: Denoiser) -> CFGGuider:
    """The guider of the run that a denoiser belongs to; ValueError if a wrapper around it hides it."""
    guider: Any = denoiser
    while guider is not None and not hasattr(guider, "model_patcher"):
        guider = getattr(guider, INNER, None)
    if guider is None:
        raise ValueError(
            f"sampler: a sampler around this one gives it a model ({type(denoiser).__name__}) that does not tell its guider. "
            "Connect that node ahead of this one, so that its sampler comes in here."
        )
    return guider


@contextmanager
def beside_the_run(denoiser: Denoiser) -> Iterator[None]:
    """Tells a guider that looks at its run (`host/watching.py`) that the calls inside are of another run, for an edit of this one."""
    guider: Any = guider_of(denoiser)
    before = getattr(guider, "aside", None)
    if before is None:
        yield
        return
    guider.aside = True
    try:
        yield
    finally:
        guider.aside = before


def patcher_of(denoiser: Denoiser) -> ModelPatcher:
    """The model that a denoiser's run draws with."""
    return guider_of(denoiser).model_patcher


def levels_of(denoiser: Denoiser) -> NoiseLevels:
    """The model's sampling object, which knows its noise levels."""
    return patcher_of(denoiser).get_model_object("model_sampling")


def picture_share(levels: NoiseLevels, sigma: float) -> float:
    """What part of the picture is in the running latent at a noise level: 1, in flow models 1 - sigma.

    levels: the model's sampling object.
    """
    return float(levels.noise_scaling(torch.tensor(sigma), torch.zeros(1), torch.ones(1)))


def percent_of(model_sampling: NoiseLevels, sigma: float) -> float:
    """The part of the schedule, 0..1, at which a noise level lies: the inverse of the host's percent_to_sigma."""
    low, high = 0.0, 1.0
    for _ in range(20):
        middle = (low + high) / 2
        earlier = not at_or_below(model_sampling.percent_to_sigma(middle), sigma)
        low, high = (middle, high) if earlier else (low, middle)
    return round(high, 4)


class Prompts(UserDict[str, list[dict[str, Any]]]):
    """A run's prepared prompts, which remember whether they were read."""

    read = False

    def __getitem__(self, name: str) -> list[dict[str, Any]]:
        self.read = True
        return super().__getitem__(name)


class PromptedDenoiser(WrappedDenoiser):
    """A denoiser under other prompts: the guider at its end holds them while it is called, whatever stands in between."""

    def __init__(self, denoiser: Denoiser, guider: CFGGuider, prompts: Prompts) -> None:
        super().__init__(denoiser)
        self._guider, self._prompts = guider, prompts

    def __call__(self, x: Tensor, sigma: Tensor, **options: Any) -> Tensor:
        own, self._guider.conds = self._guider.conds, self._prompts
        try:
            denoised = self._denoiser(x, sigma, **options)
        finally:
            self._guider.conds = own
        if not self._prompts.read:
            raise ValueError(
                "sampler: a sampler around this one draws with another guider than it tells, so that no target prompt can be drawn in it. "
                "Connect that node ahead of this one, or leave target empty."
            )
        return denoised


def under_prompt(model: Denoiser, target: Conditioning, x: Tensor, denoise_mask: Tensor | None) -> Denoiser:
    """The denoiser of a run with another positive prompt; ControlNets of the run's own prompt stay in force.

    Raises ValueError for a guider without a positive prompt, for a target that brings models of its own, and for a model on which prompts
    have no effect.
    """
    if isinstance(model, WrappedDenoiser):
        return model.on(under_prompt(model._denoiser, target, x, denoise_mask))
    guider = guider_of(model)
    check_reads_prompts(guider.model_patcher, "target", "Leave target empty.")
    return PromptedDenoiser(model, guider, prompts_with(guider, target, x, found_in(model, "latent_image"), denoise_mask))


def prompts_with(guider: CFGGuider, target: Conditioning, x: Tensor, latent_image: Tensor | None, denoise_mask: Tensor | None) -> Prompts:
    """A guider's prepared prompts, with another positive one."""
    if "positive" not in getattr(guider, "conds", {}):
        raise ValueError(
            f"target: {type(guider).__name__} has no positive prompt that a target could replace; use CFGGuider or "
            "BasicGuider, or leave target empty."
        )
    own = [name for name in ("control", "gligen", "hooks") for _, extras in target if name in extras]
    if own:
        raise ValueError(
            f"target: it carries {', '.join(own)} of its own; connect the bare prompt, what the positive prompt carries is used for both."
        )
    bare = {"positive": comfy.sampler_helpers.convert_cond(target)}
    processed = comfy.samplers.process_conds(guider.inner_model, x, bare, x.device, latent_image=latent_image, denoise_mask=denoise_mask)
    first = guider.conds["positive"][0]
    shared = {name: first[name] for name in ("control", "control_apply_to_uncond", "gligen") if name in first}
    positive = [{**cond, **shared} for cond in processed["positive"]]
    prompts = {name: list(conds or ()) for name, conds in guider.conds.items()} | {"positive": positive}
    for conds in (conds for name, conds in prompts.items() if name != "positive"):
        match_areas(conds, positive)
        match_areas(positive, conds)
    return Prompts(prompts)


def match_areas(conds: list[dict[str, Any]], others: list[dict[str, Any]]) -> None:
    """Add to a run's prompts a part for each area of the others, as the host does it for those that it prepares together."""
    for other in list(others):
        comfy.samplers.create_cond_with_same_area_if_none(conds, other)
