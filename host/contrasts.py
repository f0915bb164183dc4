"""Sliders from two prompts that act where a prompt enters: at each cross-attention, or on what the model foresees.

The contrast of the two prompts is taken live, for the very activations or the very noisy latent of the run. At a cross-attention that
is what the words do there, layer by layer, without what the layers before did; so no layer counts another's part again. A patched
model carries its contrasts as a tuple in its transformer options, so that stacking, cloning and disconnecting are the host's own.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from comfy.ldm.modules.attention import CrossAttention, SpatialTransformer
from comfy.model_base import BaseModel
from comfy.model_patcher import ModelPatcher
from comfy.patcher_extension import WrappersMP
from comfy.samplers import KSAMPLER, CFGGuider
from torch import Tensor

from ..core.hspace.injection import Window, mask_for
from ..core.latent import masked
from ..core.sampling.focus import SPREAD, focus_weights, size_of_change
from .compiled import seen_by_patches
from .denoisers import NoiseLevels
from .model_calls import RunPrompts, naming_prompts
from .options import CONTRAST_PLAN, CONTRASTS, NETWORK, ONE_PASS, UNEDITED, sigma_of
from .other_patches import why_not_reached
from .progress import tell_once
from .samplers import chooses_steps
from .types import Conditioning, Sampler, WrapperExecutor
from .unedited import OTHER_STEPS, Callback, Foreseen, UneditedRun, run_twice
from .windows import RunWindows
from .words import equal

Place = Literal["cross-attention", "prediction"]
Entries = list[dict[str, Any]]  # a prompt's parts as a guider has them
KEY = "semantic_latents_contrasts"
OF_ITS_OWN = ("area", "mask", "mask_strength", "set_area_to_bounds", "strength", "start_percent", "end_percent", "uuid", "default")
NO_GUIDER = (
    "model: this sampler node calls the model without the host's guider, so a slider cannot tell which step it is at. "
    "Use KSampler, SamplerCustom or SamplerCustomAdvanced."
)


@dataclass(frozen=True, eq=False)
class Contrast:
    """What the prompt `plus` does beyond `minus`, on a model: where, how strong, when, and in which part of the picture.

    mask: (b or 1, h, w) in 0..1, or None for all of it. focus: 0..1, above 0 only where the contrast is large (`focus_weights`).
    spreads: whether the focus takes in what is joined to such places.
    hold: whether the rest stays what the run foresees without it, for a contrast of the prediction with a focus or a mask.
    """

    plus: Conditioning
    minus: Conditioning
    place: Place
    strength: float
    window: Window
    mask: Tensor | None = None
    focus: float = 0.0
    hold: bool = False
    spreads: bool = False

    def on(self, size: tuple[int, int], like: Tensor) -> Tensor | float:
        """Its mask (b or 1, 1, h, w) for cells of this height and width, as a tensor like another; 1 if it has none."""
        return 1.0 if self.mask is None else mask_for(self.mask, size).to(like)


def has_cross_attention(model: ModelPatcher) -> bool:
    """Whether the model is a UNet whose cross-attention layers this pack knows."""
    return any(isinstance(part, SpatialTransformer) for part in model.model.diffusion_model.modules())


def with_contrast(model: ModelPatcher, contrast: Contrast) -> ModelPatcher:
    """A clone of the model that carries one more contrast. Raises ValueError for a model without the place."""
    if contrast.place == "cross-attention" and not has_cross_attention(model):
        raise ValueError(
            "place: cross-attention is known in the UNets of SD 1.x, SD 2.x and SDXL, and this model is none. Choose prediction, which "
            "every model has."
        )
    patched = seen_by_patches(model) if contrast.place == "cross-attention" else model.clone()
    options = patched.model_options["transformer_options"]
    before: tuple[Contrast, ...] = options.get(CONTRASTS, ())
    if not before:
        patched.add_wrapper_with_key(WrappersMP.OUTER_SAMPLE, KEY, plan_run)
        patched.add_wrapper_with_key(WrappersMP.SAMPLER_SAMPLE, KEY, naming_prompts(CONTRAST_PLAN))
        patched.add_wrapper_with_key(WrappersMP.SAMPLER_SAMPLE, KEY, beside_unedited)
        patched.add_wrapper_with_key(WrappersMP.PREDICT_NOISE, KEY, note_asked)
        patched.add_wrapper_with_key(WrappersMP.CALC_COND_BATCH, KEY, add_to_predictions)
    if contrast.place == "cross-attention" and not any(one.place == "cross-attention" for one in before):
        patched.add_wrapper_with_key(WrappersMP.DIFFUSION_MODEL, KEY, tell_network)
        patched.set_model_attn2_patch(keep_input)
        patched.set_model_attn2_output_patch(add_to_attention)
    options[CONTRASTS] = (*before, contrast)
    return patched


class ContrastPlan:
    """All that one run needs of its contrasts, and which of them acted.

    sigmas: (steps + 1,) noise levels of the run. latent: the shape (b, c, ..., h, w) of what the run makes.
    """

    def __init__(
        self, contrasts: tuple[Contrast, ...], sigmas: list[float], levels: NoiseLevels, guider: CFGGuider, latent: torch.Size
    ) -> None:
        self.contrasts, self.guider, self.latent = contrasts, guider, latent
        self.windows, self.prompts = RunWindows(sigmas, levels), RunPrompts(latent)
        self.asked, self.acted = set[Contrast](), set[Contrast]()
        self.roles: dict[tuple[int, str], str] = {}  # by contrast and side, under which name the guider has its prompt
        self.own = set[str]()  # the names of those that are the run's own prompt
        self.prepared: dict[str, Any] = {}  # the run's own prompt, as the host has prepared it
        self.inputs: dict[torch.device, Tensor] = {}  # what the cross-attention at work on a device was given
        self.part = 0  # which of the calls for one noise level is at work: there is one for each context window
        self.sizes: dict[tuple[Contrast, int], Tensor] = {}  # how large a contrast was so far in each cell of a part, summed over the run
        self.weights: dict[tuple[Contrast, int], Tensor] = {}  # of those that hold the rest: how far each cell is theirs
        self.unedited: UneditedRun | None = None
        self.one_pass = guider.model_options["transformer_options"].get(ONE_PASS, False)
        for contrast in contrasts:
            if not any(self.windows.weights(contrast.window)):
                self.windows.check_missed(contrast.window)
                window = f"{contrast.window.start:g} to {contrast.window.end:g}"
                tell_once(contrast, f"start_percent, end_percent: a run lies outside of {window}, so a slider does not act in it.")

    def active(self, place: Place, sigma: float) -> list[tuple[int, Contrast, float]]:
        """The contrasts of a place that act at a noise level: their numbers, themselves, and how strong they are there."""
        if self.is_unedited:
            return []
        found = [
            (i, contrast, contrast.strength * self.windows.weight(contrast.window, sigma))
            for i, contrast in enumerate(self.contrasts)
            if contrast.place == place
        ]
        return [entry for entry in found if entry[2]]

    def sides(self, number: int) -> tuple[Entries, Entries]:
        """The two prompts of a contrast, as the host has prepared them for this run."""
        conds = self.guider.conds
        return conds[self.roles[number, "plus"]], conds[self.roles[number, "minus"]]

    def note_prepared(self) -> None:
        """Remember how the host has prepared the run's own prompt, if a contrast compares it."""
        own = own_of(self.guider.conds)
        if self.own and len(own) == 1:
            self.prepared = contents(own)

    def place_of(self, number: int, side: str, asked: list[Entries | None]) -> int:
        """Where a side stands among the prompts that a call asks for; their number if it is not there.

        The run's own prompt stands for a side that is the same as long as it is as it was prepared: other nodes may have cut, divided
        or exchanged it meanwhile.
        """
        role = self.roles[number, side]
        for i, cond in enumerate(asked):
            if cond is self.guider.conds[role]:
                return i
            if cond and role in self.own and len(cond) == 1:
                found = contents(cond)
                if found.keys() == self.prepared.keys() and all(found[key] is value for key, value in self.prepared.items()):
                    return i
        return len(asked)

    @property
    def is_unedited(self) -> bool:
        """Whether the run is the one without contrasts."""
        return self.unedited is not None and not self.unedited.is_kept

    def holds(self, contrast: Contrast) -> bool:
        """Whether there is a rest that a contrast holds in this run."""
        has_rest = contrast.place == "prediction" and (contrast.focus > 0 or contrast.mask is not None)
        return contrast.hold and has_rest and not self.one_pass

    def needs_unedited(self) -> bool:
        """Whether a contrast that holds the rest acts in this run."""
        return any(self.holds(contrast) and any(self.windows.weights(contrast.window)) for contrast in self.contrasts)

    def changed(self, contrast: Contrast, amount: float, change: Tensor) -> Tensor:
        """What a contrast of that amount does to what is foreseen, (b, c, ..., h, w): under its mask, and where it is large in the run
        so far. Where it holds the rest the weights are left for `rest_held`."""
        weight, mask = torch.ones_like(change[:, :1]), contrast.on(size_of(change), change)
        weight = weight * (mask[:, :, None] if isinstance(mask, Tensor) and change.ndim == 5 else mask)
        if contrast.focus:
            sizes, before = size_of_change(weight * change), self.sizes.get((contrast, self.part))
            sizes = self.sizes[contrast, self.part] = sizes if before is None or before.shape != sizes.shape else before.to(sizes) + sizes
            weight = weight * focus_weights(sizes, contrast.focus, SPREAD if contrast.spreads else 1.0).to(change)
        if not self.holds(contrast):
            return amount * weight * change
        self.weights[contrast, self.part] = weight
        return amount * change

    def rest_held(self, timestep: Tensor, outputs: Foreseen) -> Foreseen:
        """What is foreseen, with the rest of the picture as the unedited run foresees it; outputs: of each prompt (b, c, ..., h, w)."""
        if self.unedited is None:
            return outputs
        unedited = self.unedited.foreseen(timestep, outputs)
        if any(not self.holds(contrast) for contrast in self.acted):
            return outputs
        weight: Tensor | float = 0.0
        for (_, part), own in self.weights.items():
            if part == self.part:
                weight = own + weight * (1 - own)
        if isinstance(weight, float):
            return unedited
        return [own if one is None or own is None else masked(one, own, weight) for own, one in zip(outputs, unedited, strict=True)]

    def check(self) -> None:
        """Raise ValueError if a contrast was to act and did not."""
        if self.asked - self.acted:
            raise ValueError(
                f"model: a slider did not act, as no call in its range reached its place: {why_not_reached(self.guider.model_options)}. "
                "Connect the model without that patch."
            )


