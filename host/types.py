"""ComfyUI's own types that signatures name."""

from __future__ import annotations

from typing import Any, Protocol

from comfy.clip_vision import ClipVisionModel
from comfy.controlnet import ControlBase
from comfy.latent_formats import LatentFormat
from comfy.model_patcher import ModelPatcher
from comfy.patcher_extension import WrapperExecutor
from comfy.samplers import KSAMPLER, CFGGuider, KSamplerX0Inpaint, Sampler
from comfy.sd import CLIP, VAE
from torch import Tensor

__all__ = [
    "CLIP",
    "KSAMPLER",
    "VAE",
    "CFGGuider",
    "ClipVisionModel",
    "Conditioning",
    "ControlBase",
    "KSamplerX0Inpaint",
    "Latent",
    "LatentFormat",
    "ModelPatcher",
    "Noise",
    "Sampler",
    "WrapperExecutor",
]

Conditioning = list[list[Any]]  # [embedding (b, tokens, c), its extras by name] for each part of a prompt
Latent = dict[str, Any]  # "samples" (b, c, ..., h, w), and what other nodes have told of them


class Noise(Protocol):
    """A NOISE; the host's own io.Noise says that it is a tensor."""

    seed: int

    def generate_noise(self, input_latent: Latent) -> Tensor:
        """Noise (b, c, ..., h, w) for a LATENT."""
