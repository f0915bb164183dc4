"""Every test here runs in inference mode, as a prompt does, and may ask for a random direction."""

import pytest
import torch

from pack.core.hspace.direction import Direction, Family

DEMO_FAMILY = Family("Portrait", "V_PREDICTION", 128)


@pytest.fixture
def random_direction():
    def make(seed, family=DEMO_FAMILY, levels=(30.0, 3.0, 0.5), size=(4, 4)):
        shifts = torch.randn(len(levels), family.channels, *size, generator=torch.Generator().manual_seed(seed))
        return Direction(shifts, levels, family, "random", {"seed": str(seed)})

    return make


@pytest.fixture(autouse=True)
def as_in_a_prompt(inference):
    """Without gradients, with a folder of its own for previews."""