def plan_run(
    executor: WrapperExecutor, noise: Tensor, latent_image: Tensor, sampler: Sampler, sigmas: Tensor, *args: Any, **kwargs: Any
) -> Tensor:
    """OUTER_SAMPLE wrapper: put the contrasts' prompts beside the run's own, and leave the plan where the other wrappers find it."""
    guider = executor.class_obj
    options = guider.model_options["transformer_options"]
    contrasts = options[CONTRASTS]
    levels = guider.model_patcher.get_model_object("model_sampling")
    plan = options[CONTRAST_PLAN] = ContrastPlan(contrasts, sigmas.tolist(), levels, guider, noise.shape)
    known: list[tuple[Conditioning, str]] = []
    for number, contrast in enumerate(contrasts):
        for side, prompt in (("plus", contrast.plus), ("minus", contrast.minus)):
            role = next((name for one, name in known if equal(one, prompt)), None)
            if role is None:
                role = f"{KEY}_{number}_{side}"
                guider.conds[role] = beside(guider.conds, prompt)
                known.append((prompt, role))
                if the_same(own_of(guider.conds), prompt):
                    plan.own.add(role)
            plan.roles[number, side] = role
    try:
        result = executor(noise, latent_image, sampler, sigmas, *args, **kwargs)
    finally:
        options.pop(CONTRAST_PLAN)
    plan.check()
    return result


