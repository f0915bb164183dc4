"""Guidance on a model: what it foresees is moved, after the host's own guidance, towards a reference or up a score's gradient.

A patched model carries its guidances as a tuple in its transformer options, so that stacking, cloning and disconnecting are the host's
own.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from comfy.model_patcher import ModelPatcher
from comfy.patcher_extension import WrappersMP
from einops import rearrange
from torch import Tensor

from ..core.hspace.injection import Window, mask_for
from ..core.latent import is_off, masked
from ..core.sampling.guidance import spread, towards_reference, up_gradient
from .denoisers import NoiseLevels, picture_share
from .options import GUIDANCE_PLAN, GUIDANCES
from .progress import tell_once
from .scorer import ImageScorer, PictureDecoder
from .types import VAE, CFGGuider, ClipVisionModel, LatentFormat, Sampler, WrapperExecutor
from .windows import RunWindows

Move = Callable[[Tensor, float, float], Tensor]  # what is foreseen (b, c, ..., h, w), the amount, sigma: what is foreseen then
UNIT = 0.2  # root mean square of the step up a gradient at strength 1 in pure noise, in the model's own units


class Guidance(Protocol):
    """What moves what a model foresees. mask: (b or 1, h, w) in 0..1, or None for all of the picture."""

    @property
    def node(self) -> str: ...

    @property
    def strength(self) -> float: ...

    @property
    def window(self) -> Window: ...

    @property
    def mask(self) -> Tensor | None: ...

    @property
    def pictures(self) -> int:
        """For how many pictures it has something of their own; 1 if what it has is for all."""

    def begin(self, model: ModelPatcher, latent: torch.Size) -> Move:
        """What moves in one run, which makes latents of this shape. Raises ValueError, naming the input, where it cannot."""


@dataclass(frozen=True, eq=False)
class ImageGuidance:
    """Towards a reference (b or 1, c, ..., h, w), as between nodes, in what is left of it when it is made smaller by a factor."""

    reference: Tensor
    strength: float
    downsample: int
    window: Window
    mask: Tensor | None = None
    node = "Image Guidance"

    @property
    def pictures(self) -> int:
        return max(masks_of(self.mask), len(self.reference))

    def begin(self, model: ModelPatcher, latent: torch.Size) -> Move:
        reference = self.reference.unsqueeze(2) if len(latent) == 5 and self.reference.ndim == 4 else self.reference
        check_reference(reference.shape, latent)
        reference = model.get_model_object("latent_format").process_in(reference.float())
        return lambda x0, amount, sigma: towards_reference(x0, reference, amount, downsample=self.downsample)


def masks_of(mask: Tensor | None) -> int:
    """How many masks there are, (b, h, w) or (h, w); 1 for none."""
    return 1 if mask is None or mask.ndim == 2 else len(mask)


def check_reference(reference: torch.Size, latent: torch.Size) -> None:
    """Raise ValueError unless a reference fits a run's latents: the same shape, or one picture, or one frame, for all."""
    if len(reference) != len(latent) or reference[1] != latent[1]:
        raise ValueError(
            f"reference: got a latent of shape {tuple(reference)}, and the run makes {tuple(latent)}: it is of another kind of model. "
            "Encode the reference with this model's own VAE (VAE Encode)."
        )
    if reference[-2:] != latent[-2:]:
        raise ValueError(
            f"reference: it has {reference[-2]} x {reference[-1]} cells, and the run makes {latent[-2]} x {latent[-1]}. Scale the picture "
            "to the size that is drawn before VAE Encode."
        )
    for what, place in (("pictures", 0), *((("frames", 2),) if len(latent) == 5 else ())):
        if reference[place] not in (1, latent[place]):
            raise ValueError(f"reference: got {reference[place]} {what} for {latent[place]}; connect one, or one for each.")


