"""ComfyUI's own types that the signatures of nodes name."""

from __future__ import annotations

from typing import Any

from comfy.model_patcher import ModelPatcher
from comfy.samplers import KSAMPLER

__all__ = ["KSAMPLER", "Conditioning", "Latent", "ModelPatcher"]

Conditioning = list[list[Any]]  # [embedding (b, tokens, c), its extras by name] for each part of a prompt
Latent = dict[str, Any]  # "samples" (b, c, ..., h, w), and what other nodes have told of them
