"""Latent operations inside a sampler: SAMPLER to SAMPLER, for any LATENT_OPERATION."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import comfy.utils
from comfy.samplers import KSAMPLER
from comfy_api.latest import io
from torch import Tensor

from ..core.latent import check_latent, masked
from ..core.steering import Edit, check_edited, check_target, sample_steered, steps_in_window
from .denoisers import levels_of
from .feedback import tell_once
from .node import checked
from .types import CATEGORY


class AroundSampler:
    """A sampler function around another, by whose name it is known: the host logs it, and an edit asks what it is in."""

    inner: Callable[..., Tensor]

    @property
    def __name__(self) -> str:
        return getattr(self.inner, "__name__", "sampler")


@dataclass(frozen=True, eq=False)
class EditedSampler(AroundSampler):
    """The sampler function of a KSAMPLER with an edit inside. Frozen: two runs cannot influence each other."""

    inner: Callable[..., Tensor]
    operation: Callable[..., Tensor]
    target: str
    once: bool
    start_percent: float
    end_percent: float
    mask: Tensor | None

    def __call__(self, model, x: Tensor, sigmas: Tensor, extra_args=None, callback=None, disable=None, **options: Any) -> Tensor:
        extra_args = extra_args or {}
        if len(sigmas) <= 1:
            return self.inner(model, x, sigmas, extra_args=extra_args, callback=callback, disable=disable, **options)
        levels = levels_of(model)
        start, end = levels.percent_to_sigma(self.start_percent), levels.percent_to_sigma(self.end_percent)
        steps = steps_in_window(sigmas, start, end, once=self.once)
        if not steps:
            window = f"{self.start_percent:g} to {self.end_percent:g}"
            tell_once(self, f"start_percent, end_percent: a run lies outside of {window}, so Edit During Sampling does not act in it.")
        masks_over(x, self.mask, None)  # a mask that does not fit is refused before anything is drawn
        return sample_steered(
            self.inner,
            model,
            x,
            sigmas,
            edit=self._edit(extra_args.get("denoise_mask")),
            target=self.target,
            steps=steps,
            known=is_the_host_s(self.inner),
            extra_args=extra_args,
            callback=callback,
            disable=disable,
            **options,
        )

    def _edit(self, inpainted: Tensor | None) -> Edit:
        """The operation under the mask, and inside the region that an inpainting run repaints."""
        return lambda x, step: under_masks(x, check_edited(x, self.operation(latent=x)), masks_over(x, self.mask, inpainted))


def masks_over(like: Tensor, mask: Tensor | None, inpainted: Tensor | None) -> list[Tensor]:
    """The masks of an edit of latents (b, ...): the node's own, resized, and the region that an inpainting run repaints."""
    if mask is not None:
        check_latent(like)
        if mask.shape[0] not in (1, like.shape[0]):
            raise ValueError(f"mask: got a batch of {mask.shape[0]} for {like.shape[0]} latents; connect one mask, or one for each.")
        mask = comfy.utils.reshape_mask(mask, like.shape).to(like.device)
    return [one for one in (mask, inpainted) if one is not None]


def under_masks(x: Tensor, edited: Tensor, masks: list[Tensor]) -> Tensor:
    """The edit inside all masks, x outside."""
    for mask in masks:
        edited = masked(x, edited, mask)
    return edited


def is_the_host_s(function: Callable[..., Tensor]) -> bool:
    """Whether a sampler function, or the one inside of ours, is ComfyUI's own: how those evaluate the model is known by their names."""
    while isinstance(function, AroundSampler):
        function = function.inner
    return getattr(function, "__module__", "").startswith("comfy.")


def inner_function(sampler: Any) -> Callable[..., Tensor]:
    """The function of a SAMPLER, to be wrapped; ValueError for one that is not built on the host's KSAMPLER."""
    if not isinstance(sampler, KSAMPLER):
        raise ValueError(
            f"sampler: {type(sampler).__name__} is not built on the host's KSAMPLER, so nothing can be edited "
            "inside it. Connect KSamplerSelect, or a sampler node of ComfyUI itself."
        )
    return sampler.sampler_function


def with_function(sampler: KSAMPLER, function: Callable[..., Tensor]) -> KSAMPLER:
    """The same SAMPLER with another function; what a pack's own kind of KSAMPLER adds stays."""
    changed = copy.copy(sampler)
    changed.sampler_function = function
    return changed


class EditDuringSampling(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="SemanticLatents_EditDuringSampling",
            display_name="Edit During Sampling",
            category=CATEGORY,
            description="Changes the picture while it is being drawn: runs a latent operation inside the sampler, at one "
            "step or over a range, everywhere or under a mask. The seed's composition stays.",
            search_aliases=["latent operation", "svd sampling", "sampler wrapper", "slider", "edit sampler"],
            inputs=[
                io.Sampler.Input(
                    "sampler",
                    tooltip="The sampler to edit inside of, from KSamplerSelect or another sampler node; several edits can be chained.",
                ),
                io.LatentOperation.Input(
                    "operation", tooltip="What to do to the latent: Spectrum Operation, or any other latent operation."
                ),
                io.Combo.Input(
                    "target",
                    options=["x0", "x_t"],
                    default="x0",
                    tooltip="What is edited. x0: the finished picture that the model foresees at a step; gentle, works with "
                    "every sampler. x_t: the noisy latent itself, as in the paper; the later steps can repair it.",
                ),
                io.Combo.Input(
                    "steps",
                    options=["all in range", "first in range"],
                    default="all in range",
                    tooltip="Edits every step of the range, or only the first of them. Editing all is stronger.",
                ),
                io.Float.Input(
                    "start_percent",
                    default=0.2,
                    min=0.0,
                    max=1.0,
                    step=0.001,
                    tooltip="Where the range starts: 0 is the first step (layout, large shapes), towards 1 only detail is left.",
                ),
                io.Float.Input(
                    "end_percent",
                    default=0.8,
                    min=0.0,
                    max=1.0,
                    step=0.001,
                    tooltip="Where the range ends: 1 is the last step. Leave the last steps free to clean up.",
                ),
                io.Mask.Input(
                    "mask",
                    optional=True,
                    tooltip="Edits only where the mask is white; grey edits in part. It is resized to the latent. "
                    "One mask for all pictures, or one for each.",
                ),
            ],
            outputs=[io.Sampler.Output("sampler", tooltip="For SamplerCustom and SamplerCustomAdvanced, or another Edit During Sampling.")],
        )

    @classmethod
    @checked
    def execute(cls, sampler, operation, target, steps, start_percent, end_percent, mask=None) -> io.NodeOutput:
        inner = inner_function(sampler)
        if start_percent > end_percent:
            raise ValueError(f"start_percent: got {start_percent}, which is after end_percent {end_percent}; exchange them.")
        edited = EditedSampler(inner, operation, target, steps == "first in range", start_percent, end_percent, mask)
        check_target(target, edited.__name__)
        return io.NodeOutput(with_function(sampler, edited))


NODES = [EditDuringSampling]
