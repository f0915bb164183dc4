"""The demo scorer as the host's own objects: its picture tower as CLIP_VISION, its text tower as CLIP."""

from __future__ import annotations

from pathlib import Path

SCORER, CONFIG = "portrait_scorer.safetensors", "portrait_scorer.json"
CHECKPOINT = "semantic_latents_portrait.safetensors"


def picture_tower(judges: Path):
    """The host's CLIP_VISION object of the scorer, from the folder of the judges."""
    import comfy.clip_vision
    import comfy.utils

    scorer = comfy.clip_vision.ClipVisionModel(str(judges / CONFIG))
    scorer.load_sd(comfy.utils.load_torch_file(str(judges / SCORER), safe_load=True))
    return scorer


def text_tower(weights: Path):
    """The host's CLIP object of the text encoder in the demo checkpoint, from the folder of the weights."""
    import comfy.sd

    return comfy.sd.load_checkpoint_guess_config(str(weights / CHECKPOINT), output_vae=False, output_model=False)[1]
