"""ComfyUI's own types that the signatures of nodes name."""

from __future__ import annotations

from typing import Any, Protocol

from comfy.clip_vision import ClipVisionModel
from comfy.model_patcher import ModelPatcher
from comfy.samplers import KSAMPLER, CFGGuider
from comfy.sd import CLIP, VAE
from torch import Tensor

__all__ = ["CLIP", "KSAMPLER", "VAE", "CFGGuider", "ClipVisionModel", "Conditioning", "Latent", "ModelPatcher", "Noise"]

Conditioning = list[list[Any]]  # [embedding (b, tokens, c), its extras by name] for each part of a prompt
Latent = dict[str, Any]  # "samples" (b, c, ..., h, w), and what other nodes have told of them


class Noise(Protocol):
    """A NOISE; the host's own io.Noise says that it is a tensor."""

    seed: int

    def generate_noise(self, input_latent: Latent) -> Tensor:
        """Noise (b, c, ..., h, w) for a LATENT."""
