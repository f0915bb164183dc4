"""Each algorithm against the full SVD in float64."""

from types import SimpleNamespace

import pytest
import torch

from pack.core.svd import triplets
from pack.core.svd.triplets import gram_triplets, in_float64, krylov_triplets, left_triplets

RANK = 256
INDEX = torch.arange(RANK).double()
DECAYING = {
    "geometric": 0.9**INDEX,
    "as an image": 1 / (1 + INDEX) ** 1.5,
    "down to 1e-4": 10 ** (-4 * INDEX / 255),
    "rank 3": torch.tensor([3.0, 2.0, 1.0] + 253 * [0.0]).double(),
    "outliers of noise": torch.cat([torch.linspace(130, 60, 8), 32 * (1 - (INDEX[:-8] / 248) ** 0.7)]),
    "near tie inside": torch.cat([torch.tensor([1.0, 1.0, 1 - 1e-7, 0.5]), 0.1 * 0.9 ** INDEX[:-4]]),
    "far below the first": torch.cat([torch.tensor([1.0]), 1e-4 * 0.9 ** INDEX[:-1]]),
    "zero": torch.zeros(RANK).double(),
}
FLAT = {
    "noise": torch.linspace(2, 0.01, RANK),
    "orthogonal": torch.ones(RANK),
    "tie at the cut": torch.cat([torch.ones(9), 0.5 ** INDEX[:-9]]),
}


def leading_part(U, X):
    """Projection of X on the columns of U."""
    return U @ (U.mT @ X)


def svd_part(X, count):
    U = torch.linalg.svd(X, full_matrices=False).U[..., :count]
    return leading_part(U, X)


def distance(a, b, X):
    """Frobenius distance relative to X, the worst matrix of the stack."""
    return ((a - b).flatten(1).norm(dim=1) / X.flatten(1).norm(dim=1).clamp(min=1e-30)).max()


@pytest.mark.parametrize("count", [1, 3, 5])
@pytest.mark.parametrize("rows, cols", [(5, 5), (24, 40), (7, 300)])
def test_gram_is_the_svd_to_1e_12(rows, cols, count):
    X = torch.randn(6, rows, cols, dtype=torch.float64)
    U, S = gram_triplets(X)
    assert distance(leading_part(U[..., :count], X), svd_part(X, count), X) < 1e-12
    torch.testing.assert_close(S, torch.linalg.svdvals(X), rtol=1e-10, atol=0)


def test_gram_keeps_eight_digits_of_the_values(spectrum_of):
    values = torch.logspace(0, -7, 48, dtype=torch.float64)
    _, S = gram_triplets(spectrum_of(values, 48, 64))
    assert (S - values).abs().max() < 2e-8


@pytest.mark.parametrize("name", DECAYING)
@pytest.mark.parametrize("count", [4, 8])
def test_krylov_is_the_svd_to_1e_6_where_it_converges(name, count, spectrum_of):
    X = spectrum_of(DECAYING[name], RANK, 300, count=2)
    U, S = krylov_triplets(X, count)
    assert distance(leading_part(U, X), svd_part(X, count), X) < 1e-6
    torch.testing.assert_close(S[0], DECAYING[name][:count], rtol=1e-6, atol=1e-9)
    torch.testing.assert_close(U.mT @ U, torch.eye(count).double().expand(2, -1, -1), atol=1e-9, rtol=0)


@pytest.mark.parametrize("name", FLAT)
def test_krylov_gives_up_where_it_does_not_converge(name, spectrum_of):
    assert krylov_triplets(spectrum_of(FLAT[name], RANK, 300, count=2), 8) is None


def test_one_matrix_that_does_not_converge_is_enough_to_give_up(spectrum_of):
    X = torch.cat([spectrum_of(DECAYING["geometric"], RANK, RANK, count=2), spectrum_of(FLAT["noise"], RANK, RANK, count=1)])
    assert krylov_triplets(X[:2], 8) is not None
    assert krylov_triplets(X, 8) is None


@pytest.mark.parametrize("values", [DECAYING["geometric"], FLAT["noise"]])
def test_few_triplets_of_a_large_matrix_are_the_same_by_either_way(values, spectrum_of):
    X = spectrum_of(values, RANK, RANK, count=2)
    U, S = left_triplets(X, 4)
    assert distance(leading_part(U, X), svd_part(X, 4), X) < 1e-6
    torch.testing.assert_close(S, torch.linalg.svdvals(X)[:, :4], rtol=1e-6, atol=0)


@pytest.fixture
def ways(monkeypatch):
    """Names of the algorithms that `left_triplets` ran, in order."""
    ran = []
    for name in ("gram_triplets", "krylov_triplets"):
        algorithm = getattr(triplets, name)
        monkeypatch.setattr(triplets, name, lambda *args, name=name, algorithm=algorithm: ran.append(name) or algorithm(*args))
    return ran


@pytest.mark.parametrize(
    "values, count, expected",
    [
        (DECAYING["geometric"], 4, ["krylov_triplets"]),
        (FLAT["noise"], 4, ["krylov_triplets", "gram_triplets"]),
        (DECAYING["geometric"], 200, ["gram_triplets"]),
        (DECAYING["geometric"][:64], 2, ["gram_triplets"]),
        (DECAYING["geometric"], 0, []),
    ],
)
def test_algorithm_is_chosen_by_what_is_asked(values, count, expected, spectrum_of, ways):
    left_triplets(spectrum_of(values, len(values), 300, count=1), count)
    assert ways == expected


def test_equal_inputs_give_equal_bits_and_leave_the_random_state(spectrum_of):
    X = spectrum_of(DECAYING["geometric"], RANK, 300)
    state = torch.get_rng_state()
    first, second = krylov_triplets(X, 8), krylov_triplets(X.clone(), 8)
    assert all(torch.equal(a, b) for a, b in zip(first, second))
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("device, where", [("cpu", "cpu"), ("cuda:1", "cuda:1"), ("mps", "cpu"), ("xpu", "cpu")])
def test_work_is_done_in_float64_on_the_cpu_where_a_device_has_none(device, where):
    x = SimpleNamespace(device=torch.device(device), to=lambda device, dtype: (device, dtype))
    assert in_float64(x) == (torch.device(where), torch.float64)
