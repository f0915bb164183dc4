"""Copies of a host's modules that gradients can pass."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable
from typing import Any

import comfy.ops
import torch
from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel
from comfy.model_base import BaseModel
from torch import Tensor, nn

from .compiled import uncompiled

PATCHES = ("weight_lowvram_function", "bias_lowvram_function")  # of LoRAs that are put on a weight on its way to the GPU
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
    *PATCHES,
)
FUNCTIONS = ("weight_function", "bias_function")
LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
NORMS = (nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)  # some models add to their input in place afterwards, while its gradient still needs it


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


def twin_of_model(model: BaseModel, device: torch.device) -> BaseModel:
    """A model beside the host's own that gradients can pass: it has layers of its own, with the host's weights, which are not copied.

    What is hung on its layers does not reach the host's, and it holds no memory beside theirs. device: where it computes. Layers whose
    weights the host keeps elsewhere bring them along at each call, and once more for their gradient.
    """
    network = with_shared_weights(uncompiled(model.diffusion_model))
    for part in network.modules():
        if isinstance(part, (*LAYERS, *NORMS)) and is_elsewhere(part, device):
            part.forward = functools.partial(_Recomputed.apply, part.forward)  # type: ignore[method-assign]  # of the twin
    twin = copy.copy(model)
    vars(twin)["_modules"] = {**model._modules, "diffusion_model": network}
    return twin


def is_elsewhere(layer: nn.Module, device: torch.device) -> bool:
    """Whether a layer's weight is not where it computes."""
    return isinstance(layer.weight, Tensor) and layer.weight.device != device


class _Recomputed(torch.autograd.Function):
    """A layer of one input whose weight is brought along at each call: nothing of it is kept for the gradient, as the host uses the memory
    that it was in for the next layer. The gradient brings it along again (as in core's node for training with offloading).
    """

    @staticmethod
    def forward(ctx: Any, layer: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        ctx.layer = layer
        ctx.save_for_backward(x)
        return layer(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[None, Tensor]:
        (x,) = ctx.saved_tensors
        with torch.enable_grad():
            x = x.detach().requires_grad_(True)
            (result,) = torch.autograd.grad(ctx.layer(x), x, gradient)
        return None, result


def with_shared_weights(module: nn.Module) -> nn.Module:
    """A module of the same layers with the same weights in memory, which autograd takes for no inference tensors."""
    taken = [(part, key, vars(part).pop(key)) for part in module.modules() for key in HANDLES if key in vars(part)]
    same = {id(tensor): shared(tensor) for part in module.modules() for tensor in (*part._parameters.values(), *part._buffers.values())}
    same |= {id(one): one for part in module.modules() for key in FUNCTIONS for one in getattr(part, key, ())}
    try:
        result = copy.deepcopy(module, same)
    finally:
        for part, key, value in taken:
            setattr(part, key, value)
    for original, part in zip(module.modules(), result.modules(), strict=True):
        for key, on_the_way in zip(FUNCTIONS, PATCHES, strict=True):
            patch = getattr(original, on_the_way, None)
            if patch is not None:
                setattr(part, key, [patch, *getattr(part, key)])
    for part in result.modules():
        if isinstance(part, NORMS):
            part.register_forward_pre_hook(lambda module, inputs: (inputs[0].clone(), *inputs[1:]))
    return result


def shared(tensor: Tensor | None) -> Tensor | None:
    """A tensor of the same memory that is no inference tensor; one that is none, or of a kind of its own, as it is."""
    if tensor is None or type(tensor) not in (Tensor, nn.Parameter) or not tensor.is_inference():
        return tensor
    with torch.inference_mode(False):
        alias = torch.empty(0, dtype=tensor.dtype, device=tensor.device)
        alias.set_(tensor.untyped_storage(), tensor.storage_offset(), tensor.size(), tensor.stride())
    return nn.Parameter(alias, requires_grad=False) if isinstance(tensor, nn.Parameter) else alias
