"""Decomposition, composition, gauge, exchange, and variants with one singular value changed."""

import pytest
import torch

from pack.core.svd.decomposition import LatentSVD, compose, decompose, exchange, variants
from pack.core.svd.matrices import matricise

LAYOUTS = pytest.mark.parametrize("layout", ["channel", "joint"])


def close(actual, expected, tolerance=1e-5):
    """Whether the difference is less than tolerance of the norm of what was expected."""
    return (actual.double() - expected.double()).norm() <= tolerance * expected.double().norm()


@LAYOUTS
def test_compose_inverts_decompose(latent, layout):
    y = compose(decompose(latent, layout=layout))
    assert y.shape == latent.shape
    assert close(y, latent, 1e-6)


@LAYOUTS
@pytest.mark.parametrize("dtype, tolerance", [(torch.float64, 1e-12), (torch.float32, 1e-6), (torch.float16, 5e-4), (torch.bfloat16, 4e-3)])
def test_dtype_is_kept_and_the_error_is_its_rounding(dtype, tolerance, layout):
    x = (5 * torch.randn(2, 4, 24, 32)).to(dtype)
    svd = decompose(x, layout=layout)
    assert svd.S.dtype == torch.promote_types(dtype, torch.float32)
    y = compose(svd)
    assert (y.dtype, y.device) == (x.dtype, x.device)
    assert close(y, x, tolerance)


@LAYOUTS
def test_values_are_those_of_the_full_svd_in_float64(latent, layout):
    svd = decompose(latent, layout=layout)
    expected = torch.linalg.svdvals(matricise(latent, layout).double())
    assert (svd.S - expected).abs().amax() <= 1e-6 * expected.amax()
    assert (svd.S.diff() <= 0).all()


@LAYOUTS
def test_vectors_are_orthonormal_even_where_values_vanish(latent, layout):
    svd = decompose(latent, layout=layout)
    identity = torch.eye(svd.rank).expand(len(svd.S), -1, -1)
    torch.testing.assert_close(svd.U.mT @ svd.U, identity, atol=1e-5, rtol=0)
    torch.testing.assert_close(svd.Vh @ svd.Vh.mT, identity, atol=1e-5, rtol=0)


def test_largest_entry_of_each_left_vector_is_positive(latent):
    U = decompose(latent).U
    assert (U.amax(dim=1) >= (1 - 2e-5) * U.abs().amax(dim=1)).all()


def test_gauge_does_not_depend_on_the_sign_of_the_latent():
    x = torch.randn(1, 4, 20, 28)
    plus, minus = decompose(x), decompose(-x)
    torch.testing.assert_close(plus.U, minus.U, atol=1e-5, rtol=0)
    torch.testing.assert_close(plus.Vh, -minus.Vh, atol=1e-5, rtol=0)


def test_rounding_does_not_choose_between_entries_of_equal_magnitude():
    mirrored = torch.outer(torch.tensor([1.0, -1.0]), torch.arange(1.0, 7.0)).expand(1, 1, 2, 6)
    for entry in (0, 1):
        x = mirrored.clone()
        x[0, 0, entry] *= 1 + 2e-6
        assert decompose(x).U[0, 0, 0] > 0


def test_equal_inputs_give_equal_bits():
    x = torch.randn(1, 4, 20, 28)
    first, second = decompose(x), decompose(x.clone())
    assert all(torch.equal(a, b) for a, b in ((first.U, second.U), (first.S, second.S), (first.Vh, second.Vh)))


def test_a_batch_is_its_samples_one_by_one():
    x = torch.randn(3, 4, 20, 28)
    batch = decompose(x)
    singles = [decompose(sample[None]) for sample in x]
    for part in ("U", "S", "Vh"):
        torch.testing.assert_close(getattr(batch, part), torch.cat([getattr(single, part) for single in singles]), atol=1e-5, rtol=1e-5)


def test_frames_of_a_video_are_images():
    x = torch.randn(1, 4, 3, 12, 20)
    frames = torch.stack([decompose(x[:, :, t]).S for t in range(3)], dim=1)
    torch.testing.assert_close(decompose(x).S, frames.flatten(0, 1), atol=1e-5, rtol=1e-5)


def test_turning_the_latent_exchanges_left_and_right_vectors():
    x = torch.randn(1, 4, 20, 28)
    svd, turned = decompose(x), decompose(x.mT)
    torch.testing.assert_close(svd.S, turned.S, atol=1e-5, rtol=1e-5)
    alignment = (svd.U * turned.Vh.mT).sum(1).abs()
    torch.testing.assert_close(alignment, torch.ones_like(alignment), atol=1e-4, rtol=0)


