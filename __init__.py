"""Semantic Latents: sliders for one attribute of an image, found in a diffusion model's own latent spaces."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .nodes import SemanticLatents

WEB_DIRECTORY = "./nodes/web"


async def comfy_entrypoint() -> SemanticLatents:
    """Called by ComfyUI. The nodes are imported here, not above, so that tests of core need no ComfyUI."""
    try:
        from .nodes import SemanticLatents
    except Exception:
        logging.exception("Semantic Latents could not be loaded")  # ComfyUI itself prints one line only
        raise
    return SemanticLatents()
