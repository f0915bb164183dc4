"""AVI's closed form against the loss written out, and against descent on it."""

import pytest
import torch

from pack.core.avi.integration import LossWeights, composed, integrate, objective
from pack.core.avi.network import train
from pack.core.svd.decomposition import decompose
from pack.core.svd.matrices import matricise

M, N = 3, 4
WEIGHTS = [LossWeights(), LossWeights(1, 0.3), LossWeights(0.7, 0.5, 0.2, 0.1), LossWeights(1, 0, 0, 2)]


def pair(shape=(2, 3, 9, 7), seed=0):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(shape, generator=generator)
    return x, x + torch.randn(shape, generator=generator)


def integrated(x, z):
    return integrate(decompose(x), decompose(z), M, N)


def written_out(both, x, z, S, w):
    """The loss as methods and paper write it, from whole latents."""
    y = composed(both, S)

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
    assert torch.allclose(composed(both, S).float(), x, atol=1e-4)


def test_all_triplets_of_both_make_any_blend():
    """At full rank AVI with the first two terms is a linear blend, as weighted."""
    x, z = pair((1, 2, 6, 6))
    both = integrate(decompose(x), decompose(z), 6, 6)
    y = composed(both, objective(both, 6, x, z, LossWeights(3, 1)).solution())
    inside = composed(both, objective(both, 6, x, x, LossWeights()).solution())
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


def problems(count):
    pairs = [pair((1, 3, 16, 16), seed) for seed in range(count)]
    both = [integrate(decompose(x), decompose(z), 8, 8) for x, z in pairs]
    return (
        [b.S for b in both],
        [objective(b, 8, x, z, LossWeights(1, 0.5, 0.01, 0.01)) for b, (x, z) in zip(both, pairs)],
        [b.shape for b in both],
    )


def test_the_network_reaches_the_optimum_of_its_own_pair():
    starts, objectives, shapes = problems(1)
    network, losses = train(starts, objectives, shapes, steps=60, seed=0)
    reached, best = objectives[0](network.values(starts[0], shapes[0]).double()).sum(), objectives[0](objectives[0].solution()).sum()
    assert best <= reached < 1.01 * best
    assert losses[-1] < losses[0]


def test_training_is_repeatable_and_reports_each_step():
    with torch.inference_mode():
        starts, objectives, shapes = problems(2)
        reported = []
        before = torch.random.get_rng_state()
        one, losses = train(starts, objectives, shapes, steps=5, seed=3, on_step=reported.append)
        two, _ = train(starts, objectives, shapes, steps=5, seed=3)
        assert torch.equal(torch.random.get_rng_state(), before)
    assert reported == losses
    assert len(losses) == 5
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters()))
    assert not any(p.requires_grad for p in one.parameters())


def test_a_network_does_not_care_for_the_scale_of_the_latent():
    starts, objectives, shapes = problems(1)
    network, _ = train(starts, objectives, shapes, steps=5, seed=0)
    assert torch.allclose(network.values(7 * starts[0], shapes[0]), 7 * network.values(starts[0], shapes[0]), rtol=1e-4)
