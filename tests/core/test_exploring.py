"""Variants of a latent with one singular value changed."""

import pytest
import torch

from pack.core.svd.decomposition import decompose, variants

X = torch.randn(1, 3, 10, 8, generator=torch.Generator().manual_seed(0))


def test_each_variant_has_one_value_changed_in_every_channel():
    result = variants(X, [1, 4], [0.0, 1.0, 3.0])
    assert result.shape == (6, 3, 10, 8)
    before = decompose(X)
    for place, (gain, triplet) in enumerate((g, t) for g in (0.0, 1.0, 3.0) for t in (1, 4)):
        values = torch.einsum("nri,nrc,nic->ni", before.U, result[place], before.Vh)
        expected = before.S.clone()
        expected[:, triplet - 1] *= gain
        torch.testing.assert_close(values, expected, rtol=1e-4, atol=1e-4)


def test_a_gain_of_1_is_the_latent_bit_for_bit():
    assert all(torch.equal(one, X[0]) for one in variants(X, [1, 2], [1.0]))


def test_the_dtype_stays():
    assert variants(X.half(), [1], [0.5, 2]).dtype == torch.float16


def test_a_triplet_that_is_not_there_is_refused():
    with pytest.raises(ValueError, match="triplets: got 9, a latent of this size has 8"):
        variants(X, [1, 9], [2.0])
