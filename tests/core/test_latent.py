"""What counts as a latent, and edits under a mask."""

import pytest
import torch

from pack.core.latent import check_latent, masked


class Nested:
    """As the host's nested tensor: known by its attribute only."""

    is_nested = True


@pytest.mark.parametrize(
    "x, said",
    [
        (Nested(), "nested"),
        (torch.zeros(2, 8, 100), r"\(2, 8, 100\).*[Aa]udio"),
        (torch.zeros(4, 4), r"\(4, 4\)"),
        (torch.zeros(1, 4, 8, 8, dtype=torch.int64), "int64"),
        (torch.zeros(1, 4, 8, 8, dtype=torch.complex64), "complex64"),
        (torch.full((1, 4, 8, 8), torch.nan), "NaN"),
        (torch.tensor([1.0, -torch.inf]).expand(1, 1, 2, 2), "Inf"),
        (torch.zeros(0, 4, 8, 8), r"\(0, 4, 8, 8\)"),
    ],
)
def test_what_is_no_latent_is_refused_by_name(x, said):
    with pytest.raises(ValueError, match=f"^samples: .*{said}"):
        check_latent(x, "samples")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
def test_mask_is_the_latent_at_0_and_the_edit_at_1_bit_for_bit(dtype):
    x, edited = torch.randn(2, 3, 4, 8, 8).to(dtype).unbind()
    mask = (torch.rand(8, 8) > 0.5).float()
    y = masked(x, edited, mask)
    assert y.dtype == dtype
    assert torch.equal(y, torch.where(mask.bool(), edited, x))


def test_mask_mixes_in_proportion_and_broadcasts_per_sample():
    x, edited = torch.zeros(2, 3, 4, 4), torch.ones(2, 3, 4, 4)
    mask = torch.tensor([0.25, 0.75])[:, None, None, None]
    assert torch.equal(masked(x, edited, mask), mask.expand(2, 3, 4, 4))


@pytest.mark.parametrize("shape", [(8, 7), (3, 1, 8, 8), (1, 1, 1, 8, 8)])
def test_mask_of_another_size_names_both_shapes(shape):
    x = torch.zeros(2, 4, 8, 8)
    with pytest.raises(ValueError, match=r"mask: shape .*\(2, 4, 8, 8\)"):
        masked(x, x, torch.zeros(shape))


def test_mask_with_nan_and_edit_of_another_shape_are_refused():
    x = torch.zeros(1, 4, 8, 8)
    with pytest.raises(ValueError, match="mask: contains NaN"):
        masked(x, x, torch.full((8, 8), torch.nan))
    with pytest.raises(ValueError, match=r"\(1, 4, 8, 9\).*\(1, 4, 8, 8\)"):
        masked(x, torch.zeros(1, 4, 8, 9), torch.ones(1))
