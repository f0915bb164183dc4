"""Attributes on a model: a sampler that comes into its runs gets them inside, as Apply Attribute puts them there.

A patched model carries its uses as a tuple in its transformer options, so that stacking, cloning and disconnecting are the host's own.
"""

from __future__ import annotations

from typing import Any

from comfy.model_patcher import ModelPatcher
from comfy.patcher_extension import WrappersMP
from torch import Tensor

from ..core.latent import is_off
from .attributes import Use, check_kind, with_uses
from .options import USES
from .samplers import inner_function, with_function
from .types import Sampler, WrapperExecutor


def with_use(model: ModelPatcher, use: Use, name: str = "attribute") -> ModelPatcher:
    """A clone of the model that carries one more use; the model itself at strength 0, or under an empty mask.

    Raises ValueError, naming the attribute's input, for one of another kind of latents.
    """
    check_kind(use.attribute, model, name)
    if is_off(use.strength, use.mask):
        return model
    patched = model.clone()
    options = patched.model_options["transformer_options"]
    if USES not in options:
        patched.add_wrapper_with_key(WrappersMP.OUTER_SAMPLE, USES, edit_inside)
    options[USES] = (*options.get(USES, ()), use)
    return patched


def check_carries_none(model: ModelPatcher, why: str) -> None:
    """Raise ValueError for a model that carries an attribute."""
    if USES in model.model_options["transformer_options"]:
        raise ValueError(
            f"model: it carries an attribute, {why}; connect the model as it is before Apply Attribute to Model or Load Slider."
        )


def edit_inside(
    executor: WrapperExecutor, noise: Tensor, latent_image: Tensor, sampler: Sampler, sigmas: Tensor, *args: Any, **kwargs: Any
) -> Tensor:
    """OUTER_SAMPLE wrapper: the run with the uses inside the function of its sampler. Those that it brings itself come first.

    Raises ValueError for a sampler that nothing can be edited inside of.
    """
    uses = executor.class_obj.model_options["transformer_options"][USES]
    edited = with_function(sampler, with_uses(inner_function(sampler), uses))
    return executor(noise, latent_image, edited, sigmas, *args, **kwargs)
