"""The UNet's h-space in the host: edits of a patched model, what one run needs of them, and how the UNet applies them.

A patched model carries its edits as a tuple in its transformer options, so that stacking, cloning and disconnecting are
the host's own. A run's plan is made when sampling starts and dropped when it ends.
"""

from __future__ import annotations

import logging
import uuid
from dataclasses import dataclass
from typing import Any, Literal

import torch
from comfy.model_patcher import ModelPatcher
from comfy.patcher_extension import WrapperExecutor, WrappersMP
from comfy.samplers import CFGGuider, Sampler
from torch import Tensor

from ..core.hspace.injection import Window, asymmetric_gain, mask_for, matched_scale, shifted
from ..core.hspace.trained import AnyDirection
from ..core.sampling.steering import Callback
from ..core.sampling.steps import Levels, is_descending
from .compiled import innermost, without_graph
from .denoisers import NoiseLevels, percent_of
from .model_calls import WHOLE, Half, ModelCall, Part, Prompt, told
from .options import ASKED, EDITED_PASS, EDITING, EDITS, PARTS, PLAN, SIGMA_DOWN, TOLD, sigma_of
from .other_patches import why_not_reached
from .progress import tell_once
from .samplers import name_of, traits_of
from .unet import Chunks, UNetCall, run_decoder_twice

Branch = Literal["conditional", "unconditional", "both"]
# For callers other than the host's guiders: what an entry of cond_or_uncond is.
BY_PLACE = {0: Prompt("conditional"), 1: Prompt("unconditional")}
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

    def masks(self, latent: int | None = None) -> Tensor:
        """Its masks (n, h, w), one for all latents or one for each; that of one latent, by its number, if it has its own."""
        assert self.mask is not None  # asked for only where there is one
        masks = self.mask.reshape(-1, *self.mask.shape[-2:])
        return masks if latent is None or len(masks) == 1 else masks[latent : latent + 1]


def with_edit(model: ModelPatcher, edit: HEdit) -> ModelPatcher:
    """A clone of the model that carries one more edit."""
    patched = model.clone()
    options = patched.model_options["transformer_options"]
    if EDITS not in options:
        patched.add_wrapper_with_key(WrappersMP.OUTER_SAMPLE, EDITING, plan_run)
        patched.add_wrapper_with_key(WrappersMP.SAMPLER_SAMPLE, EDITING, name_prompts)
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


class RunPlan:
    """The edits of one run on its noise levels.

    latent: the shape (b, c, h, w) of what the run makes; none of its calls can be divided without.
    """

    def __init__(
        self, edits: tuple[HEdit, ...], sigmas: list[float], model_sampling: NoiseLevels, latent: torch.Size | None = None
    ) -> None:
        self.edits, self.sigmas, self.model_sampling, self.latent = edits, sigmas, model_sampling, latent or torch.Size()
        self.prompts: dict[uuid.UUID, Prompt] = {}
        # Edits whose window was open when the sampler asked about latents, and when the model was called; edits that a call was to show;
        # and edits that moved an h.
        self.asked, self.called, self.meant, self.seen = (set[HEdit]() for _ in range(4))
        self.compiled = False
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

    def name(self, prompts: dict[str, list[dict[str, Any]]]) -> None:
        """Remember a run's prepared prompts by their names in a model call.

        For a prompt's area the host makes a part of every other prompt, under the name of the first: each gets its own here.
        """
        for role, entries in prompts.items():
            half: Half = "unconditional" if "negative" in role else "conditional"
            for entry in entries or ():
                if entry["uuid"] in self.prompts:
                    entry["uuid"] = uuid.uuid4()
                self.prompts[entry["uuid"]] = Prompt(half, entry.get("area"))

    def prompts_of(self, options: dict[str, Any]) -> list[Prompt]:
        """The prompts of a model call with these transformer options."""
        places = [BY_PLACE.get(index, Prompt(None)) for index in options["cond_or_uncond"]]
        return [self.prompts.get(name, place) for name, place in zip(options.get("uuids", places), places, strict=True)]

    def parts_of(self, options: dict[str, Any]) -> list[Part]:
        """What the rows of a call of the UNet are: as call_model has found, or as the host itself calls it."""
        return options.get(PARTS) or [Part(prompt.half, prompt=i) for i, prompt in enumerate(self.prompts_of(options))]

    def parts_in(self, x: Tensor, options: dict[str, Any], active: list[HEdit]) -> list[Part]:
        """What the rows of a model call on x (rows, c, h, w) are, as far as it matters to these edits; ValueError if it cannot be told."""
        whole, masks = (
            options.get(ASKED, options.get(WHOLE)),
            max((len(edit.masks()) for edit in active if edit.mask is not None), default=0),
        )
        prompts = self.prompts_of(options)
        shape = self.latent if whole is None else whole.shape
        if masks and (shape[-2:] != self.latent[-2:] or masks not in (1, shape[0])):
            raise ValueError(
                f"mask: the sampler asks the model about {shape[0]} latents of {shape[-2]} x {shape[-1]} cells, while the run "
                f"makes {self.latent[0]} of "
                f"{self.latent[-2]} x {self.latent[-1]}, and where the mask lies in them cannot be told. Disconnect the mask, "
                "or choose another sampler."
            )
        return ModelCall(x, prompts, shape, whole).parts(halves=any(edit.branch != "both" for edit in active), masks=masks)

    def chunks(self, sigma: float, parts: list[Part]) -> list[int]:
        """Positions of the parts on which an asymmetric edit acts at this noise level."""
        active = [edit for edit in self.active(sigma) if edit.asymmetric]
        return [i for i, part in enumerate(parts) if any(edit.acts_on(part) for edit in active)]

    def active(self, sigma: float) -> list[HEdit]:
        """The edits whose windows are open at a noise level."""
        return [edit for edit in self.edits if self.weight(edit, sigma)]

    def apply(self, h: Tensor, sigma: float, parts: list[Part], *, edited_pass: bool) -> Tensor:
        """h: (parts * b, c, h, w) with the shifts of this noise level; the asymmetric ones only in the edited pass."""
        originals, size = h.chunk(len(parts)), (h.shape[-2], h.shape[-1])
        results = list(originals)
        for edit, direction, strength in zip(self.edits, self.directions_on(h.device), self.strengths, strict=True):
            amount = strength * self.weight(edit, sigma)
            if not amount or (edit.asymmetric and not edited_pass):
                continue
            for i in (i for i, part in enumerate(parts) if edit.acts_on(part)):
                mask = None if edit.mask is None else mask_for(edit.masks(parts[i].latent), size, parts[i].place).to(h.device)
                shift = amount * direction.shift(originals[i], sigma)
                results[i] = shifted(results[i], shift, mask, keep_norm=edit.keep_norm)
                self.seen.add(edit)
        return torch.cat(results)


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
    if plan.asked - plan.called or plan.meant - plan.seen:
        raise ValueError(
            "model: Apply Direction did not act, as no call in its range reached the UNet's middle block: "
            f"{why_not_reached(guider.model_options)}. "
            "Connect the model without that patch."
        )
    return result


