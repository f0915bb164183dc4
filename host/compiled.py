"""Models under torch.compile. Their graphs pass over patches that came after they were traced, and keep those that are gone: the host's
guards leave the transformer options out. Calls that our patches must see therefore run the network itself.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from comfy.model_base import BaseModel
from comfy.model_patcher import ModelPatcher
from comfy.patcher_extension import WrappersMP
from torch import Tensor, nn

from .options import UNCOMPILED
from .types import WrapperExecutor


def uncompiled(network: nn.Module) -> nn.Module:
    """The network in a compiled one, whether torch.compile or its own method made it; itself if it is none."""
    while isinstance(inner := getattr(network, "_orig_mod", None), nn.Module):
        network = inner
    return copy.copy(network) if getattr(network, "_compiled_call_impl", None) else network  # a copy leaves the compiled call behind


@contextmanager
def without_graph(model: BaseModel) -> Iterator[bool]:
    """Has the model run its network uncompiled, and says whether it was compiled."""
    network = model.diffusion_model
    plain = uncompiled(network)
    model.diffusion_model = plain
    try:
        yield plain is not network
    finally:
        model.diffusion_model = network


def run_uncompiled(executor: WrapperExecutor, *args: Any, **kwargs: Any) -> Tensor:
    """APPLY_MODEL wrapper: the call without a compiled graph."""
    with without_graph(executor.class_obj):
        return executor(*args, **kwargs)


def seen_by_patches(model: ModelPatcher) -> ModelPatcher:
    """A clone of the model whose every call is seen by patches; nothing may compile it afterwards."""
    patched = model.clone()
    patched.remove_wrappers_with_key(WrappersMP.APPLY_MODEL, UNCOMPILED)
    patched.add_wrapper_with_key(WrappersMP.APPLY_MODEL, UNCOMPILED, run_uncompiled)
    return patched


def innermost(options: dict[str, Any], key: str) -> None:
    """Put the APPLY_MODEL wrappers of a key behind all others in a run's transformer options.

    They then act inside of whatever puts a compiled network in place.
    """
    wrappers = options["wrappers"][WrappersMP.APPLY_MODEL]
    wrappers[key] = wrappers.pop(key)
