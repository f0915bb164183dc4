"""Spans of singular vectors: angles, distances, and triplets followed over a run."""

import math

import pytest
import torch

from pack.core.svd.decomposition import decompose
from pack.core.svd.subspaces import distance_matrix, followed, geodesic, principal_angles, random_distance, triplet_likeness


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def basis(rows, k, seed=0):
    return torch.linalg.qr(torch.randn(rows, k, dtype=torch.float64, generator=generator(seed)))[0]


def latent(values, seed=0, size=12):
    """A latent (1, 1, size, size) with these singular values."""
    U, V = basis(size, len(values), seed), basis(size, len(values), seed + 1)
    return (U @ torch.diag(torch.tensor(values, dtype=torch.float64)) @ V.T)[None, None]


def test_angles_are_those_turned_by():
    """e1, e2 turned by 0.3 and 0.7 into e3, e4."""
    eye, turned = torch.eye(6, dtype=torch.float64), torch.zeros(6, 2, dtype=torch.float64)
    for i, angle in enumerate((0.3, 0.7)):
        turned[:, i] = math.cos(angle) * eye[i] + math.sin(angle) * eye[i + 2]
    torch.testing.assert_close(principal_angles(eye[:, :2], turned), torch.tensor([0.3, 0.7], dtype=torch.float64))
    assert float(geodesic(eye[:, :2], turned)) == pytest.approx(math.hypot(0.3, 0.7))


def test_a_span_does_not_depend_on_its_basis():
    U, turn = basis(10, 3), basis(3, 3, 5)
    assert float(geodesic(U, U @ turn)) < 1e-6
    assert float(geodesic(U, basis(10, 3, 7))) == pytest.approx(float(geodesic(U @ turn, basis(10, 3, 7))))


def test_spans_at_right_angles_are_as_far_as_can_be():
    eye = torch.eye(8, dtype=torch.float64)
    assert float(geodesic(eye[:, :3], eye[:, 3:6])) == pytest.approx(math.sqrt(3) * math.pi / 2)


@pytest.mark.parametrize("side", ["left", "right"])
def test_a_map_is_symmetric_with_zeros_where_the_span_is_the_same(side):
    run = [latent([5, 3, 1], 0), latent([9, 2, 1], 0), latent([5, 3, 1], 40)]
    matrix = distance_matrix(run, 2, side)
    assert torch.equal(matrix, matrix.mT)
    assert torch.equal(matrix.diagonal(), torch.zeros(3, dtype=matrix.dtype))
    assert matrix[0, 1] < 1e-5 < 0.5 < matrix[0, 2]


def test_left_and_right_see_height_and_width():
    x = torch.randn(1, 2, 8, 14, generator=generator())
    turned = [x, torch.randn(1, 2, 8, 14, generator=generator(1))]
    assert torch.allclose(distance_matrix(turned, 3, "left"), distance_matrix([t.mT.contiguous() for t in turned], 3, "right"), atol=1e-6)


def test_more_vectors_than_there_are_are_refused():
    with pytest.raises(ValueError, match="rank"):
        distance_matrix([latent([1, 1])], 13, "left")


def test_random_spans_are_as_far_as_random_latents_are():
    noise = [torch.randn(20, 1, 16, 16, generator=generator(i)) for i in range(2)]
    assert float(distance_matrix(noise, 3, "left")[0, 1]) == pytest.approx(random_distance(16, 3), rel=0.05)
    assert random_distance(16, 16) < 1e-5


def test_triplets_that_change_places_are_followed():
    U, V = basis(10, 3), basis(10, 3, 3)

    def made(values):
        return (U @ torch.diag(torch.tensor(values, dtype=torch.float64)) @ V.T)[None, None]

    paths = followed([made([1.0, 5.0, 3.0]), made([2.0, 5.0, 1.0]), made([9.0, 2.0, 1.0])], 0, 3)
    assert paths.ranks.tolist() == [[3, 1, 2], [2, 1, 3], [1, 2, 3]]
    assert (paths.likeness > 0.999).all()
    assert paths.mobility == pytest.approx((1 + 0 + 1 + 1 + 1 + 0) / 6, abs=1e-3)


def test_a_run_that_stands_still_has_no_mobility():
    x = torch.randn(1, 2, 9, 7, generator=generator())
    assert followed([x, 2 * x, x], 1, 4).mobility == 0


def test_a_channel_or_a_count_that_is_not_there_is_refused():
    x = torch.randn(1, 2, 9, 7, generator=generator())
    with pytest.raises(ValueError, match="channel: got 3, the latent has 2"):
        followed([x, x], 2, 4)
    with pytest.raises(ValueError, match="triplets"):
        followed([x, x], 0, 8)


def test_likeness_is_1_for_the_same_triplet_and_0_for_another():
    svd = decompose(torch.randn(1, 1, 6, 6, dtype=torch.float64, generator=generator()))
    torch.testing.assert_close(triplet_likeness(svd, svd), torch.eye(6, dtype=torch.float64), atol=1e-8, rtol=0)
