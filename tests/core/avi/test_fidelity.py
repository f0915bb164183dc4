"""The closed form of how far AVI moves a latent, against the latents themselves."""

import pytest
import torch

from pack.core.avi.attribute import Pair, Problem, Recipe, scaled
from pack.core.avi.fidelity import change_of, change_over_weights, strength_for
from pack.core.avi.integration import LossWeights
from pack.tests.core.avi.pairs import pair

SHAPES = [(2, 4, 12, 20), (1, 16, 3, 10, 12), (1, 3, 9, 7)]
RECIPES = [
    Recipe(),
    Recipe(residual=False),
    Recipe(source_rank=2, target_rank=5, weights=LossWeights(1, 0.25, 0.1, 0.1)),
    Recipe(source_rank=7, target_rank=1, weights=LossWeights(0.3, 1.0, 0.0, 2.0), residual=False),
]


def problem_of(shape, recipe):
    x, z = pair(shape)
    return Problem.of(x, Pair(z, z), recipe), Pair(z, z)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("strength", [1.0, 0.4, -1.5, 0.0])
def test_the_closed_form_is_the_norm_of_the_change(shape, recipe, strength):
    """For the exact optimum and for any other singular values."""
    problem, _ = problem_of(shape, recipe)
    best = problem.values(None)
    for S in (best, best + 0.3 * torch.randn(best.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(2))):
        change = strength * (problem.edited(S) - problem.x.double())
        torch.testing.assert_close(change_of(problem, S, strength), change.flatten(1).norm(dim=1), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("residual", [True, False])
def test_over_the_weights_it_is_that_of_each_optimum(residual):
    x, z = pair((2, 3, 9, 7))
    shares = torch.tensor([0.0, 0.2, 0.5, 0.8, 1.0])
    ranks = dict(source_rank=3, target_rank=4, residual=residual)
    curve = change_over_weights(Problem.of(x, Pair(z, z), Recipe(**ranks)), Pair(z, z), shares)
    for i, w in enumerate(shares.tolist()):
        own = Problem.of(x, Pair(z, z), Recipe(weights=LossWeights(w, 1 - w), **ranks))
        torch.testing.assert_close(curve[:, i], change_of(own, own.values(None)), rtol=1e-6, atol=1e-9)
    assert bool((curve[:, -1] > curve[:, 0]).all())


def test_more_ranks_of_the_source_keep_it_nearer_without_the_residual():
    moved = []
    for rank in (1, 3, 7):
        problem, _ = problem_of((1, 3, 9, 7), Recipe(source_rank=rank, target_rank=1, weights=LossWeights(0, 1), residual=False))
        moved.append(float(change_of(problem, problem.values(None))))
    assert moved[0] > moved[1] > moved[2] == pytest.approx(0.0, abs=1e-4)


@pytest.mark.parametrize("recipe", RECIPES)
def test_the_strength_for_a_budget_is_that_which_apply_attribute_takes(recipe):
    problem, target = problem_of((2, 4, 12, 20), recipe)
    S = problem.values(None)
    change, whole = problem.edited(S) - problem.x.double(), target.matched.double() - problem.x.double()
    strengths = strength_for(problem, S, target, 0.5)
    expected = scaled(change, whole, budget=0.5)
    torch.testing.assert_close(strengths[:, None, None, None] * change, expected, rtol=1e-5, atol=1e-6)
