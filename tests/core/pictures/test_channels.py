"""Pictures of one, three and four channels as RGB."""

import pytest
import torch

from pack.core.pictures.channels import as_rgb


@pytest.mark.parametrize("dim", [-1, 1])
def test_grey_is_repeated_and_an_opacity_left_out(dim):
    pictures = torch.rand(2, 4, 5, 4).movedim(-1, dim)
    grey, colours, all_four = (pictures.narrow(dim, 0, channels) for channels in (1, 3, 4))
    assert torch.equal(as_rgb(colours, "images", dim), colours)
    assert torch.equal(as_rgb(all_four, "images", dim), colours)
    assert torch.equal(as_rgb(grey, "images", dim), torch.cat([grey] * 3, dim))


@pytest.mark.parametrize("channels", [0, 2, 5])
def test_other_numbers_of_channels_are_refused_under_the_input_s_name(channels):
    with pytest.raises(ValueError, match=f"^before: got pictures of {channels} channels"):
        as_rgb(torch.zeros(1, 4, 4, channels), "before")
