"""The UNet's h-space in the host: edits of a patched model, what one run needs of them, and how the UNet applies them.

A patched model carries its edits as a tuple in its transformer options, so that stacking, cloning and disconnecting are
the host's own. A run's plan is made when sampling starts and dropped when it ends.
"""

from __future__ import annotations

import uuid
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple

import comfy.model_sampling as sampling
import torch
from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel
from comfy.model_patcher import ModelPatcher
from comfy.patcher_extension import WrappersMP
from comfy.samplers import CFGGuider
from torch import Tensor

from ..core.asyrp import asymmetric_gain, matched_scale
from ..core.direction import Family, check_same_family
from ..core.implicit import AnyDirection
from ..core.injection import Window, mask_for, shifted
from ..core.steps import Levels, is_descending
from .denoisers import percent_of
from .feedback import tell_once
from .shared_encoder import UNetCall, run_decoder_twice

Branch = Literal["conditional", "unconditional", "both"]
KEY = "semantic_latents"
EDITS, PLAN, EDITED_PASS, SIGMA_DOWN = (f"{KEY}_{name}" for name in ("edits", "plan", "edited_pass", "sigma_down"))
# By the classes that a node puts in a model's place, the most particular ones first. LCM's is one of EPS.
PREDICTIONS = (
    ("EDM", sampling.EDM), ("V_PREDICTION_EDM", sampling.V_PREDICTION, sampling.ModelSamplingContinuousEDM),
    ("V_PREDICTION_CONTINUOUS", sampling.V_PREDICTION, sampling.ModelSamplingContinuousV), ("V_PREDICTION", sampling.V_PREDICTION),
    ("IMG_TO_IMG_FLOW", sampling.IMG_TO_IMG_FLOW), ("FLOW", sampling.CONST), ("IMG_TO_IMG", sampling.IMG_TO_IMG), ("X0", sampling.X0), ("EPS", sampling.EPS),
)
# By the names of the sampler functions: those whose step is x' = D + (sigma'/sigma) (x - D) and nothing else.
FIRST_ORDER = {"sample_euler", "sample_ddim"}


@dataclass(frozen=True, eq=False)
class HEdit:
    """One direction on a model: how strong, when, where, and on which half of the guided prediction."""

    direction: AnyDirection
    strength: float
    window: Window
    branch: Branch
    asymmetric: bool
    keep_norm: bool
    mask: Tensor | None

    def acts_on(self, part: Part) -> bool:
        """Whether it shifts the h of this part of a model call."""
        return self.branch in ("both", part.half)


class Part(NamedTuple):
    """What of a run a part of a model call's batch is: the half of the guided prediction, and the area of its prompt as shares of the picture."""

    half: Literal["conditional", "unconditional"] | None
    area: tuple[float, float, float, float] | None = None  # top, left, height, width


# For callers other than the host's guiders: what an entry of cond_or_uncond is.
BY_PLACE = {0: Part("conditional"), 1: Part("unconditional")}


def unet_of(model: ModelPatcher) -> UNetModel:
    """The model's UNet; ValueError for a model that has none, before anything is sampled."""
    network = model.get_model_object("diffusion_model")
    if not isinstance(network, UNetModel):
        raise ValueError(
            f"model: {type(model.model).__name__} has no UNet with a middle block ({type(network).__name__} is a transformer "
            "or another design), so it has no h-space. Connect an SD 1.x, SD 2.x or SDXL checkpoint, or the demo model; the "
            "latent-space nodes (Spectrum Operation, Edit During Sampling) work on any family."
        )
    return network


def family_of(model: ModelPatcher) -> Family:
    """What a direction must have been found on to fit this model, by the prediction type that is in force."""
    unet = unet_of(model)
    return Family(type(model.model.model_config).__name__, prediction_in_force(model), unet.model_channels * unet.channel_mult[-1])


def prediction_in_force(model: ModelPatcher) -> str:
    """The prediction type by the host's names: the checkpoint's, or that of a node such as ModelSamplingDiscrete."""
    in_force, checkpoint = model.get_model_object("model_sampling"), model.model.model_type.name
    if in_force is model.model.model_sampling:
        return checkpoint
    return next((name for name, *classes in PREDICTIONS if all(isinstance(in_force, c) for c in classes)), checkpoint)


def check_fits(model: ModelPatcher, found_on: Family, name: str) -> None:
    """Raise ValueError for a direction of another family; name: its input.

    Directions saved by earlier versions say what the checkpoint predicts, whatever was in force: that fits, too.
    """
    family = family_of(model)
    if found_on != replace(family, prediction=model.model.model_type.name):
        check_same_family(family, found_on, name)


def with_edit(model: ModelPatcher, edit: HEdit) -> ModelPatcher:
    """A clone of the model that carries one more edit."""
    patched = model.clone()
    options = patched.model_options["transformer_options"]
    if EDITS not in options:
        patched.add_wrapper_with_key(WrappersMP.OUTER_SAMPLE, KEY, plan_run)
        patched.add_wrapper_with_key(WrappersMP.SAMPLER_SAMPLE, KEY, name_parts)
        patched.add_wrapper_with_key(WrappersMP.DIFFUSION_MODEL, KEY, run_unet)
        patched.set_model_middle_block_after_patch(shift_h)
    options[EDITS] = (*options.get(EDITS, ()), edit)
    return patched