@LAYOUTS
def test_leading_triplets_are_the_first_of_all(latent, layout):
    full = decompose(latent, layout=layout)
    rank = (full.rank + 1) // 2
    some = decompose(latent, layout=layout, rank=rank)
    assert some.U.shape[-1] == some.S.shape[-1] == some.Vh.shape[-2] == rank
    best = LatentSVD(full.U[..., :rank], full.S[:, :rank], full.Vh[:, :rank], full.shape, full.dtype, layout)
    assert close(compose(some), compose(best))


def test_leading_triplets_of_a_large_latent(spectrum_of):
    x = spectrum_of(0.8 ** torch.arange(256), 256, 300)[None].float()
    some = decompose(x, rank=4)
    U, S, Vh = torch.linalg.svd(x[0].double(), full_matrices=False)
    assert close(compose(some)[0], U[..., :4] * S[:, None, :4] @ Vh[:, :4], 1e-6)


def test_no_input_is_modified(latent):
    before = latent.clone()
    compose(decompose(latent))
    assert torch.equal(latent, before)


def test_inference_mode():
    with torch.inference_mode():
        x = torch.randn(1, 4, 12, 16)
        assert close(compose(decompose(x)), x, 1e-6)


@pytest.mark.parametrize("rank", [0, -1, 13])
def test_rank_out_of_range_states_the_rank_of_the_latent(rank):
    with pytest.raises(ValueError, match=f"rank: got {rank}, .*12 x 16.* 12 triplets"):
        decompose(torch.randn(1, 4, 12, 16), rank=rank)


@LAYOUTS
@pytest.mark.parametrize("take", ["values", "vectors", "triplets"])
def test_exchange_with_itself_changes_nothing(take, layout):
    x = torch.randn(2, 4, 12, 16)
    svd = decompose(x, layout=layout)
    assert torch.equal(compose(exchange(svd, svd, take=take)), compose(svd))
    assert torch.equal(compose(exchange(svd, svd, take=take, leading=3)), compose(svd))


def test_exchange_of_values_keeps_the_vectors_and_of_vectors_the_values():
    a, b = decompose(torch.randn(1, 4, 12, 16)), decompose(3 * torch.randn(1, 4, 12, 16))
    values, vectors = exchange(a, b, take="values"), exchange(b, a, take="vectors")
    assert torch.equal(values.S, b.S)
    assert torch.equal(values.U, a.U)
    assert torch.equal(values.Vh, a.Vh)
    assert torch.equal(compose(values), compose(vectors))
    assert torch.equal(compose(exchange(a, b, take="triplets")), compose(b))


def test_exchange_of_leading_triplets_moves_their_part_of_the_latent():
    x, z = torch.randn(2, 1, 4, 12, 16)
    mixed = compose(exchange(decompose(x), decompose(z), take="triplets", leading=5))
    expected = x - compose(decompose(x, rank=5)) + compose(decompose(z, rank=5))
    assert close(mixed, expected)


def test_exchange_of_some_values_leaves_the_others():
    a, b = decompose(torch.randn(1, 4, 12, 16)), decompose(torch.randn(1, 4, 12, 16))
    S = exchange(a, b, take="values", leading=3).S
    assert torch.equal(S, torch.cat([b.S[:, :3], a.S[:, 3:]], dim=1))


def test_exchange_between_shapes_names_both():
    with pytest.raises(ValueError, match=r"svd, other: .* \(1, 4, 12, 16\) and \(1, 4, 16, 12\)"):
        exchange(decompose(torch.randn(1, 4, 12, 16)), decompose(torch.randn(1, 4, 16, 12)))


def test_exchange_refuses_what_it_cannot_match():
    x = torch.randn(1, 4, 12, 16)
    with pytest.raises(ValueError, match="svd, other: two different layouts, channel and joint"):
        exchange(decompose(x), decompose(x, layout="joint"))
    with pytest.raises(ValueError, match="leading: .*holds 12 triplets, the other 5"):
        exchange(decompose(x), decompose(x, rank=5))
    with pytest.raises(ValueError, match="leading: got 6.*12 and 5"):
        exchange(decompose(x), decompose(x, rank=5), leading=6)
    with pytest.raises(ValueError, match="take: got 'signs'"):
        exchange(decompose(x), decompose(x), take="signs")


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
