"""Nodes of the host called as a graph calls them, and random tensors to feed them."""

import importlib

import torch


def outputs(name, **inputs):
    """Those of a node of the host; "freelunch.FreeU" for one of comfy_extras."""
    module, _, name = name.rpartition(".")
    found = getattr(importlib.import_module(f"comfy_extras.nodes_{module}" if module else "nodes"), name)
    result = found.execute(**inputs) if hasattr(found, "execute") else getattr(found(), found.FUNCTION)(**inputs)
    return getattr(result, "args", result)


def node(name, **inputs):
    """The first of them."""
    return outputs(name, **inputs)[0]


def random(seed, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))
