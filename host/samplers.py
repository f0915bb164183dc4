"""Samplers as the host and other packs make them: what is inside one, and ours around it."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, get_args

import comfy.utils
from comfy.k_diffusion.sampling import default_noise_sampler
from comfy.samplers import KSAMPLER
from torch import Tensor

from ..core.latent import check_latent
from ..core.sampling.ddim import sample_ddim
from ..core.sampling.steering import Callback, Denoiser, Target, Traits, sample_steered, steps_in_window
from .denoisers import levels_of, picture_share
from .model_calls import told
from .options import SIGMA_DOWN
from .progress import tell_once
from .seeds import countable
from .types import Sampler

SamplerFunction = Callable[..., Tensor]  # (model, x, sigmas, extra_args=, callback=, disable=, **options) -> latents
NOT_AT_X_T = Traits(exposes_x_t=False)  # it evaluates a prediction or a copy of its latent, or steps of its own
# ComfyUI's sampler functions by their names, where they are not like most: one call of the model at each step's running latent.
KNOWN = {
    "sample_euler": Traits(first_order=True),
    "sample_heun": Traits(2),
    "sample_heunpp2": Traits(3, fewer_at_end=True),  # its last step is one of euler, and that before one of heun
    "sample_exp_heun_2_x0": Traits(2),
    "sample_exp_heun_2_x0_sde": Traits(2),
    "sample_dpm_2": Traits(2),
    "sample_dpm_2_ancestral": Traits(2),
    "sample_dpmpp_2s_ancestral": Traits(2),
    "sample_dpmpp_2s_ancestral_cfg_pp": Traits(2),
    "sample_dpmpp_sde": Traits(2),
    "sample_dpmpp_sde_gpu": Traits(2),
    "sample_seeds_2": Traits(2),
    "sample_seeds_3": Traits(3),
    "sample_sa_solver": NOT_AT_X_T,
    "sample_sa_solver_pece": NOT_AT_X_T,
    "sample_unipc": NOT_AT_X_T,
    "sample_unipc_bh2": NOT_AT_X_T,
    "dpm_fast_function": NOT_AT_X_T,
    "dpm_adaptive_function": NOT_AT_X_T,
}
DDIM_NAME, EXACT_NAME = "semantic_latents_ddim", "semantic_latents_exact"  # of the pack's own functions
# First-order functions that ComfyUI has not. A wrapper of another pack may keep the name of what it wraps, and nothing else of it.
OTHERS = dict.fromkeys(("sample_ddim", DDIM_NAME, EXACT_NAME), Traits(first_order=True))


class AroundSampler:
    """A sampler function around another, whose name it bears for the log; `traits_of` looks through it.

    makes_runs: whether it draws nothing itself, and calls the other for runs of its own. What edits a run belongs in each of them.
    """

    inner: SamplerFunction
    makes_runs = False

    def around(self, inner: SamplerFunction) -> SamplerFunction:
        """The same around another function. What it gathers is gathered by both."""
        changed: Any = copy.copy(self)
        object.__setattr__(changed, "inner", inner)  # some are frozen
        return changed

    @property
    def __name__(self) -> str:
        return getattr(self.inner, "__name__", "sampler")


@dataclass(frozen=True, eq=False)
class EditedSampler(AroundSampler):
    """The sampler function of a KSAMPLER with an edit inside. Frozen: two runs cannot influence each other."""

    inner: SamplerFunction
    operation: Callable[..., Tensor]
    target: Target
    once: bool
    start_percent: float
    end_percent: float
    mask: Tensor | None

    def __call__(
        self,
        model: Denoiser,
        x: Tensor,
        sigmas: Tensor,
        extra_args: dict[str, Any] | None = None,
        callback: Callback | None = None,
        disable: bool | None = None,
        **options: Any,
    ) -> Tensor:
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
            edit=lambda latent, step: self.operation(latent=latent),
            masks=lambda latent: masks_over(latent, self.mask, extra_args.get("denoise_mask")),
            target=self.target,
            steps=steps,
            traits=traits_of(self.inner),
            extra_args=extra_args,
            callback=callback,
            disable=disable,
            **options,
        )


def masks_over(like: Tensor, mask: Tensor | None, inpainted: Tensor | None) -> list[Tensor]:
    """The masks of an edit of latents (b, ...): the node's own, resized, and the region that an inpainting run repaints."""
    if mask is not None:
        check_latent(like)
        if mask.shape[0] not in (1, like.shape[0]):
            raise ValueError(f"mask: got a batch of {mask.shape[0]} for {like.shape[0]} latents; connect one mask, or one for each.")
        mask = comfy.utils.reshape_mask(mask, like.shape).to(like.device)
    return [one for one in (mask, inpainted) if one is not None]


