"""Directions of random tables and networks, and h to shift."""

import torch
from torch import nn

from pack.core.hspace.direction import Direction, Family
from pack.core.hspace.network import ImplicitNetwork
from pack.core.hspace.trained import TrainedDirection

FAMILY = Family("SD15", "EPS", 6)


def network(seed, scale=2.0):
    generator, result = torch.Generator().manual_seed(seed), ImplicitNetwork(6, scale).requires_grad_(False)
    for weight in result.parameters():
        nn.init.normal_(weight, 0, 0.5, generator=generator)
    return result


def table(seed, levels=(10.0, 1.0), family=FAMILY):
    return Direction(
        torch.randn(len(levels), 6, 4, 4, generator=torch.Generator().manual_seed(seed)), levels, family, "random", {"target": str(seed)}
    )


def trained(seed, **settings):
    return TrainedDirection(network(seed), table(seed, **settings))


def some_h(*shape):
    return 3 * torch.randn(*(shape or (3, 6, 4, 4)), generator=torch.Generator().manual_seed(7))