def beside_unedited(
    executor: WrapperExecutor,
    guider: CFGGuider,
    sigmas: Tensor,
    extra_args: dict[str, Any],
    callback: Callback | None,
    *args: Any,
    **kwargs: Any,
) -> Tensor:
    """SAMPLER_SAMPLE wrapper: where a contrast holds the rest of the picture, the run is made without contrasts first."""
    options = extra_args["model_options"]["transformer_options"]
    plan = options.get(CONTRAST_PLAN)
    if plan is not None:
        plan.note_prepared()
    if plan is None or not plan.needs_unedited():
        return executor(guider, sigmas, extra_args, callback, *args, **kwargs)
    sampler = executor.class_obj
    if isinstance(sampler, KSAMPLER) and chooses_steps(sampler.sampler_function):
        raise ValueError(OTHER_STEPS)
    plan.unedited = options.get(UNEDITED) or UneditedRun()
    return run_twice(lambda told: executor(guider, sigmas, dict(extra_args), told, *args, **kwargs), plan.unedited, callback)


def own_of(conds: dict[str, Entries]) -> Entries:
    """The run's own prompt: the positive one."""
    return conds.get("positive") or next(iter(conds.values()))


def contents(prompt: Entries) -> dict[str, Any]:
    """All that a prompt of one part asks the model for, by name."""
    (entry,) = prompt
    rest = {key: value for key, value in entry.items() if key not in ("uuid", "model_conds")}
    return rest | {f"model_conds.{key}": value for key, value in entry.get("model_conds", {}).items()}


