"""The UNet's h-space in the host: edits of a patched model, what one run needs of them, and how the UNet applies them.

A patched model carries its edits as a tuple in its transformer options, so that stacking, cloning and disconnecting are
the host's own. A run's plan is made when sampling starts and dropped when it ends.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from comfy.model_patcher import ModelPatcher
from comfy.patcher_extension import WrappersMP
from comfy.samplers import CFGGuider
from torch import Tensor

from ..core.hspace.injection import Window, asymmetric_gain, mask_for, matched_scale, shifted
from ..core.hspace.trained import AnyDirection
from ..core.sampling.steps import is_descending
from .compiled import innermost, without_graph
from .denoisers import NoiseLevels
from .model_calls import Part, RunPrompts, naming_prompts, told
from .options import ASKED, EDITED_PASS, EDITING, EDITS, PARTS, PLAN, SIGMA_DOWN, TOLD, sigma_of
from .other_patches import why_not_reached
from .pixel_model import is_unconditional
from .progress import tell_once
from .samplers import name_of, traits_of
from .types import Sampler, WrapperExecutor
from .unet import Selection, UNetCall, run_decoder_twice
from .windows import RunWindows

Branch = Literal["conditional", "unconditional", "both"]
NO_GUIDER = (
    "model: this sampler node calls the model without the host's guider, so Apply Direction cannot tell which step it is at. "
    "Use KSampler, SamplerCustom or SamplerCustomAdvanced."
)


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

    @property
    def masks(self) -> int:
        """How many masks it has: none, one for all latents, or one for each."""
        return 0 if self.mask is None else self.mask.shape[:-2].numel()

    def mask_on(self, h: Tensor, part: Part) -> Tensor | None:
        """Its mask (b or 1, 1, h, w) for the h of this part of a model call, on its device; None if it has none."""
        if self.mask is None:
            return None
        masks = self.mask.reshape(-1, *self.mask.shape[-2:])
        own = masks if part.latent is None or len(masks) == 1 else masks[part.latent : part.latent + 1]
        return mask_for(own, (h.shape[-2], h.shape[-1]), part.place).to(h.device)


def with_edit(model: ModelPatcher, edit: HEdit) -> ModelPatcher:
    """A clone of the model that carries one more edit."""
    patched = model.clone()
    options = patched.model_options["transformer_options"]
    if EDITS not in options:
        patched.add_wrapper_with_key(WrappersMP.OUTER_SAMPLE, EDITING, plan_run)
        patched.add_wrapper_with_key(WrappersMP.SAMPLER_SAMPLE, EDITING, naming_prompts(PLAN))
        patched.add_wrapper_with_key(WrappersMP.PREDICT_NOISE, EDITING, tell_whole)
        patched.add_wrapper_with_key(WrappersMP.APPLY_MODEL, EDITING, call_model)
        patched.add_wrapper_with_key(WrappersMP.DIFFUSION_MODEL, EDITING, run_unet)
        patched.set_model_middle_block_after_patch(shift_h)
    options[EDITS] = (*options.get(EDITS, ()), edit)
    return patched


def check_no_asymmetric_edit(model: ModelPatcher, why: str) -> None:
    """Raise ValueError for a model that carries one."""
    if any(edit.asymmetric for edit in model.model_options["transformer_options"].get(EDITS, ())):
        raise ValueError(f"model: it carries an asymmetric edit, {why}; connect the model as it is before Apply Direction.")


def shift_h(args: dict[str, Any]) -> dict[str, Tensor]:
    """The middle block's patch: h with the plan's shifts."""
    options = args["transformer_options"]
    if PLAN not in options:
        raise ValueError(NO_GUIDER)
    plan = options[PLAN]
    parts = plan.prompts.parts_named(options)
    return {"h": plan.apply(args["h"], args.get("emb"), sigma_of(options), parts, edited_pass=options.get(EDITED_PASS, False))}


def run_unet(
    executor: WrapperExecutor,
    x: Tensor,
    timesteps: Tensor | None = None,
    context: Tensor | None = None,
    y: Tensor | None = None,
    control: dict[str, list[Any]] | None = None,
    transformer_options: dict[str, Any] = {},
    **kwargs: Any,
) -> Tensor:
    """DIFFUSION_MODEL wrapper: out + gain (edited - out) on the parts under an asymmetric edit, with one encoder pass."""
    plan = transformer_options.get(PLAN)
    parts = plan.prompts.parts_named(transformer_options) if plan else []
    positions = plan.asymmetric_parts(sigma_of(transformer_options), parts) if plan else []
    if plan is None or not positions:
        return executor(x, timesteps, context, y, control, transformer_options, **kwargs)
    gain = plan.gain(sigma_of(transformer_options), transformer_options.get(SIGMA_DOWN))
    call = UNetCall(x, timesteps, context, y, control, transformer_options, kwargs)
    acting = [parts[i] for i in positions]
    selection = Selection(positions, len(parts), len(x))
    plain, edited = run_decoder_twice(executor, call, selection, [part.prompt for part in acting], {EDITED_PASS: True, PARTS: acting})
    outputs = list(plain.chunk(len(parts)))
    for i, output in zip(positions, edited.chunk(len(positions)), strict=True):
        outputs[i] = outputs[i] + gain * (output - outputs[i])
    return torch.cat(outputs)


class RunPlan:
    """All that one run needs of its edits, and remembers of them.

    sigmas: (steps + 1,) noise levels of the run. latent: the shape (b, c, h, w) of what the run makes, if it is known.
    Raises ValueError for a run that passes through an edit's window without a step in it.
    """

    def __init__(
        self, edits: tuple[HEdit, ...], sigmas: list[float], model_sampling: NoiseLevels, latent: torch.Size | None = None
    ) -> None:
        self.edits, self.sigmas = edits, sigmas
        self.windows, self.prompts, self.witness = RunWindows(sigmas, model_sampling), RunPrompts(latent), Witness()
        self.strengths = tuple(map(self._strength_of, edits))
        self.compiled = False  # whether a compiled network was met
        self._directions: dict[torch.device, list[AnyDirection]] = {}

    def _strength_of(self, edit: HEdit) -> float:
        """The strength of an edit in this run, before its window's weight; 0, as the log says, if the run misses the window."""
        weights = self.windows.weights(edit.window)
        if any(weights):
            return edit.strength * (matched_scale(self.sigmas, weights) if edit.asymmetric else 1.0)
        self.windows.check_missed(edit.window)
        window = f"{edit.window.start:g} to {edit.window.end:g}"
        tell_once(edit, f"start_percent, end_percent: a run lies outside of {window}, so Apply Direction does not act in it.")
        return 0.0

    def active(self, sigma: float) -> list[HEdit]:
        """The edits whose windows are open at a noise level."""
        return [edit for edit in self.edits if self.windows.weight(edit.window, sigma)]

    def parts_in(self, x: Tensor, options: dict[str, Any], active: list[HEdit]) -> list[Part]:
        """The parts of a model call on x (rows, c, h, w), as far as they matter to these edits; ValueError if that cannot be told."""
        if not active:
            return []
        halves, masks = any(edit.branch != "both" for edit in active), max(edit.masks for edit in active)
        return self.prompts.parts_in(x, options, halves=halves, masks=masks)

    def asymmetric_parts(self, sigma: float, parts: list[Part]) -> list[int]:
        """Positions of the parts on which an asymmetric edit acts at this noise level."""
        active = [edit for edit in self.active(sigma) if edit.asymmetric]
        return [i for i, part in enumerate(parts) if any(edit.acts_on(part) for edit in active)]

    def gain(self, sigma: float, down: float | None) -> float:
        """Asymmetric gain of the step from sigma to the announced level, or to the schedule's next one."""
        below = [level for level in self.sigmas if level < sigma * (1 - 1e-5)]
        return asymmetric_gain(sigma, down if down is not None else max(below, default=0.0))

    def apply(self, h: Tensor, emb: Tensor | None, sigma: float, parts: list[Part], *, edited_pass: bool) -> Tensor:
        """h: (parts * b, c, h, w) with the shifts of this noise level; the asymmetric ones only in the edited pass.

        emb: the time embedding that the middle block got, (parts * b or 1, e), if it got one.
        """
        originals = h.chunk(len(parts))
        if emb is None or not any(edit.direction.embedded for edit in self.edits):
            embedded: Sequence[Tensor | None] = [None] * len(parts)
        else:
            embedded = emb.expand(len(h), -1).chunk(len(parts))
        results = list(originals)
        for edit, direction, strength in zip(self.edits, self._directions_on(h.device), self.strengths, strict=True):
            amount = strength * self.windows.weight(edit.window, sigma)
            if not amount or (edit.asymmetric and not edited_pass):
                continue
            for i in (i for i, part in enumerate(parts) if edit.acts_on(part)):
                shift = amount * direction.shift(originals[i], sigma, embedded[i])
                results[i] = shifted(results[i], shift, edit.mask_on(h, parts[i]), keep_norm=edit.keep_norm)
                self.witness.acted.add(edit)
        return torch.cat(results)

    def _directions_on(self, device: torch.device) -> list[AnyDirection]:
        """The edits' directions with their networks on a device, for as long as the run lasts."""
        if device not in self._directions:
            self._directions[device] = [edit.direction.on(device) for edit in self.edits]
        return self._directions[device]


