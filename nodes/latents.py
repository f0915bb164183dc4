"""LATENT inputs as the host's own sampler nodes take them."""

from __future__ import annotations

from typing import Any

import comfy.sample

# Told by Empty Latent Image and its like: how many pixels, or frames, its cells stand for.
RATIOS = ("downscale_ratio_spacial", "downscale_ratio_temporal")


def fitted(model: Any, latent: dict[str, Any]) -> dict[str, Any]:
    """The LATENT for a model: an empty one has the model's channels and resolution, another one is as it came."""
    told = {name: latent[name] for name in RATIOS if name in latent}
    rest = {name: value for name, value in latent.items() if name not in RATIOS}
    return {**rest, "samples": comfy.sample.fix_empty_latent_channels(model, latent["samples"], **told)}