def check_no_asymmetric_edit(model: ModelPatcher, why: str) -> None:
    """Raise ValueError for a model that carries one."""
    if any(edit.asymmetric for edit in model.model_options["transformer_options"].get(EDITS, ())):
        raise ValueError(f"model: it carries an asymmetric edit, {why}; connect the model as it is before Apply Direction.")


class RunPlan:
    """The edits of one run on its noise levels."""

    def __init__(self, edits: tuple[HEdit, ...], sigmas: list[float], model_sampling: Any):
        self.edits, self.sigmas, self.model_sampling = edits, sigmas, model_sampling
        self.parts: dict[uuid.UUID, Part] = {}
        self._percents: dict[float, float] = {}
        self._directions: dict[torch.device, list[AnyDirection]] = {}
        self.levels = {edit: Levels(*map(model_sampling.percent_to_sigma, (edit.window.start, edit.window.end))) for edit in edits}
        self.strengths = tuple(self._strength_of(edit) for edit in edits)

    def _strength_of(self, edit: HEdit) -> float:
        weights = [self.weight(edit, sigma) for sigma in self.sigmas[:-1]]
        if not any(weights):
            self._check_outside(edit)
            return 0.0
        return edit.strength * (matched_scale(self.sigmas, weights) if edit.asymmetric else 1.0)

    def _check_outside(self, edit: HEdit) -> None:
        """Say in the log that this run, a part of the whole, lies outside of an edit's window.

        Raises ValueError for a run that passes through the window without a step in it.
        """
        window = f"{edit.window.start:g} to {edit.window.end:g}"
        if self.levels[edit].misses(self.sigmas):
            return tell_once(edit, f"start_percent, end_percent: a run lies outside of {window}, so Apply Direction does not act in it.")
        starts = ", ".join(f"{self.percent(sigma):.2f}" for sigma in self.sigmas[:-1][:12])
        raise ValueError(
            f"start_percent, end_percent: no step of this run starts in {window} (fades apart); its {len(self.sigmas) - 1} steps start at "
            f"{starts}. Widen the range, or sample more steps."
        )

    def percent(self, sigma: float) -> float:
        """The part of the schedule, 0..1, at which a noise level lies."""
        if sigma not in self._percents:
            self._percents[sigma] = percent_of(self.model_sampling, sigma)
        return self._percents[sigma]

    def weight(self, edit: HEdit, sigma: float) -> float:
        """The window's weight at a noise level; a level at one of its bounds is inside."""
        if sigma not in self.levels[edit]:
            return 0.0
        return edit.window.weight(min(max(self.percent(sigma), edit.window.start), edit.window.end))

    def directions_on(self, device: torch.device) -> list[AnyDirection]:
        """The edits' directions with their networks on a device, for as long as the run lasts."""
        if device not in self._directions:
            self._directions[device] = [edit.direction.on(device) for edit in self.edits]
        return self._directions[device]

    def gain(self, sigma: float, down: float | None) -> float:
        """Asymmetric gain of the step from sigma to the announced level, or to the schedule's next one."""
        below = [level for level in self.sigmas if level < sigma * (1 - 1e-5)]
        return asymmetric_gain(sigma, down if down is not None else max(below, default=0.0))

    def name(self, prompts: dict[str, list[dict[str, Any]]], size: tuple[int, int]) -> None:
        """Remember a run's prepared prompts by their names in a model call; size: the latent's height and width.

        For a prompt's area the host makes a part of every other prompt, under the name of the first: each gets its own here.
        """
        rows, columns = size
        for role, entries in prompts.items():
            half = "unconditional" if "negative" in role else "conditional"
            for entry in entries or ():
                if entry["uuid"] in self.parts:
                    entry["uuid"] = uuid.uuid4()
                height, width, top, left = entry.get("area", (rows, columns, 0, 0))
                area = (top / rows, left / columns, height / rows, width / columns)
                self.parts[entry["uuid"]] = Part(half, area if "area" in entry else None)

    def parts_of(self, options: dict[str, Any]) -> list[Part]:
        """What the chunks of a model call with these transformer options are."""
        places = [BY_PLACE.get(index, Part(None)) for index in options["cond_or_uncond"]]
        return [self.parts.get(name, place) for name, place in zip(options.get("uuids", places), places, strict=True)]

    def chunks(self, sigma: float, parts: list[Part]) -> list[int]:
        """Positions of the parts on which an asymmetric edit acts at this noise level."""
        active = [edit for edit in self.edits if edit.asymmetric and self.weight(edit, sigma)]
        return [i for i, part in enumerate(parts) if any(edit.acts_on(part) for edit in active)]

    def apply(self, h: Tensor, sigma: float, parts: list[Part], *, edited_pass: bool) -> Tensor:
        """h: (parts * b, c, h, w) with the shifts of this noise level; the asymmetric ones only in the edited pass."""
        originals, size = h.chunk(len(parts)), tuple(h.shape[-2:])
        results = list(originals)
        for edit, direction, strength in zip(self.edits, self.directions_on(h.device), self.strengths, strict=True):
            amount = strength * self.weight(edit, sigma)
            if not amount or (edit.asymmetric and not edited_pass):
                continue
            for i in (i for i, part in enumerate(parts) if edit.acts_on(part)):
                mask = None if edit.mask is None else mask_for(edit.mask, size, parts[i].area).to(h.device)
                shift = amount * direction.shift(originals[i], sigma)
                results[i] = shifted(results[i], shift, mask, keep_norm=edit.keep_norm)
        return torch.cat(results)