@dataclass(frozen=True, eq=False)
class ClassifierGuidance:
    """Up the gradient of how much better a picture fits one text than another, by a CLIP model that looks at what is foreseen.

    change: the difference (e,) of the two texts' unit embeddings.
    """

    vae: VAE
    clip_vision: ClipVisionModel
    change: Tensor
    strength: float
    window: Window
    mask: Tensor | None = None
    node = "Classifier Guidance"

    @property
    def pictures(self) -> int:
        return masks_of(self.mask)

    def begin(self, model: ModelPatcher, latent: torch.Size) -> Move:
        levels: NoiseLevels = model.get_model_object("model_sampling")
        with torch.inference_mode(False):
            gradient = ScoreGradient(ImageScorer(self.clip_vision), PictureDecoder(self.vae), self.change.clone())
        latent_format = model.get_model_object("latent_format")

        def move(x0: Tensor, amount: float, sigma: float) -> Tensor:
            slope = unit_of(latent_format, x0)
            found = gradient(latent_format.process_out(x0.float())).to(x0.device) * slope
            if not torch.isfinite(found).all():
                raise ValueError(
                    "vae: the score's gradient through the decoder holds NaN or Inf, as half precision may overflow; start ComfyUI with "
                    "--fp32-vae, or choose another VAE."
                )
            return up_gradient(x0, found, UNIT * amount * spread(sigma, picture_share(levels, sigma)))

        return move


def unit_of(latent_format: LatentFormat, x0: Tensor) -> Tensor:
    """How much latents between nodes change by one unit of the model's own, by channel; like x0 (b, c, ..., h, w)."""
    zeros = torch.zeros_like(x0[:1], dtype=torch.float32)
    return latent_format.process_out(zeros + 1) - latent_format.process_out(zeros)


def check_vae(vae: VAE, model: ModelPatcher) -> None:
    """Raise ValueError for a VAE that does not decode what a model draws, as far as the channels tell."""
    latent_format = model.get_model_object("latent_format")
    channels, frames = latent_format.latent_channels, [2] * (latent_format.latent_dimensions - 2)
    if latent_format.latent_dimensions == 1:
        raise ValueError("model: it draws no pictures, and Classifier Guidance looks at pictures. Connect a model of pictures or videos.")
    shape = torch.Size((1, channels, *frames, 4, 4))
    if latent_format.process_out(torch.zeros(shape)).shape != shape:
        raise ValueError("model: ComfyUI lays out this model's latents anew for the VAE, and no gradient is taken through that.")
    if vae.latent_channels != channels:
        raise ValueError(
            f"vae: it decodes latents of {vae.latent_channels} channels, and this model draws {channels}; connect its own VAE."
        )


class ScoreGradient:
    """The gradient of a score of pictures at latents as between nodes (b, c, ..., h, w); 0 where the score does not change."""

    def __init__(self, scorer: ImageScorer, decoder: PictureDecoder, change: Tensor) -> None:
        self.scorer, self.decoder, self.change = scorer, decoder, change

    def scores(self, pictures: Tensor) -> Tensor:
        """For each of pictures (b, c, ..., h, w) in 0..1: cos(picture, target) - cos(picture, source), the mean over frames."""
        frames = rearrange(pictures, "b c t h w -> (b t) c h w") if pictures.ndim == 5 else pictures
        embeddings = F.normalize(self.scorer.embed(frames), dim=1)
        return (embeddings @ self.change.to(embeddings)).reshape(len(pictures), -1).mean(1)

    def __call__(self, latents: Tensor) -> Tensor:
        """Back through the decoder goes a gradient whose largest entry is 1: it may compute in half precision."""
        with torch.inference_mode(False), torch.enable_grad():
            latents = latents.detach().clone().requires_grad_(True)
            pictures = self.decoder(latents)
            seen = pictures.detach().requires_grad_(True)
            (slope,) = torch.autograd.grad(self.scores(seen).sum(), seen)
            largest = slope.abs().flatten(1).amax(1).clamp(min=1e-30)
            (gradient,) = torch.autograd.grad(pictures, latents, slope / largest.reshape(-1, *[1] * (slope.ndim - 1)))
        return gradient.float()


def with_guidance(model: ModelPatcher, guidance: Guidance) -> ModelPatcher:
    """A clone of the model that carries one more guidance; the model itself at strength 0, or under an empty mask."""
    if is_off(guidance.strength, guidance.mask):
        return model
    patched = model.clone()
    options = patched.model_options["transformer_options"]
    if GUIDANCES not in options:
        patched.add_wrapper_with_key(WrappersMP.OUTER_SAMPLE, GUIDANCES, plan_run)
        patched.set_model_sampler_post_cfg_function(guide)
    options[GUIDANCES] = (*options.get(GUIDANCES, ()), guidance)
    return patched


