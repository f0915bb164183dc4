"""What an attribute adds to a latent, on the shapes of all families."""

import pytest
import torch

from pack.core.avi.attribute import Attribute, LatentKind, Mixture, Pair, Problem, Recipe, described, mean_change, scaled
from pack.core.avi.integration import LossWeights
from pack.core.avi.network import train
from pack.core.sampling.recording import Moment

SHAPES = [(1, 4, 16, 16), (2, 4, 12, 20), (1, 16, 16, 16), (1, 16, 3, 10, 12), (1, 3, 9, 7)]
DEFAULTS = Recipe()


def pair(shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(shape, generator=generator)
    return x, x + 0.5 * torch.randn(shape, generator=generator)


def attribute(shape, recipe=DEFAULTS, network=None):
    x, z = pair((1, *shape[1:]), 9)
    return Attribute(recipe, mean_change([z - x], 2), LatentKind("Any", shape[1]), network)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("solver", ["exact", "MLP"])
def test_a_change_fits_its_latent_and_each_sample_by_itself(shape, solver):
    x, z = pair(shape)
    network = None
    if solver == "MLP":
        problem = Problem.of(x, Pair(z, z), Recipe())
        network, _ = train([problem.both.S], [problem.loss], [problem.both.shape], steps=3, seed=0)
    learned = attribute(shape, network=network)
    change = learned.change(x, Pair(z, z))
    assert change.shape == x.shape
    assert change.dtype == x.dtype
    assert torch.isfinite(change).all()
    assert torch.allclose(change[:1], learned.change(x[:1], Pair(z[:1], z[:1])), atol=1e-5)
    assert learned.stored_change(x).shape == x.shape


def test_pulling_to_the_source_alone_changes_nothing():
    x, z = pair((1, 4, 16, 16))
    recipe = Recipe(weights=LossWeights(target=0, source=1))
    inside = attribute(x.shape, recipe).change(x, Pair(x, x))
    assert inside.abs().max() < 1e-4


def test_the_residual_keeps_what_the_triplets_leave_out():
    x, z = pair((1, 4, 16, 16))
    kept = attribute(x.shape, Recipe(source_rank=2, target_rank=2)).change(x, Pair(z, z))
    bare = attribute(x.shape, Recipe(source_rank=2, target_rank=2, residual=False)).change(x, Pair(z, z))
    assert kept.norm() < 0.5 * bare.norm()


def test_a_target_further_on_is_brought_to_the_source_s_noise():
    clean, noise = pair((1, 4, 8, 8))
    further = Pair.at(Moment(clean + 2 * noise, clean), 2.0, 5.0)
    assert torch.equal(further.code, clean + 2 * noise)
    assert torch.allclose(further.matched, clean + 5 * noise, atol=1e-5)
    same = Pair.at(Moment(clean + 2 * noise, clean), 2.0, 2.0)
    assert same.code is same.matched


def test_a_budget_counts_by_sample_and_keeps_the_sign():
    change, whole = torch.randn(2, 4, 8, 8), 3 * torch.randn(2, 4, 8, 8)
    for strength in (0.1, -7.0):
        got = scaled(change, whole, strength=strength, budget=0.5)
        assert torch.allclose(got.flatten(1).norm(dim=1), 0.5 * whole.flatten(1).norm(dim=1), rtol=1e-5)
        assert (got * change).sum() * strength > 0
    assert torch.equal(scaled(change, whole, strength=0.5), 0.5 * change)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"percent": 1.0}, "percent: got 1.0"),
        ({"ahead": -0.1}, "ahead: got -0.1"),
        ({"percent": 0.9, "ahead": 0.2}, "past the run's end"),
        ({"percent": 0.3, "branch": 0.4}, "branch: got 0.4, after percent 0.3"),
    ],
)
def test_a_recipe_checks_itself(settings, message):
    with pytest.raises(ValueError, match=message):
        Recipe(**{"branch": 0.0, **settings})


def test_a_mix_needs_one_kind_and_finite_weights_and_is_described():
    one, other = attribute((1, 4, 8, 8)), attribute((1, 16, 8, 8))
    with pytest.raises(ValueError, match="attributes: learned on different kinds"):
        Mixture(((one, 1.0), (other, 1.0)))
    with pytest.raises(ValueError, match="weights: must be finite"):
        Mixture(((one, float("inf")),))
    with pytest.raises(ValueError, match="none"):
        Mixture(())
    text = described(Mixture(((one, 1.0), (one, -0.5))))
    assert "Any (4 channels)" in text
    assert "part 2, weight -0.5: latent 8 x 8" in text
    assert "ranks 2 and 2" in text


def test_another_size_is_refused_without_a_target():
    with pytest.raises(ValueError, match="attribute: it was learned at"):
        attribute((1, 4, 8, 8)).stored_change(torch.zeros(1, 4, 8, 9))


def test_not_a_number_is_refused():
    x, z = pair((1, 4, 8, 8))
    with pytest.raises(ValueError, match="NaN or Inf"):
        attribute(x.shape).change(x, Pair(z * float("nan"), z))


def test_where_two_runs_have_not_parted_the_target_s_code_is_what_it_foresees_under_the_source_s_noise():
    x, before, after = (torch.randn(1, 3, 8, 8, generator=torch.Generator().manual_seed(i)) for i in range(3))
    foreseen = Pair.foreseen(Moment(x, before), Moment(x, after), 0.25)
    assert torch.equal(foreseen.code, x + 0.25 * (after - before))
    assert foreseen.matched is foreseen.code
