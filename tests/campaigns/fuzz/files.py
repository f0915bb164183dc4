"""The files that are damaged: small whole ones of every kind that the loaders read, and the loaders."""

import functools
import io
from dataclasses import replace

import torch
from safetensors.torch import save as saved

from pack.core.avi.attribute import Attribute, LatentKind, Mixture, Recipe
from pack.core.avi.file import attribute_tensors, load_attribute
from pack.core.avi.network import ValueNetwork
from pack.core.hspace.direction import Direction, Family
from pack.core.hspace.file import direction_tensors, load_direction
from pack.core.hspace.injection import Window
from pack.core.hspace.network import ImplicitNetwork
from pack.core.hspace.published import load_published
from pack.core.hspace.released import block_in, released_direction
from pack.core.hspace.trained import TrainedDirection, mixed
from pack.core.slider_file import KeptSlider, load_slider, slider_tensors
from pack.core.svd.decomposition import decompose
from pack.tests.released import file_of, weights

MATRIX = "controlnet.fc1.weight"
PICKLED = {"published", "released block"}
ATTRIBUTES = {"attribute", "attribute with network", "mix of attributes", "large attribute"}


def pth(value, **options):
    stream = io.BytesIO()
    torch.save(value, stream, **options)
    return stream.getvalue()


def table(channels, levels, size=4):
    sigmas = tuple(20.0 / 2**i for i in range(levels))
    return Direction(
        torch.randn(levels, channels, size, size), sigmas, Family("SD15", "EPS", channels), "contrast", {"target": "a smile", "seed": "1"}
    )


def trained(channels, levels):
    network = ImplicitNetwork(channels, 1 / 3).requires_grad_(False)
    torch.nn.init.normal_(network.leave.weight)
    return TrainedDirection(network, table(channels, levels))


def attribute(size, with_network):
    stored = decompose(torch.randn(1, 4, size, size), rank=3)
    width = sum(Recipe().ranks(stored.matrix))
    return Attribute(
        Recipe(),
        stored,
        LatentKind("SD15", 4),
        ValueNetwork(4, width).requires_grad_(False) if with_network else None,
        {"exact": 0.25},
        {"source": "a portrait", "target": "a beard"},
    )


def slider():
    """From words, with a mask of its prompt's tokens."""
    extras = {"pooled_output": torch.randn(1, 16), "attention_mask": torch.ones(1, 12, dtype=torch.int64), "width": 64, "text": "a"}
    plus, minus = ([[torch.randn(1, 12, 16), dict(extras)]] for _ in range(2))
    words = {"wanted": "a smile"}
    return KeptSlider("a smile", words, "prediction", Window(0.1, 0.8), "SD15", {"plus": plus, "minus": minus, "opposite": 2 * minus})


def suffix_of(base):
    return ".pth" if base in PICKLED else ".safetensors"


@functools.cache
def whole():
    """Whole files, as bytes, by what they hold."""
    torch.manual_seed(0)
    mix = mixed([trained(6, 2), mixed([table(6, 3), trained(6, 1)], [0.1, 2.0], orthogonalise=True)], [1.0, -0.5], keep_size=True)
    directions = {"table": table(6, 3), "one level": table(4, 1), "large table": table(512, 8, 16), "trained": trained(32, 3), "mixed": mix}
    block = replace(released_direction(*block_in(weights("ADM", 32, 16)), "x"), family=trained(32, 2).family)
    plain, learned = attribute(8, False), attribute(16, True)
    attributes = {
        "attribute": [(plain, 1.0)],
        "attribute with network": [(learned, 1.0)],
        "mix of attributes": [(learned, 0.5), (plain, -1.0)],
        "large attribute": [(attribute(512, False), 1.0)],
    }
    return {
        **{name: saved(*direction_tensors(value)) for name, value in directions.items()},
        **{name: saved(*attribute_tensors(Mixture(tuple(value)))) for name, value in attributes.items()},
        "slider": saved(*slider_tensors(slider())),
        "published": pth({MATRIX: torch.randn(81920, 8)}),
        "block": saved(*direction_tensors(block)),
        "mix with a block": saved(*direction_tensors(mixed([block, trained(32, 2)], [1.0, -0.5]))),
        "released block": pth(file_of(weights("DDPM", 32, 16))),
    }


def load(path, base):
    """As the nodes' execute does."""
    if base == "slider":
        return load_slider(path, ("cross-attention", "prediction"))
    return load_attribute(path) if base in ATTRIBUTES else load_published(path, "young") if path.suffix == ".pth" else load_direction(path)


def tensors_of(thing):
    """The tensors and the metadata that a slider, a direction or an attribute is saved as."""
    if isinstance(thing, KeptSlider):
        return slider_tensors(thing)
    return attribute_tensors(thing) if hasattr(thing, "kind") else direction_tensors(thing)