class Witness:
    """What became of each edit in a run, by which an edit that never acted is found."""

    def __init__(self) -> None:
        self.asked, self.called = set[HEdit](), set[HEdit]()  # whose window was open: when the sampler asked, when the model was called
        self.meant, self.acted = set[HEdit](), set[HEdit]()  # which were to act on a part of a call, and which moved an h

    def check(self, model_options: dict[str, Any]) -> None:
        """Raise ValueError if an edit was to act, and its call did not reach the middle block."""
        if self.asked - self.called or self.meant - self.acted:
            raise ValueError(
                "model: Apply Direction did not act, as no call in its range reached the UNet's middle block: "
                f"{why_not_reached(model_options)}. Connect the model without that patch."
            )


def plan_run(
    executor: WrapperExecutor, noise: Tensor, latent_image: Tensor, sampler: Sampler, sigmas: Tensor, *args: Any, **kwargs: Any
) -> Tensor:
    """OUTER_SAMPLE wrapper: check the edits against this run, and leave its plan where the UNet's wrapper finds it."""
    guider = executor.class_obj
    options, edits = guider.model_options["transformer_options"], guider.model_options["transformer_options"][EDITS]
    for edit in edits:
        check_edit(edit, guider, sampler, sigmas.tolist(), noise.shape[0])
    plan = options[PLAN] = RunPlan(edits, sigmas.tolist(), guider.model_patcher.get_model_object("model_sampling"), noise.shape)
    innermost(options, EDITING)
    try:
        result = executor(noise, latent_image, sampler, sigmas, *args, **kwargs)
    finally:
        options.pop(PLAN)
    plan.witness.check(guider.model_options)
    return result