def the_same(own: Entries, prompt: Conditioning) -> bool:
    """Whether a prompt beside the run's own would ask the model for the very same."""
    if len(own) != 1 or len(prompt) != 1 or any(key in own[0] for key in OF_ITS_OWN if key != "uuid"):
        return False
    embedding, extras = prompt[0]
    alike = all(key in own[0] and equal(own[0][key], value) for key, value in extras.items())
    return alike and equal(own[0].get("cross_attn"), embedding)


def beside(conds: dict[str, Entries], prompt: Conditioning) -> Entries:
    """A prompt under all that the run's own prompt comes with: ControlNets, references, guidance; for the whole picture, in all steps."""
    own = next(iter(own_of(conds)), {})
    shared = {key: value for key, value in own.items() if key not in OF_ITS_OWN}
    return [{**shared, **extras, "cross_attn": embedding, "uuid": uuid.uuid4()} for embedding, extras in prompt]


def note_asked(
    executor: WrapperExecutor, x: Tensor, timestep: Tensor, model_options: dict[str, Any] = {}, seed: int | None = None
) -> Tensor:
    """PREDICT_NOISE wrapper: note which contrasts are to act in what the sampler asks."""
    plan = model_options.get("transformer_options", {}).get(CONTRAST_PLAN)
    if plan is None:
        raise ValueError(NO_GUIDER)
    sigma, plan.part = float(timestep.flatten()[0]), -1
    for place in ("cross-attention", "prediction"):
        plan.asked |= {contrast for _, contrast, _ in plan.active(place, sigma)}
    return executor(x, timestep, model_options, seed)


def add_to_predictions(
    executor: WrapperExecutor, model: BaseModel, conds: list[Entries | None], x: Tensor, timestep: Tensor, model_options: dict[str, Any]
) -> list[Tensor]:
    """CALC_COND_BATCH wrapper: D + s m w (D(plus) - D(minus)) for what each prompt but the negative one foresees, D.

    m is the mask, w the weights of the focus. The two prompts go in the same batch; one that is the run's own is not asked again.
    Guidance multiplies the change, as it does what words do; so a run whose prompt is `minus` is, at strength 1 without a mask and a
    focus, one whose prompt is `plus` in the contrast's window.
    """
    plan = model_options.get("transformer_options", {}).get(CONTRAST_PLAN)
    if plan is None:
        raise ValueError(NO_GUIDER)
    plan.part += 1
    if plan.is_unedited:
        outputs = executor(model, conds, x, timestep, model_options)
        plan.unedited.keep(timestep, outputs)
        return outputs
    sigma = float(timestep.flatten()[0])
    active = plan.active("prediction", sigma)
    if not active:
        return plan.rest_held(timestep, executor(model, conds, x, timestep, model_options))
    asked, places = list(conds), []
    for number, _, _ in active:
        for side, prompt in zip(("plus", "minus"), plan.sides(number), strict=True):
            places.append(plan.place_of(number, side, asked))
            if places[-1] == len(asked):
                asked.append(prompt)
    outputs = list(executor(model, asked, x, timestep, model_options))
    own = outputs[: len(conds)]
    moved = [i for i, cond in enumerate(conds) if cond is not None and plan.prompts.half_of(cond) != "unconditional"]
    for (_, contrast, amount), plus, minus in zip(active, places[::2], places[1::2], strict=True):
        change = plan.changed(contrast, amount, outputs[plus] - outputs[minus])
        for i in moved:
            own[i] = own[i] + change
        plan.acted.add(contrast)
    return plan.rest_held(timestep, own)


