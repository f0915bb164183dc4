"""AVI's closed form against the loss written out."""

import pytest
import torch

from pack.core.avi.integration import LossWeights, integrate, latent_of, objective
from pack.core.svd.decomposition import decompose
from pack.core.svd.matrices import matricise
from pack.tests.core.avi.pairs import pair

M, N = 3, 4
WEIGHTS = [LossWeights(), LossWeights(1, 0.3), LossWeights(0.7, 0.5, 0.2, 0.1), LossWeights(1, 0, 0, 2)]


def integrated(x, z):
    return integrate(decompose(x), decompose(z), M, N)


def written_out(both, x, z, S, w):
    """The loss as methods and paper write it, from whole latents."""
    y = latent_of(both, S)

    def apart(other):
        return matricise(y - other.double(), "channel").square().sum((-2, -1))

    own = both.S.double()
    return (
        w.target * apart(z)
        + w.source * apart(x)
        + w.target_values * (S - own)[:, M:].square().sum(-1)
        + w.source_values * (S - own)[:, :M].square().sum(-1)
    )


@pytest.mark.parametrize("weights", WEIGHTS)
@pytest.mark.parametrize("shape", [(2, 3, 9, 7), (1, 3, 7, 9), (1, 2, 2, 8, 8)])
def test_the_quadratic_is_the_loss_and_its_solution_the_minimum(weights, shape):
    x, z = pair(shape)
    both = integrated(x, z)
    problem = objective(both, M, x, z, weights)
    S = torch.randn(both.S.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    assert torch.allclose(problem(S), written_out(both, x, z, S, weights), rtol=1e-5)
    best = problem.solution()
    assert torch.allclose((problem.A @ best[..., None])[..., 0], problem.b, rtol=1e-6, atol=1e-6)
    for step in torch.randn(5, *S.shape, dtype=torch.float64):
        assert (problem(best + 0.1 * step) > problem(best)).all()


def test_equal_latents_have_a_solution_and_give_the_latent_back():
    x, _ = pair()
    both = integrate(decompose(x), decompose(x), 7, 7)
    S = objective(both, 7, x, x, LossWeights()).solution()
    assert torch.isfinite(S).all()
    assert torch.allclose(latent_of(both, S).float(), x, atol=1e-4)


def test_all_triplets_of_both_make_any_blend():
    """At full rank AVI with the first two terms is a linear blend, as weighted."""
    x, z = pair((1, 2, 6, 6))
    both = integrate(decompose(x), decompose(z), 6, 6)
    y = latent_of(both, objective(both, 6, x, z, LossWeights(3, 1)).solution())
    inside = latent_of(both, objective(both, 6, x, x, LossWeights()).solution())
    assert torch.allclose(inside.float(), x, atol=1e-3)
    assert (y - (0.75 * z + 0.25 * x)).norm() < 0.02 * (z - x).norm()


def test_one_target_serves_a_batch():
    x, z = pair()
    both = integrate(decompose(x), decompose(z[:1]), M, N)
    alone = integrate(decompose(x[1:]), decompose(z[:1]), M, N)
    assert torch.equal(both.U[3:], alone.U)
    assert torch.equal(both.S[3:], alone.S)
    assert torch.allclose(
        objective(both, M, x, z[:1], LossWeights()).solution()[3:], objective(alone, M, x[1:], z[:1], LossWeights()).solution()
    )


def test_bad_input_is_named():
    x, z = pair()
    with pytest.raises(ValueError, match="source_rank: got 8"):
        integrate(decompose(x), decompose(z), 8, 2)
    with pytest.raises(ValueError, match="target_rank: got 0"):
        integrate(decompose(x), decompose(z), 2, 0)
    with pytest.raises(ValueError, match="target: a latent of shape"):
        integrate(decompose(x), decompose(z[..., :5]), 2, 2)
    with pytest.raises(ValueError, match="source_weight: got -1"):
        LossWeights(source=-1)
    with pytest.raises(ValueError, match="both are 0"):
        LossWeights(0, 0)