def tell_whole(
    executor: WrapperExecutor, x: Tensor, timestep: Tensor, model_options: dict[str, Any] = {}, seed: int | None = None
) -> Tensor:
    """PREDICT_NOISE wrapper: leave what the sampler asks about where the calls on parts of it find it."""
    plan = model_options.get("transformer_options", {}).get(PLAN)
    if plan:
        plan.witness.asked |= set(plan.active(float(timestep.flatten()[0])))
    return executor(x, timestep, told(model_options, {ASKED: x}), seed)


def call_model(
    executor: WrapperExecutor,
    x: Tensor,
    t: Tensor,
    c_concat: Tensor | None = None,
    c_crossattn: Tensor | None = None,
    control: dict[str, list[Any]] | None = None,
    transformer_options: dict[str, Any] = {},
    **kwargs: Any,
) -> Tensor:
    """APPLY_MODEL wrapper: the call without our patches where no edit acts; else with its parts named, and not in a compiled graph."""
    plan = transformer_options.get(PLAN)
    if plan is None:
        raise ValueError(NO_GUIDER)
    active = plan.active(sigma_of(transformer_options))
    plan.witness.called |= set(active)
    parts = plan.parts_in(x, transformer_options, active)
    acting = {edit for edit in active if any(edit.acts_on(part) for part in parts)}
    if not acting:
        return executor(x, t, c_concat, c_crossattn, control, without_edits(transformer_options), **kwargs)
    plan.witness.meant |= acting
    with without_graph(executor.class_obj) as compiled:
        if compiled and not plan.compiled:
            logging.info("Apply Direction: the steps that it edits run without torch.compile, whose graph passes over patches.")
        plan.compiled |= compiled
        return executor(x, t, c_concat, c_crossattn, control, {**transformer_options, PARTS: parts}, **kwargs)


def without_edits(options: dict[str, Any]) -> dict[str, Any]:
    """Transformer options with the very keys that they have ahead of Apply Direction.

    A graph that is traced with other keys is wrong for these.
    """
    wrappers = {kind: {key: some for key, some in named.items() if key != EDITING} for kind, named in options.get("wrappers", {}).items()}
    patches = {place: [patch for patch in some if patch is not shift_h] for place, some in options.get("patches", {}).items()}
    rest = {key: value for key, value in options.items() if key not in (*TOLD, "patches", "wrappers")}
    some_patches = {place: some for place, some in patches.items() if some}
    return {
        **rest,
        "wrappers": {kind: named for kind, named in wrappers.items() if named},
        **({"patches": some_patches} if some_patches else {}),
    }


def check_edit(edit: HEdit, guider: CFGGuider, sampler: Sampler, sigmas: list[float], batch: int) -> None:
    """Raise ValueError for an edit that this run could not honour."""
    function = getattr(sampler, "sampler_function", None)
    if edit.asymmetric and not (function and traits_of(function).first_order):
        name = name_of(function) or type(sampler).__name__
        raise ValueError(
            f"sampler: the asymmetric form needs a first-order sampler without noise of its own; {name.removeprefix('sample_')} is "
            "not one. Choose euler or ddim, DDIM Sampler (Semantic Latents), or turn asymmetric off."
        )
    if edit.asymmetric and not is_descending(sigmas):
        raise ValueError(
            "sigmas: they go up (FlipSigmas makes them so), but the asymmetric form takes steps down. Turn asymmetric off, or sample from "
            "high to low."
        )
    if edit.branch == "unconditional" and is_unconditional(guider.model_patcher):
        raise ValueError("branch: this model is unconditional, and is asked once for both halves. Choose conditional or both.")
    if edit.branch == "unconditional" and type(guider).predict_noise is CFGGuider.predict_noise and guider.cfg == 1.0:
        raise ValueError(
            "branch: at cfg 1 the host skips the unconditional half, so nothing would be edited. Choose conditional or both, or raise cfg."
        )
    if edit.mask is not None and edit.masks not in (1, batch):
        raise ValueError(f"mask: got a batch of {edit.mask.shape[0]} for {batch} latents; connect one mask, or one for each.")
