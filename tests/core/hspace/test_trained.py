"""Directions with a network, and mixes with them."""

import math

import pytest
import torch
from torch import nn

from pack.core.hspace.direction import Direction, Family, combine
from pack.core.hspace.trained import MixedDirection, TrainedDirection, in_form, mixed
from pack.tests.core.hspace.random_directions import FAMILY, network, some_h, table, trained


def constant(seed):
    """A trained direction that shifts every h alike, so that its mean is known."""
    net = network(seed)
    nn.init.zeros_(net.leave.weight)
    shift = net.scale * net.leave.bias[None, :, None, None]
    return TrainedDirection(net, Direction(shift.expand(1, 6, 4, 4).clone(), (1.0,), FAMILY, "training"))


def test_a_mix_is_the_weighted_sum_of_its_parts_shifts():
    one, two, h = trained(1), table(2), some_h(2, 6, 5, 3)
    expected = 0.5 * one.shift(h, 3.0) - 2 * two.shift(h, 3.0)
    torch.testing.assert_close(mixed([one, two], [0.5, -2.0]).shift(h, 3.0), expected)
    torch.testing.assert_close(mixed([one, two], [0.5, -2.0], keep_size=True).shift(h, 3.0), expected / math.sqrt(2))
    torch.testing.assert_close(mixed([mixed([one, two], [0.5, -2.0]), one], [2.0, 1.0]).shift(h, 3.0), 2 * expected + one.shift(h, 3.0))


@pytest.mark.parametrize("parts", [(trained(1), table(2), trained(3)), (table(1), table(2), table(3))])
def test_three_in_a_chain_that_keeps_its_size_weigh_alike(parts):
    """Their sum over the root of 3, however they are chained; a link that does not keep its size counts as one."""
    one, two, three = parts
    h, keep = some_h(2, 6, 4, 4), dict(keep_size=True)
    expected = sum(part.shift(h, 3.0) for part in parts) / math.sqrt(3)
    for chained in (
        mixed([mixed([one, two], [1, 1], **keep), three], [1, 1], **keep),
        mixed([one, mixed([two, three], [1, 1], **keep)], [1, 1], **keep),
    ):
        torch.testing.assert_close(chained.shift(h, 3.0), expected.expand(chained.shift(h, 3.0).shape))
    summed = mixed([mixed([one, two], [1, 1]), three], [1, 1], **keep)
    torch.testing.assert_close(summed.shift(h, 3.0), (expected * math.sqrt(3 / 2)).expand(summed.shift(h, 3.0).shape))


@pytest.mark.parametrize("first", [trained(1), table(1)])
def test_orthogonalised_the_second_part_shares_nothing_with_the_first_in_any_picture(first):
    h = some_h()
    before = first.shift(h, 3.0).expand(h.shape).flatten(1)
    rest = mixed([first, trained(2)], [0.0, 1.0], orthogonalise=True).shift(h, 3.0).flatten(1)
    assert ((before * rest).sum(1).abs() < 1e-5 * before.norm(dim=1) * rest.norm(dim=1)).all()
    taken = trained(2).shift(h, 3.0).flatten(1) - rest
    torch.testing.assert_close(torch.cosine_similarity(taken, before).abs(), torch.ones(3))
    torch.testing.assert_close(mixed([first, trained(2)], [1.0, 0.0], orthogonalise=True).shift(h, 3.0).flatten(1), before)


def test_a_mix_of_tables_is_a_table():
    settings = dict(orthogonalise=True, keep_size=True)
    mix, expected = (way([table(1), table(2, (5.0,))], [1.0, -0.5], **settings) for way in (mixed, combine))
    assert isinstance(mix, Direction)
    assert torch.equal(mix.shifts, expected.shifts)
    assert (mix.sigmas, mix.notes) == (expected.sigmas, expected.notes)


@pytest.mark.parametrize("settings", [{}, {"orthogonalise": True}, {"keep_size": True}])
def test_the_mean_of_a_mix_is_the_combination_of_means(settings):
    mix, expected = mixed([trained(1), table(2)], [1.0, -0.5], **settings), combine([table(1), table(2)], [1.0, -0.5], **settings)
    assert torch.equal(mix.mean().shifts, expected.shifts)
    assert (mix.notes, mix.method) == (expected.notes, expected.method)
    alike = mixed([constant(1), mixed([constant(2), constant(3)], [1.0, 2.0], **settings)], [1.0, -0.5], **settings)
    torch.testing.assert_close(alike.mean().shift(some_h(), 3.0).expand(3, -1, -1, -1), alike.shift(some_h(), 3.0))


def test_the_forms_of_a_direction_forget_pictures_and_then_noise_levels():
    one = trained(1)
    assert in_form(one, "full") is one
    assert in_form(one, "mean") is one.means
    for sigma in (0.1, 3.0, 80.0):
        torch.testing.assert_close(in_form(one, "global").shift(some_h(), sigma)[0], one.means.shifts.mean(0))


def test_families_that_differ_and_weights_that_do_not_fit_are_refused():
    for refused in (mixed, lambda parts, weights: MixedDirection(tuple(parts), tuple(weights), False, False)):
        with pytest.raises(ValueError, match=r"directions: found on SDXL .* needed here for SD15"):
            refused([trained(1), trained(2, family=Family("SDXL", "EPS", 6))], [1.0, 1.0])
        with pytest.raises(ValueError, match="weights: got 1 for 2"):
            refused([trained(1), table(2)], [1.0])


@pytest.mark.parametrize(
    "direction", [trained(1), mixed([table(2), mixed([trained(1), table(3)], [1.0, 2.0])], [1.0, 1.0], keep_size=True)]
)
def test_on_a_device_a_direction_has_weights_of_its_own(direction):
    h = some_h()
    moved, before = direction.on(torch.device("cpu")), direction.shift(h, 3.0)
    assert torch.equal(moved.shift(h, 3.0), before)
    assert (moved.notes, moved.family) == (direction.notes, direction.family)
    inner = moved if isinstance(moved, TrainedDirection) else moved.parts[1].parts[0]
    nn.init.zeros_(inner.network.leave.weight)
    assert torch.equal(direction.shift(h, 3.0), before)
    assert not torch.equal(moved.shift(h, 3.0), before)