class GuidancePlan:
    """All that one run needs of its guidances, and which of them acted. latent: the shape (b, c, ..., h, w) of what it makes."""

    def __init__(self, guidances: tuple[Guidance, ...], sigmas: list[float], model: ModelPatcher, latent: torch.Size) -> None:
        self.latent, self.windows = latent, RunWindows(sigmas, model.get_model_object("model_sampling"))
        self.moves: dict[Guidance, Move] = {}
        self.acted = set[Guidance]()
        for guidance in guidances:
            self.check(guidance)
            if any(self.windows.weights(guidance.window)):
                self.moves[guidance] = guidance.begin(model, latent)
                continue
            self.windows.check_missed(guidance.window)
            window = f"{guidance.window.start:g} to {guidance.window.end:g}"
            tell_once(guidance, f"start_percent, end_percent: a run lies outside of {window}, so {guidance.node} does not act in it.")

    def check(self, guidance: Guidance) -> None:
        if len(self.latent) not in (4, 5):
            raise ValueError(f"model: the run makes latents of shape {tuple(self.latent)}, and {guidance.node} moves pictures and videos.")
        masks = masks_of(guidance.mask)
        if masks not in (1, self.latent[0]):
            raise ValueError(f"mask: got a batch of {masks} for {self.latent[0]} latents; connect one mask, or one for each.")

    def guided(self, x0: Tensor, sigma: float) -> Tensor:
        """What is foreseen (b, c, ..., h, w), as the guidances move it one after another.

        Raises ValueError for other latents than the run makes; more or fewer of them pass where all are treated alike.
        """
        alike = all(guidance.pictures == 1 for guidance in self.moves)
        if x0.shape[1:] != self.latent[1:] or not (alike or len(x0) == self.latent[0]):
            raise ValueError(
                f"model: the sampler asks for latents of shape {tuple(x0.shape)}, while the run makes {tuple(self.latent)}, and guidance "
                "cannot tell which they are. Choose another sampler."
            )
        for guidance, move in self.moves.items():
            amount = guidance.strength * self.windows.weight(guidance.window, sigma)
            if amount:
                x0 = self.moved(x0, move(x0, amount, sigma), guidance)
        return x0

    def moved(self, x0: Tensor, result: Tensor, guidance: Guidance) -> Tensor:
        self.acted.add(guidance)
        if guidance.mask is None:
            return result
        height, width = x0.shape[-2:]
        mask = mask_for(guidance.mask, (height, width))
        return masked(x0, result, mask[:, :, None] if x0.ndim == 5 else mask)


def plan_run(
    executor: WrapperExecutor, noise: Tensor, latent_image: Tensor, sampler: Sampler, sigmas: Tensor, *args: Any, **kwargs: Any
) -> Tensor:
    """OUTER_SAMPLE wrapper: check the guidances against this run, and leave its plan where `guide` finds it."""
    guider: CFGGuider = executor.class_obj
    options = guider.model_options["transformer_options"]
    plan = options[GUIDANCE_PLAN] = GuidancePlan(options[GUIDANCES], sigmas.tolist(), guider.model_patcher, noise.shape)
    try:
        result: Tensor = executor(noise, latent_image, sampler, sigmas, *args, **kwargs)
    finally:
        options.pop(GUIDANCE_PLAN)
    for guidance in plan.moves.keys() - plan.acted:
        raise ValueError(
            f"model: {guidance.node} did not act, as no step in its range came to ComfyUI's own guidance: {type(guider).__name__} has "
            "another, or a patch skips steps (EasyCache). Use KSampler, SamplerCustom or CFGGuider, or the model without that patch."
        )
    return result


def guide(args: dict[str, Any]) -> Tensor:
    """The function after the host's guidance: what is foreseen, moved."""
    plan = args["model_options"].get("transformer_options", {}).get(GUIDANCE_PLAN)
    if plan is None:
        raise ValueError(
            "model: this sampler node calls the model without the host's guider, so guidance cannot tell which step it is at. Use "
            "KSampler, SamplerCustom or SamplerCustomAdvanced."
        )
    return plan.guided(args["denoised"], float(args["sigma"].flatten()[0]))
