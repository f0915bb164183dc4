"""The matrices of a latent."""

import pytest
import torch

from pack.core.svd.matrices import MatrixShape, matricise, matrix_shape, unmatricise


@pytest.mark.parametrize("layout", ["channel", "joint"])
def test_matrices_return_to_the_latent(latent, layout):
    matrices = matricise(latent, layout)
    assert matrices.shape[1:] == matrix_shape(latent.shape, layout)
    assert torch.equal(unmatricise(matrices, tuple(latent.shape), layout), latent)


def test_channel_layout_has_one_matrix_per_sample_channel_and_frame():
    x = torch.randn(2, 3, 4, 5, 6)
    assert torch.equal(matricise(x, "channel")[(1 * 3 + 2) * 4 + 1], x[1, 2, 1])


def test_joint_layout_has_one_matrix_per_sample_and_frame():
    x = torch.randn(2, 3, 4, 5, 6)
    assert torch.equal(matricise(x, "joint")[1 * 4 + 3], x[1, :, 3].flatten(1))
    assert matrix_shape(x.shape, "joint") == MatrixShape(3, 30)


def test_unknown_layout_names_the_known_ones():
    with pytest.raises(ValueError, match="layout: got 'rows'; choose one of channel, joint"):
        matricise(torch.zeros(1, 4, 8, 8), "rows")
