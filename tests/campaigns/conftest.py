"""Every test here runs in inference mode, as a prompt does."""

import pytest


@pytest.fixture(autouse=True)
def as_in_a_prompt(inference):
    """Without gradients, with a folder of its own for previews."""
