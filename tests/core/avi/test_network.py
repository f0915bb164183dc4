"""The network of values, and descent to the optimum of the closed form."""

import torch

from pack.core.avi.integration import LossWeights, integrate, objective
from pack.core.avi.network import train
from pack.core.svd.decomposition import decompose
from pack.tests.core.avi.pairs import pair


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
