"""Every test here runs in inference mode, as a prompt does, and may ask for a random direction."""

import pytest
import torch

from pack.core.hspace.direction import Direction


@pytest.fixture
def direction_for(pack_nodes):
    from pack.host.families import family_of

    def make(world, *, scale=1.0, levels=(30.0, 1.0), size=(2, 2), seed=0):
        family = family_of(world.model)
        shifts = scale * torch.randn(len(levels), family.channels, *size, generator=torch.Generator().manual_seed(seed))
        return Direction(shifts, levels, family, "random")

    return make


@pytest.fixture(autouse=True)
def as_in_a_prompt(inference):
    """Without gradients, with a folder of its own for previews."""
