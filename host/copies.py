"""Copies of a host's modules that gradients can pass."""

from __future__ import annotations

import copy
from collections.abc import Callable

import comfy.ops
import torch
from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel
from torch import Tensor, nn

# What the host's memory management hangs on a layer: handles of device memory, which a copy must neither use nor free,
# and functions that patch its weights on the way, whose result a copy holds already.
HANDLES = (
    "_v",
    "_v_signature",
    "_v_weight",
    "_v_bias",
    "_pin",
    "_pin_hostbuf",
    "_pins",
    "_pin_state",
    "_prefetch",
    "weight_lowvram_function",
    "bias_lowvram_function",
)
FUNCTIONS = ("weight_function", "bias_function")


def passable(module: nn.Module, weights_of: Callable[[nn.Module], tuple[Tensor, Tensor | None]] | None = None) -> nn.Module:
    """A frozen copy through which gradients flow to its input.

    Made outside inference mode, as the original's weights may be inference tensors, which autograd refuses. Layer norms
    work on a copy of their input: some models add to it in place afterwards, while its gradient still needs it.
    weights_of gives the weight and the bias in force of a layer whose memory the host manages.
    """
    taken = [(part, key, vars(part).pop(key)) for part in module.modules() for key in HANDLES if key in vars(part)]
    managed = {id(part) for part, *_ in taken} | {
        id(part) for part in module.modules() if any(getattr(part, key, None) for key in FUNCTIONS)
    }
    try:
        result = copy.deepcopy(module).requires_grad_(False)
    finally:
        for part, key, value in taken:
            setattr(part, key, value)
    for original, part in zip(module.modules(), result.modules(), strict=True):
        if id(original) in managed and weights_of:
            weight, bias = weights_of(original)
            part.weight = nn.Parameter(weight.detach().clone(), requires_grad=False)
            # torch's stubs leave out that None takes a parameter away
            part.bias = None if bias is None else nn.Parameter(bias.detach().clone(), requires_grad=False)  # type: ignore[assignment]
            for key in FUNCTIONS:
                setattr(part, key, [])
        if isinstance(part, nn.LayerNorm):
            part.register_forward_pre_hook(lambda module, inputs: (inputs[0].clone(), *inputs[1:]))
    return result


def copies(unet: UNetModel, *names: str, device: torch.device) -> dict[str, nn.Module]:
    """Copies of a UNet's parts that gradients can pass, by name.

    Gradients cannot pass the host's own parts, whose weights are inference tensors. The copies are of the parts that the UNet
    registered, and not of what a twin of it shows in their place.
    """
    return {name: copy_of(part, device) for name, part in unet.named_children() if name in names}


def copy_of(module: nn.Module, device: torch.device) -> nn.Module:
    """A copy of a module of the host that gradients can pass, with the weights that are in force on a device."""

    def weights_of(layer: nn.Module) -> tuple[Tensor, Tensor | None]:
        bias_dtype = None if layer.bias is None else layer.bias.dtype
        weight, bias, stream = comfy.ops.cast_bias_weight(
            layer, dtype=layer.weight.dtype, device=device, bias_dtype=bias_dtype, offloadable=True
        )
        kept = weight.clone(), None if bias is None else bias.clone()
        comfy.ops.uncast_bias_weight(layer, weight, bias, stream)
        return kept

    return passable(module, weights_of)
