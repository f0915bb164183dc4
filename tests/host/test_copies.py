"""Copies of modules that gradients pass to their input."""

import pytest
import torch
from torch import nn

from pack.host.copies import passable


@pytest.fixture
def inference():
    """Gradients are recorded here: a node that needs them leaves the host's inference mode itself."""


class Block(nn.Module):
    """A transformer's block: adds to its input, in place where it is told to."""

    def __init__(self, in_place):
        super().__init__()
        self.in_place, self.norm, self.linear = in_place, nn.LayerNorm(6), nn.Linear(6, 6)
        self.register_buffer("gain", torch.rand(6) + 0.5)

    def forward(self, x):
        change = self.linear(self.norm(x)) * self.gain
        if not self.in_place:
            return x + change
        x += change
        return x


def blocks(in_place):
    """Two blocks, the same for either way of adding."""
    torch.manual_seed(0)
    return nn.Sequential(Block(in_place), Block(in_place))


def slope(module, x):
    x = x.clone().requires_grad_()
    return torch.autograd.grad(module(1 * x).square().sum(), x)[0]


def test_gradients_pass_a_module_that_adds_to_its_input_after_a_layer_norm():
    x = torch.randn(3, 6)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        slope(blocks(True), x)
    torch.testing.assert_close(slope(passable(blocks(True)), x), slope(blocks(False), x))


@pytest.mark.parametrize("in_place", [True, False])
def test_the_copy_computes_the_same(in_place):
    x = torch.randn(3, 6)
    assert torch.equal(passable(blocks(in_place))(x.clone()), blocks(in_place)(x.clone()))


def test_only_the_input_gets_a_gradient():
    copy, x = passable(blocks(True)), torch.randn(3, 6).requires_grad_()
    copy(1 * x).sum().backward()
    assert x.grad.abs().sum() > 0
    assert not any(w.requires_grad or w.grad is not None for w in copy.parameters())


def test_the_original_is_left_alone():
    module, x = blocks(False), torch.randn(3, 6)
    copy, before = passable(module), module(x)
    assert all(w.requires_grad for w in module.parameters())
    assert not any(part._forward_pre_hooks for part in module.modules())
    for weight in copy.parameters():
        nn.init.zeros_(weight)
    assert torch.equal(module(x), before)
    assert not torch.equal(copy(x), before)


def test_weights_that_are_inference_tensors_pass_gradients_in_a_copy():
    with torch.inference_mode():
        module = blocks(True)
    x = torch.randn(3, 6)
    with pytest.raises(RuntimeError, match="[Ii]nference tensors"):
        slope(module, x)
    torch.testing.assert_close(slope(passable(module), x), slope(blocks(False), x))


class Handle:
    """Memory of a device: to copy it would be to free it twice."""

    def __deepcopy__(self, memo):
        raise AssertionError("a handle was copied")


def test_handles_of_device_memory_stay_behind_and_with_the_original():
    layer, handle = nn.Linear(3, 3), Handle()
    layer._v = handle
    copied = passable(nn.Sequential(layer), lambda original: (original.weight, original.bias))
    assert layer._v is handle
    assert not hasattr(copied[0], "_v")
    assert torch.equal(copied[0].weight, layer.weight)


def test_weights_that_are_patched_on_the_way_are_patched_in_the_copy():
    layer = nn.Linear(3, 3, bias=False)
    layer.weight_function, layer.bias_function = [lambda weight: 2 * weight], []
    copied = passable(layer, lambda original: (original.weight_function[0](original.weight), None))
    assert torch.equal(copied.weight, 2 * layer.weight)
    assert copied.weight_function == []
    assert len(layer.weight_function) == 1
