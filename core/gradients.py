"""Copies of a host's modules that gradients can pass."""

from __future__ import annotations

import copy

from torch import nn


def passable(module: nn.Module) -> nn.Module:
    """A frozen copy through which gradients flow to its input.

    Made outside inference mode, as the original's weights may be inference tensors, which autograd refuses. Layer norms
    work on a copy of their input: some models add to it in place afterwards, while its gradient still needs it.
    """
    result = copy.deepcopy(module).requires_grad_(False)
    for part in result.modules():
        if isinstance(part, nn.LayerNorm):
            part.register_forward_pre_hook(lambda module, inputs: (inputs[0].clone(), *inputs[1:]))
    return result