def traits_of(function: SamplerFunction) -> Traits:
    """How a sampler function, or the one inside of ours, calls the model: what it says of itself, or the table for its name.

    Only of ComfyUI's own functions and ours is that known; another pack's may go by the name of one of them.
    """
    while isinstance(function, AroundSampler):
        function = function.inner
    traits = getattr(function, "traits", None)
    if isinstance(traits, Traits):
        return traits
    known = getattr(function, "__module__", "").startswith("comfy.")
    return replace((KNOWN | OTHERS).get(name_of(function), Traits()), known=known)


def name_of(function: object) -> str:
    return getattr(function, "__name__", "")


def chooses_steps(function: SamplerFunction) -> bool:
    """Whether a sampler function chooses its steps by the pictures, those of a batch by the error of all its latents together."""
    return name_of(function) == "dpm_adaptive_function"


def check_exposes_x_t(function: SamplerFunction, advice: str = "Choose") -> None:
    """Raise ValueError for a sampler function that does not expose x_t at its steps."""
    if not traits_of(function).exposes_x_t:
        raise ValueError(
            f"sampler: {name_of(function).removeprefix('sample_')} evaluates the model away from its running latent, so x_t "
            f"cannot be edited inside it. {advice} a sampler such as euler, ddim, dpmpp_2m, dpmpp_2m_sde, lms, heun or euler_ancestral."
        )


def check_target(target: str, function: SamplerFunction) -> None:
    """Raise ValueError if the target is unknown, or if this sampler function does not expose x_t at its steps."""
    if target not in get_args(Target):
        raise ValueError(f"target: got {target!r}; choose one of {', '.join(get_args(Target))}.")
    if target == "x_t":
        check_exposes_x_t(function, "Choose target x0, which works with every sampler, or")


def inner_function(sampler: Sampler) -> SamplerFunction:
    """The function of a SAMPLER, to be wrapped; ValueError for one that is not built on the host's KSAMPLER."""
    if not isinstance(sampler, KSAMPLER):
        raise ValueError(
            f"sampler: {type(sampler).__name__} is not built on the host's KSAMPLER, so nothing can be edited "
            "inside it. Connect KSamplerSelect, or a sampler node of ComfyUI itself."
        )
    return sampler.sampler_function


def sampler_of(function: SamplerFunction) -> KSAMPLER:
    """The SAMPLER of a function."""
    return KSAMPLER(function)


def with_function(sampler: KSAMPLER, function: SamplerFunction) -> KSAMPLER:
    """The same SAMPLER with another function; what a pack's own kind of KSAMPLER adds stays."""
    changed = copy.copy(sampler)
    changed.sampler_function = function
    return changed


def exposing_function(sampler: Sampler) -> SamplerFunction:
    """The function of a SAMPLER that can be edited on x_t; ValueError for any other."""
    inner = inner_function(sampler)
    check_exposes_x_t(inner)
    return inner


def draws_noise(function: SamplerFunction) -> bool:
    """Whether a sampler function may add noise of its own: in a batch every latent would get another."""
    while hasattr(function, "inner"):
        function = function.inner
    return getattr(function, "draws_noise", "noise_sampler" in inspect.signature(function).parameters)


@dataclass(frozen=True)
class DDIM:
    """The sampler function of DDIM Sampler."""

    eta: float
    boost_percent: float

    __name__ = DDIM_NAME
    traits = Traits(first_order=True)

    @property
    def draws_noise(self) -> bool:
        return self.eta > 0 or self.boost_percent < 1

    def __call__(
        self,
        model: Denoiser,
        x: Tensor,
        sigmas: Tensor,
        extra_args: dict[str, Any] | None = None,
        callback: Callback | None = None,
        disable: bool | None = None,
        **options: Any,
    ) -> Tensor:
        extra_args = extra_args or {}
        levels = levels_of(model)
        boost = levels.percent_to_sigma(self.boost_percent) if self.boost_percent < 1 else 0.0
        noise = default_noise_sampler(x, seed=countable(extra_args.get("seed")))
        return sample_ddim(
            model,
            x,
            sigmas,
            eta=self.eta,
            boost_below=boost,
            flow=picture_share(levels, 0.5) < 1,
            noise=noise,
            callback=callback,
            announce=lambda down: announced(extra_args, down),
        )


def announced(extra_args: dict[str, Any], down: float) -> dict[str, Any]:
    """A model call's arguments with the level that the step's deterministic part goes down to."""
    return {**extra_args, "model_options": told(extra_args.get("model_options", {}), {SIGMA_DOWN: down})}