def plan_run(executor, noise: Tensor, latent_image: Tensor, sampler: Any, sigmas: Tensor, *args, **kwargs) -> Tensor:
    """OUTER_SAMPLE wrapper: check the edits against this run, and leave its plan where the UNet's wrapper finds it."""
    guider = executor.class_obj
    options, edits = guider.model_options["transformer_options"], guider.model_options["transformer_options"][EDITS]
    for edit in edits:
        check_edit(edit, guider, sampler, sigmas.tolist(), noise.shape[0])
    options[PLAN] = RunPlan(edits, sigmas.tolist(), guider.model_patcher.get_model_object("model_sampling"))
    try:
        return executor(noise, latent_image, sampler, sigmas, *args, **kwargs)
    finally:
        options.pop(PLAN)


def name_parts(executor, guider: Any, sigmas: Tensor, extra_args: dict[str, Any], callback: Any, noise: Tensor, *args, **kwargs) -> Tensor:
    """SAMPLER_SAMPLE wrapper: tell the plan the guider's prompts, as the host has prepared them for this run."""
    options = extra_args["model_options"]["transformer_options"]
    if PLAN in options:
        options[PLAN].name(guider.conds, noise.shape[-2:])
    return executor(guider, sigmas, extra_args, callback, noise, *args, **kwargs)


def check_edit(edit: HEdit, guider: Any, sampler: Any, sigmas: list[float], batch: int) -> None:
    """Raise ValueError for an edit that this run could not honour."""
    name = getattr(getattr(sampler, "sampler_function", None), "__name__", type(sampler).__name__)
    if edit.asymmetric and name not in FIRST_ORDER:
        raise ValueError(
            f"sampler: the asymmetric form needs a first-order sampler without noise of its own; {name.removeprefix('sample_')} is "
            "not one. Choose euler or ddim, DDIM Sampler (Semantic Latents), or turn asymmetric off."
        )
    if edit.asymmetric and not is_descending(sigmas):
        raise ValueError(
            "sigmas: they go up (FlipSigmas makes them so), but the asymmetric form takes steps down. Turn asymmetric off, or sample from "
            "high to low."
        )
    if edit.branch == "unconditional" and type(guider).predict_noise is CFGGuider.predict_noise and guider.cfg == 1.0:
        raise ValueError("branch: at cfg 1 the host skips the unconditional half, so nothing would be edited. Choose conditional or both, or raise cfg.")
    if edit.mask is not None and edit.mask.reshape(-1, *edit.mask.shape[-2:]).shape[0] not in (1, batch):
        raise ValueError(f"mask: got a batch of {edit.mask.shape[0]} for {batch} latents; connect one mask, or one for each.")


def shift_h(args: dict[str, Any]) -> dict[str, Tensor]:
    """The middle block's patch: h with the plan's shifts."""
    options = args["transformer_options"]
    if PLAN not in options:
        raise ValueError(
            "model: this sampler node calls the model without the host's guider, so Apply Direction cannot tell which step it is at. "
            "Use KSampler, SamplerCustom or SamplerCustomAdvanced."
        )
    sigma = float(options["sigmas"].flatten()[0])
    return {"h": options[PLAN].apply(args["h"], sigma, options[PLAN].parts_of(options), edited_pass=options.get(EDITED_PASS, False))}


def run_unet(executor, x, timesteps=None, context=None, y=None, control=None, transformer_options={}, **kwargs) -> Tensor:
    """DIFFUSION_MODEL wrapper: out + gain (edited - out) on the chunks under an asymmetric edit, with one encoder pass."""
    plan = transformer_options.get(PLAN)
    sigma = float(transformer_options["sigmas"].flatten()[0]) if plan else 0.0
    chunks = plan.chunks(sigma, plan.parts_of(transformer_options)) if plan else []
    if not chunks:
        return executor(x, timesteps, context, y, control, transformer_options, **kwargs)
    gain = plan.gain(sigma, transformer_options.get(SIGMA_DOWN))
    call = UNetCall(x, timesteps, context, y, control, transformer_options, kwargs)
    plain, edited = run_decoder_twice(executor, call, chunks, {EDITED_PASS: True})
    parts = list(plain.chunk(len(transformer_options["cond_or_uncond"])))
    for i, part in zip(chunks, edited.chunk(len(chunks)), strict=True):
        parts[i] = parts[i] + gain * (part - parts[i])
    return torch.cat(parts)
