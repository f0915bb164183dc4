"""What a direction is trained for, and the optimisation of its network."""

import math

import pytest
import torch

from pack.core import training
from pack.core.implicit import ImplicitNetwork
from pack.core.training import Training, change_loss, difference, directional_loss, matching_loss


def noise(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def quadratic(network):
    """A shift that the network shall learn."""
    h = noise(4, 6, 3, 3, seed=1)
    return (network(h, 2.0) - torch.linspace(-1, 1, 6)[:, None, None]).square().mean()


def trained(updates=60, rate=0.02):
    result = Training(ImplicitNetwork(6), rate, updates)
    for _ in range(updates):
        result.update(quadratic(result.network))
    return result


def copied(network):
    return {key: value.clone() for key, value in network.state_dict().items()}


def same(one, two):
    return one.keys() == two.keys() and all(torch.equal(one[key], two[key]) for key in one)


def test_matching_is_1_without_an_edit_and_0_at_the_target():
    plain, target = noise(2, 4, 5, 5), noise(2, 4, 5, 5, seed=1)
    assert matching_loss(plain, target, plain) == 1 and matching_loss(target, target, plain) == 0
    assert matching_loss(torch.lerp(plain, target, 0.5), target, plain).item() == pytest.approx(0.25)
    assert torch.isfinite(matching_loss(plain, plain, plain))


def test_matching_is_the_same_for_predicted_noises():
    plain, target, edited = (noise(2, 4, 5, 5, seed=seed) for seed in range(3))
    clean = matching_loss(edited, target, plain)
    noises = matching_loss(*((7 - x) / 3 for x in (edited, target, plain)))
    torch.testing.assert_close(noises, clean)


def test_directional_is_0_for_pictures_that_move_as_the_text_does():
    before, change = noise(3, 8), noise(8, seed=1)
    for length in (0.1, 1.0, 30.0):
        assert directional_loss(before, before + length * change, change).item() == pytest.approx(0, abs=1e-5)


def test_directional_is_ln_2_across_and_grows_with_the_angle():
    before, one, two = noise(3, 8), torch.eye(8)[0], torch.eye(8)[1]
    assert directional_loss(before, before + two, one).item() == pytest.approx(math.log(2), rel=1e-5)
    losses = [directional_loss(before, before + math.cos(angle) * one + math.sin(angle) * two, one) for angle in torch.linspace(0, math.pi, 20)]
    assert torch.stack(losses).diff().min() > 0


@pytest.mark.parametrize("move", [-1.0, 0.0])
def test_directional_and_its_gradient_are_finite_at_the_opposite_and_at_no_movement(move):
    before, change = noise(3, 8), noise(8, seed=1)
    after = (before + move * change).requires_grad_()
    loss = directional_loss(before, after, change)
    assert torch.isfinite(loss) and torch.isfinite(torch.autograd.grad(loss, after)[0]).all()


@pytest.mark.parametrize("moved", [torch.zeros(3, 8), noise(3, 8, seed=2), 0.01 * noise(3, 8, seed=3)])
def test_the_descent_of_directional_goes_towards_the_text_s_direction(moved):
    before, change = noise(3, 8), noise(8, seed=1)
    after = (before + moved).requires_grad_()
    gradient, = torch.autograd.grad(directional_loss(before, after, change), after)
    assert (-(gradient @ change) > 0).all()


def test_a_text_s_direction_does_not_know_the_lengths_of_embeddings():
    source, target = noise(8), noise(8, seed=1)
    torch.testing.assert_close(difference(3 * source, 0.2 * target), difference(source, target))
    torch.testing.assert_close(difference(source, target), target / target.norm() - source / source.norm())


def test_change_is_the_mean_absolute_change():
    plain = noise(2, 4, 5, 5)
    half = torch.cat([plain[:1], plain[1:] - 3])
    assert change_loss(plain, plain) == 0 and change_loss(half, plain).item() == pytest.approx(1.5)


def test_training_descends_and_tells_each_loss():
    told = trained()
    assert len(told.losses) == 60 and told.losses[-1] < 0.1 * told.losses[0]
    assert quadratic(told.network) < told.losses[0] and quadratic(told.average) < 0.2 * told.losses[0]


def test_training_leaves_the_given_network_as_it_was():
    given = ImplicitNetwork(6)
    before = copied(given)
    told = Training(given, 0.02, 3)
    told.update(quadratic(told.network))
    assert same(given.state_dict(), before) and all(weight.grad is None for weight in given.parameters())


def test_a_network_made_in_inference_mode_can_be_trained_on():
    with torch.inference_mode():
        given = ImplicitNetwork(6).requires_grad_(False)
    told = Training(given, 0.02, 3)
    told.update(quadratic(told.network))
    assert not same(told.network.state_dict(), given.state_dict())


def test_the_scale_of_the_loss_inside_does_not_show(monkeypatch):
    found = []
    for scale in (1.0, 2.0**10):
        monkeypatch.setattr(training, "LOSS_SCALE", scale)
        torch.manual_seed(0)
        found.append(copied(trained(updates=5).network))
    assert same(*found)


SPOILT = {"loss NaN": lambda loss: loss * math.nan, "loss Inf": lambda loss: loss + math.inf, "gradient NaN": lambda loss: loss + (0 * loss).sqrt()}


@pytest.mark.parametrize("kind", SPOILT)
def test_what_is_no_number_is_refused_and_the_weights_stay(kind):
    told = trained(updates=3)
    network, average = copied(told.network), copied(told.average)
    with pytest.raises(ValueError, match="learning_rate"):
        told.update(SPOILT[kind](quadratic(told.network)))
    assert same(told.network.state_dict(), network) and same(told.average.state_dict(), average) and len(told.losses) == 3


def test_the_average_lies_among_the_weights_that_were_and_behind_the_last():
    told = Training(ImplicitNetwork(6), 0.02, 20)
    start = told.network.leave.bias.detach().clone()
    seen = [start]
    for _ in range(20):
        told.update(quadratic(told.network))
        seen.append(told.network.leave.bias.detach().clone())
        low, high = torch.stack(seen).amin(0), torch.stack(seen).amax(0)
        assert (told.average.leave.bias >= low - 1e-7).all() and (told.average.leave.bias <= high + 1e-7).all()
    assert 0.5 * (seen[-1] - start).norm() < (told.average.leave.bias - start).norm() < (seen[-1] - start).norm()
    assert torch.equal(told.average.scale, told.network.scale)
