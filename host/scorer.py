"""Scoring pictures against words in the host: CLIP vision with gradients, and its text tower."""

from __future__ import annotations

from typing import Any

import comfy.model_management
import torch
import torch.nn.functional as F
from torch import Tensor

from ..core.pictures.channels import as_rgb
from .copies import copy_of
from .types import CLIP, VAE, ClipVisionModel


class ImageScorer:
    """The host's CLIP vision model as a function of pictures that gradients pass."""

    def __init__(self, clip_vision: ClipVisionModel) -> None:
        comfy.model_management.load_model_gpu(clip_vision.patcher)
        self.model, self.settings = copy_of(clip_vision.model, clip_vision.load_device), clip_vision

    def output(self, pictures: Tensor) -> tuple[Tensor, ...]:
        """Last hidden states (b, patches, d), hidden states, image embeddings (b, e) of pictures (b, 1, 3 or 4, h, w) in 0..1."""
        pictures = as_rgb(pictures, "pictures", 1)
        size, device = self.settings.image_size, self.settings.load_device
        scale = size / min(pictures.shape[-2:])
        resized = [round(scale * side) for side in pictures.shape[-2:]]
        pictures = pictures if resized == list(pictures.shape[-2:]) else F.interpolate(pictures, resized, mode="bicubic", antialias=True)
        top, left = ((side - size) // 2 for side in resized)
        mean, std = (torch.tensor(values, device=device)[:, None, None] for values in (self.settings.image_mean, self.settings.image_std))
        pixels = pictures[..., top : top + size, left : left + size].float().to(device)
        return self.model(pixel_values=(pixels - mean) / std, intermediate_output=-2)

    def embed(self, pictures: Tensor) -> Tensor:
        """Image embeddings (b, e)."""
        return self.output(pictures)[2].float()


class PictureDecoder:
    """A VAE's decoder as a function of latents that gradients pass: (b, c, h, w), as between nodes, to (b, c, H, W) in 0..1."""

    def __init__(self, vae: VAE) -> None:
        comfy.model_management.load_model_gpu(vae.patcher)
        self.vae = vae
        self.model: Any = copy_of(vae.first_stage_model, vae.device)  # it has more methods than a module

    def __call__(self, latents: Tensor) -> Tensor:
        decoded = self.model.decode(latents.to(self.vae.device, self.vae.vae_dtype)).float()
        return self.vae.process_output(decoded.clone())  # it works in place


PHRASINGS = (
    "{}",
    "a photo of {}",
    "a picture of {}",
    "a close photo of {}",
    "a clear photo of {}",
    "a blurred photo of {}",
    "a dark photo of {}",
    "a bright photo of {}",
    "a black and white photo of {}",
    "a small photo of {}",
    "a good picture of {}",
    "a poor picture of {}",
    "a drawing of {}",
    "a painting of {}",
    "a sketch of {}",
    "a cartoon of {}",
    "a sculpture of {}",
    "a rendering of {}",
    "one picture of many of {}",
    "this is {}",
)


def text_embedding(clip: CLIP, text: str, *, phrasings: bool = False) -> Tensor:
    """The text tower's pooled embedding (e,); or the mean of those of many phrasings, each of length 1 (Radford et al. 2021, 3.1.4)."""
    if phrasings:
        return torch.stack([F.normalize(text_embedding(clip, phrasing.format(text)), dim=0) for phrasing in PHRASINGS]).mean(0)
    pooled = clip.encode_from_tokens(clip.tokenize(text), return_pooled=True)[1]
    if pooled is None:
        raise ValueError(
            "clip: this text encoder gives no pooled embedding, which a scorer needs. Connect the text tower that belongs to "
            "clip_vision, from Load CLIP."
        )
    if not torch.isfinite(pooled).all() or float(pooled.norm()) < 1e-6:
        raise ValueError(
            "clip: this text encoder's embedding is empty; the one in an SD 1.x checkpoint lacks its projection. Connect the "
            "text tower from Load CLIP, such as clip_l."
        )
    return pooled[0].float()


def check_pair(image: Tensor, text: Tensor) -> None:
    """Raise ValueError unless an image embedding (b, e) and a text embedding (e,) may come from one scorer."""
    if image.ndim != 2:
        raise ValueError(
            "clip_vision: this model (SigLIP, DINO or another kind) gives no image embedding to compare with words; choose a "
            "CLIP vision model."
        )
    if image.shape[-1] != text.shape[-1]:
        raise ValueError(
            f"clip: its text embeddings have {text.shape[-1]} numbers, those of clip_vision {image.shape[-1]}: they are not a pair. "
            "Connect the two towers of one CLIP model, such as ViT-L/14 with clip_l or ViT-bigG with clip_g."
        )
