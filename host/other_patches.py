"""What other nodes have put on a model, in words for an error: only what is really there is named."""

from __future__ import annotations

from typing import Any

from comfy.model_patcher import ModelPatcher

CACHES = {"easycache": "EasyCache", "lazycache": "LazyCache"}  # by the keys of their wrappers


def why_not_reached(model_options: dict[str, Any]) -> str:
    """What keeps a call from the UNet's middle block, or may: as a clause."""
    options = model_options.get("transformer_options", {})
    keys = {key: None for kind in options.get("wrappers", {}).values() for key in kind if not str(key).startswith("semantic_latents")}
    caches = [name for key, name in CACHES.items() if key in keys]
    if caches:
        return f"{' and '.join(caches)} skips steps"
    others = [f"the wrapper {key}" if key else "a wrapper without a name" for key in keys] + ["a UNet function wrapper"] * (
        "model_function_wrapper" in model_options
    )
    if others:
        return f"another node's patch ({', '.join(others)}) skips calls of the UNet, or makes them in its own way"
    return "the UNet's blocks are skipped, or called in another way than the host's"


def step_skipped(model_options: dict[str, Any]) -> ValueError:
    """For a node that looks at every step."""
    return ValueError(
        f"model: a step did not reach the UNet's middle block: {why_not_reached(model_options)}. Connect the model without that patch here."
    )


def options_of(model: ModelPatcher) -> dict[str, Any]:
    """The model's options as a run sees them, with its wrappers."""
    return {
        **model.model_options,
        "transformer_options": {**model.model_options.get("transformer_options", {}), "wrappers": model.wrappers},
    }
