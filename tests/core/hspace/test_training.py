"""What a direction is trained for, and the optimisation of its network."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch.nn.utils import parameters_to_vector

from pack.core.hspace.network import ImplicitNetwork
from pack.core.hspace.training import Training, change_loss, difference, directional_loss, matching_loss, reach_loss

AXIS = torch.eye(8)[0]
SPOILT = {
    "loss NaN": lambda loss: loss * math.nan,
    "loss Inf": lambda loss: loss + math.inf,
    "gradient NaN": lambda loss: loss + (0 * loss).sqrt(),
}


def noise(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def quadratic(network, spoil=lambda loss: loss):
    """Distance from a shift that the network shall learn, and the shift."""
    shift = network(noise(4, 6, 3, 3, seed=1), 2.0)
    return spoil((shift - torch.linspace(-1, 1, 6)[:, None, None]).square().mean()), shift


def trained(updates=60):
    result = Training(ImplicitNetwork(6), 0.02, updates)
    for _ in range(updates):
        result.update(*quadratic(result.network))
    return result


def weights(network):
    return parameters_to_vector(network.parameters()).detach().clone()


def moved_along(angle, amount=0.3):
    """Embeddings before and after that moved all at this angle to the first axis, and how far they moved at length 1."""
    middle = F.normalize(noise(3, 8) * (torch.arange(8) > 1))
    step = amount * torch.tensor([math.cos(angle), math.sin(angle), 0, 0, 0, 0, 0, 0])
    return middle - step, middle + step, 2 * amount / math.sqrt(1 + amount**2)


def test_matching_is_1_without_an_edit_and_0_at_the_target():
    plain, target = noise(2, 4, 5, 5), noise(2, 4, 5, 5, seed=1)
    assert matching_loss(plain, target, plain) == 1
    assert matching_loss(target, target, plain) == 0
    assert matching_loss(torch.lerp(plain, target, 0.5), target, plain).item() == pytest.approx(0.25)
    assert torch.isfinite(matching_loss(plain, plain, plain))


def test_matching_is_the_same_for_predicted_noises():
    predictions = [noise(2, 4, 5, 5, seed=seed) for seed in range(3)]
    torch.testing.assert_close(matching_loss(*((7 - x) / 3 for x in predictions)), matching_loss(*predictions))


def test_directional_is_0_along_the_text_ln_2_across_and_grows_with_the_angle():
    losses = [directional_loss(*moved_along(angle)[:2], 0.3 * AXIS).item() for angle in (0, *torch.linspace(0.2, 3.1, 20), math.pi)]
    assert losses[0] == pytest.approx(0, abs=1e-5)
    assert losses == sorted(losses)
    assert 3 < losses[-1] < math.inf
    assert directional_loss(*moved_along(math.pi / 2)[:2], AXIS).item() == pytest.approx(math.log(2), rel=1e-5)


def test_reach_is_0_where_pictures_move_as_far_as_the_text_and_1_where_they_do_not():
    before, after, length = moved_along(0)
    for far, loss in ((1.0, 0.0), (0.5, 0.25), (1.5, 0.25)):
        assert reach_loss(before, after, length / far * AXIS).item() == pytest.approx(loss, abs=1e-5)
    assert reach_loss(before, before, AXIS) == 1
    assert reach_loss(*moved_along(math.pi / 2)[:2], AXIS).item() == pytest.approx(1, rel=1e-5)


@pytest.mark.parametrize("loss", [directional_loss, reach_loss])
def test_lengths_of_embeddings_do_not_matter(loss):
    before, after, _ = moved_along(0.5)
    torch.testing.assert_close(loss(3 * before, 0.2 * after, AXIS), loss(before, after, AXIS))
    torch.testing.assert_close(difference(3 * before[0], 0.2 * after[0]), difference(before[0], after[0]))
    torch.testing.assert_close(difference(before[0], after[0]), after[0] / after[0].norm() - before[0] / before[0].norm())


@pytest.mark.parametrize("angle, amount", [(0.5, 0.3), (math.pi / 2, 0.3), (3.0, 0.3), (0.0, 0.0)])
@pytest.mark.parametrize("loss", [directional_loss, reach_loss])
def test_the_descent_goes_towards_the_text_s_direction(loss, angle, amount):
    before, after, _ = moved_along(angle, amount)
    (gradient,) = torch.autograd.grad(loss(before, after.requires_grad_(), AXIS), after)
    assert torch.isfinite(gradient).all()
    assert (-(gradient @ AXIS) > 0).all()


def test_the_gradient_is_finite_at_the_exact_opposite():
    before, after, _ = moved_along(math.pi)
    assert torch.isfinite(torch.autograd.grad(directional_loss(before, after.requires_grad_(), AXIS), after)[0]).all()


def test_change_is_the_mean_absolute_change():
    plain = noise(2, 4, 5, 5)
    assert change_loss(plain, plain) == 0
    assert change_loss(torch.cat([plain[:1], plain[1:] - 3]), plain).item() == pytest.approx(1.5)


def test_training_descends_and_tells_each_loss():
    told = trained()
    assert len(told.losses) == 60
    assert told.losses[-1] < 0.1 * told.losses[0]
    assert quadratic(told.network)[0] < told.losses[0]
    assert quadratic(told.average)[0] < 0.2 * told.losses[0]


@pytest.mark.parametrize("inference", [False, True])
def test_training_leaves_the_given_network_as_it_was_even_one_made_in_inference_mode(inference):
    with torch.inference_mode(inference):
        given = ImplicitNetwork(6)
    before, told = weights(given), Training(given, 0.02, 3)
    told.update(*quadratic(told.network))
    assert torch.equal(weights(given), before)
    assert not torch.equal(weights(told.network), before)


def test_what_goes_back_from_the_prediction_is_of_size_one_however_large_the_loss():
    """A decoder in half precision lies behind it, whose numbers end at 65504."""
    for factor in (1e-8, 1.0, 1e8):
        told, seen = Training(ImplicitNetwork(6), 0.0, 1), []
        loss, shift = quadratic(told.network, lambda loss, factor=factor: factor * loss)
        shift.register_hook(seen.append)
        told.update(loss, shift)
        assert float(seen[-1].abs().max()) == pytest.approx(1.0)


def test_one_huge_loss_does_not_stop_the_learning():
    told = trained(updates=3)
    for factor in (1e6, *[1] * 40):
        told.update(*quadratic(told.network, lambda loss, factor=factor: factor * loss))
    assert told.losses[-1] < 0.2 * told.losses[0]


def test_the_rate_falls_to_a_tenth():
    first, last = (trained(updates).optimizer.param_groups[0]["lr"] for updates in (1, 50))
    assert last == pytest.approx(0.1 * first, rel=0.02)


@pytest.mark.parametrize("kind", SPOILT)
def test_what_is_no_number_is_refused_and_the_weights_stay(kind):
    told = trained(updates=3)
    network, average = weights(told.network), weights(told.average)
    with pytest.raises(ValueError, match="learning_rate"):
        told.update(*quadratic(told.network, SPOILT[kind]))
    assert torch.equal(weights(told.network), network)
    assert torch.equal(weights(told.average), average)
    assert len(told.losses) == 3


def test_the_average_lies_among_the_weights_that_were_and_behind_the_last():
    told = Training(ImplicitNetwork(6), 0.02, 20)
    seen = [weights(told.network)]
    for _ in range(20):
        told.update(*quadratic(told.network))
        seen.append(weights(told.network))
        average, rows = weights(told.average), torch.stack(seen)
        assert (average >= rows.amin(0) - 1e-7).all()
        assert (average <= rows.amax(0) + 1e-7).all()
    assert 0.5 * (seen[-1] - seen[0]).norm() < (average - seen[0]).norm() < (seen[-1] - seen[0]).norm()