def name_prompts(
    executor: WrapperExecutor,
    guider: CFGGuider,
    sigmas: Tensor,
    extra_args: dict[str, Any],
    callback: Callback | None,
    noise: Tensor,
    *args: Any,
    **kwargs: Any,
) -> Tensor:
    """SAMPLER_SAMPLE wrapper: tell the plan the guider's prompts, as the host has prepared them for this run."""
    options = extra_args["model_options"]["transformer_options"]
    if PLAN in options:
        options[PLAN].name(guider.conds)
    return executor(guider, sigmas, extra_args, callback, noise, *args, **kwargs)


def tell_whole(
    executor: WrapperExecutor, x: Tensor, timestep: Tensor, model_options: dict[str, Any] = {}, seed: int | None = None
) -> Tensor:
    """PREDICT_NOISE wrapper: leave what the sampler asks about where the calls on parts of it find it."""
    plan = model_options.get("transformer_options", {}).get(PLAN)
    if plan:
        plan.asked |= set(plan.active(float(timestep.flatten()[0])))
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
    plan.called |= set(active)
    parts = plan.parts_in(x, transformer_options, active) if active else []
    acting = {edit for edit in active if any(edit.acts_on(part) for part in parts)}
    if not acting:
        return executor(x, t, c_concat, c_crossattn, control, without_edits(transformer_options), **kwargs)
    plan.meant |= acting
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
    if edit.branch == "unconditional" and type(guider).predict_noise is CFGGuider.predict_noise and guider.cfg == 1.0:
        raise ValueError(
            "branch: at cfg 1 the host skips the unconditional half, so nothing would be edited. Choose conditional or both, or raise cfg."
        )
    if edit.mask is not None and len(edit.masks()) not in (1, batch):
        raise ValueError(f"mask: got a batch of {edit.mask.shape[0]} for {batch} latents; connect one mask, or one for each.")


def shift_h(args: dict[str, Any]) -> dict[str, Tensor]:
    """The middle block's patch: h with the plan's shifts."""
    options = args["transformer_options"]
    if PLAN not in options:
        raise ValueError(NO_GUIDER)
    return {
        "h": options[PLAN].apply(args["h"], sigma_of(options), options[PLAN].parts_of(options), edited_pass=options.get(EDITED_PASS, False))
    }


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
    parts = plan.parts_of(transformer_options) if plan else []
    chunks = plan.chunks(sigma_of(transformer_options), parts) if plan else []
    if plan is None or not chunks:
        return executor(x, timesteps, context, y, control, transformer_options, **kwargs)
    gain = plan.gain(sigma_of(transformer_options), transformer_options.get(SIGMA_DOWN))
    call = UNetCall(x, timesteps, context, y, control, transformer_options, kwargs)
    acting = [parts[i] for i in chunks]
    plain, edited = run_decoder_twice(
        executor, call, Chunks(chunks, len(parts), len(x)), [part.prompt for part in acting], {EDITED_PASS: True, PARTS: acting}
    )
    rows = list(plain.chunk(len(parts)))
    for i, row in zip(chunks, edited.chunk(len(chunks)), strict=True):
        rows[i] = rows[i] + gain * (row - rows[i])
    return torch.cat(rows)