def size_of(x: Tensor) -> tuple[int, int]:
    height, width = x.shape[-2:]
    return height, width


def tell_network(
    executor: WrapperExecutor,
    x: Tensor,
    timesteps: Tensor | None = None,
    context: Tensor | None = None,
    y: Tensor | None = None,
    control: dict[str, list[Any]] | None = None,
    transformer_options: dict[str, Any] = {},
    **kwargs: Any,
) -> Tensor:
    """DIFFUSION_MODEL wrapper of a UNet: tell the patches inside which network they are in."""
    return executor(x, timesteps, context, y, control, {**transformer_options, NETWORK: executor.class_obj}, **kwargs)


def keep_input(n: Tensor, context: Tensor, value: Tensor, options: dict[str, Any]) -> tuple[Tensor, Tensor, Tensor]:
    """The attn2 patch: remembers what goes into the cross-attention."""
    plan = options.get(CONTRAST_PLAN)
    if plan is None:
        raise ValueError(NO_GUIDER)
    if plan.active("cross-attention", sigma_of(options)):
        plan.inputs[n.device] = n
    return n, context, value


def add_to_attention(n: Tensor, options: dict[str, Any]) -> Tensor:
    """The attn2 output patch: out + s m (attention(input, plus) - attention(input, minus)), both at the run's own input."""
    plan = options[CONTRAST_PLAN]
    active = plan.active("cross-attention", sigma_of(options))
    if not active:
        return n
    given, layer = plan.inputs.pop(n.device), layer_of(options)
    for number, contrast, amount in active:
        plus, minus = (context_of(entries, given) for entries in plan.sides(number))
        with_plus, with_minus = (layer(given, context=context) for context in (plus, minus))
        mask = on_tokens(contrast, plan, options, n)
        n = n + (amount * mask * (with_plus - with_minus)).to(n.dtype)
        plan.acted.add(contrast)
    return n


def layer_of(options: dict[str, Any]) -> CrossAttention:
    """The cross-attention layer that a patch is in."""
    (kind, number), network = options["block"], options[NETWORK]
    block: Iterable[object] = network.middle_block if kind == "middle" else getattr(network, f"{kind}_blocks")[number]
    (transformer,) = (part for part in block if isinstance(part, SpatialTransformer))
    return transformer.transformer_blocks[options["block_index"]].attn2


def context_of(entries: Entries, given: Tensor) -> Tensor:
    """A prompt's context (rows, tokens, c) for as many rows as a layer was given."""
    context: Tensor = entries[0]["model_conds"]["c_crossattn"].cond
    return context[:1].to(given).expand(len(given), -1, -1)


def on_tokens(contrast: Contrast, plan: ContrastPlan, options: dict[str, Any], n: Tensor) -> Tensor | float:
    """The contrast's mask for the tokens (rows, h w, c) of a layer; 1 if it has none."""
    if contrast.mask is None:
        return 1.0
    if tuple(options["original_shape"][-2:]) != tuple(plan.latent[-2:]):
        raise ValueError(
            "mask: the model is called on a part of the picture (a tiled or splitting patch, an area, context windows), and which part "
            "cannot be told. Connect the slider without a mask, or the model without that patch."
        )
    height, width = options["activations_shape"][-2:]
    mask = contrast.on((height, width), n)
    assert isinstance(mask, Tensor)
    tokens = mask.flatten(1)[..., None]
    return tokens if len(tokens) == 1 else tokens.repeat(len(n) // len(tokens), 1, 1)
