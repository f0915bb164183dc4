"""How pictures move under a slider, by small pictures whose distances are known."""

import pytest
import torch

from pack.core.dial import Dial
from pack.core.pictures.distances import structural_distance
from pack.host.calibration import FARTHEST, UNSEEN, Way

STRENGTHS = [-2.0, -1.0, 0.0, 1.0, 2.0, 3.0]


def drawn(change, seeds=2):
    """Pictures (seeds, n, 3, 16, 16) of a slider that adds change(strength) of a pattern to noise of each seed."""
    made = [torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(seed)).tanh() / 2 for seed in range(seeds)]
    return torch.stack([torch.stack([still + change(s) * pattern for s in STRENGTHS]) for still, pattern in made])


def way(away, steps=None):
    """A way by its figures; apart is 1."""
    return Way(STRENGTHS, steps or [1.0] * 5, away, 1.0)


def test_a_way_has_the_mean_distances_over_the_seeds():
    pictures = drawn(lambda s: 0.1 * s, seeds=3)
    found = Way.of(STRENGTHS, pictures)
    for i in range(6):
        assert found.away[i] == pytest.approx(float(structural_distance(pictures[:, 2], pictures[:, i]).mean()), rel=1e-5)
    for i in range(5):
        assert found.steps[i] == pytest.approx(float(structural_distance(pictures[:, i], pictures[:, i + 1]).sqrt().mean()), rel=1e-5)
    one, two, three = pictures[:, 2].split(1)
    pairs = [structural_distance(a, b) for a, b in ((one, two), (one, three), (two, three))]
    assert found.apart == pytest.approx(float(torch.cat(pairs).mean()), rel=1e-5)
    assert found.away[2] == 0
    assert found.share(-2.0) == pytest.approx(found.away[0] / found.apart)
    assert found.share(0.5) == pytest.approx(found.away[3] / found.apart / 2)


def test_strengths_in_between_do_not_lengthen_the_way():
    """A change that grows with the strength: one step of 2 is about as long as two of 1."""
    pictures = drawn(lambda s: 0.04 * s)
    fine, coarse = Way.of(STRENGTHS, pictures), Way.of([-2.0, 0.0, 2.0], pictures[:, ::2])
    assert sum(fine.steps[:2]) == pytest.approx(coarse.steps[0], rel=0.02)
    assert [fine.dial().strength(i / 4) for i in range(-4, 5)] == pytest.approx([-2, -1.5, -1, -0.5, 0, 0.75, 1.5, 2.25, 3], rel=0.02)


def test_the_range_is_what_was_tried_as_long_as_the_pictures_do_not_go_too_far():
    found = way([0.9 * FARTHEST, 0.1, 0.0, 0.1, 0.2, FARTHEST])
    assert (found.reach(-1), found.reach(1)) == (-2.0, 3.0)


def test_a_side_ends_where_the_pictures_first_go_too_far():
    """Linear between the strengths on both sides of the end; what comes back later does not count."""
    found = way([2 * FARTHEST, 0.5 * FARTHEST, 0.0, 4 * FARTHEST, 0.1, 0.2])
    assert found.reach(-1) == pytest.approx(-1 - 0.5 / 1.5)
    assert found.reach(1) == pytest.approx(0.25)
    dial = found.dial()
    assert (dial.strength(-1.0), dial.strength(1.0)) == (found.reach(-1), found.reach(1))


def test_a_picture_that_breaks_ends_the_range_before_it():
    """From strength 2 up it is another picture."""
    pictures = drawn(lambda s: 0.02 * s)
    plain = Way.of(STRENGTHS, pictures)
    pictures[:, 4:] = drawn(lambda s: 0.0, seeds=4)[2:, 4:]
    broken = Way.of(STRENGTHS, pictures)
    assert plain.reach(1) == 3.0
    assert 1.0 < broken.reach(1) < 2.0
    assert broken.share(broken.reach(1)) == pytest.approx(FARTHEST)
    assert broken.reach(-1) == plain.reach(-1) == -2.0
    assert broken.dial().strength(1.0) == broken.reach(1)


def test_equal_steps_of_the_dial_are_equal_lengths_of_the_way():
    """The pictures jump between 1 and 2."""
    found = way([0.02, 0.01, 0.0, 0.01, 0.2, 0.21], [0.01, 0.01, 0.01, 0.19, 0.01])
    assert found.largest_jump(found.dial()) == pytest.approx(0.21 / 4 / 0.23)
    assert found.largest_jump(None) == pytest.approx(0.0975 / 0.23)  # from 0.75 to 1.5, and from 1.5 to 2.25
    assert found.largest_jump(None, count=1) == pytest.approx(0.21 / 0.23) == found.largest_jump(found.dial(), count=1)


def test_an_even_way_needs_no_other_dial():
    found = way([0.2, 0.1, 0.0, 0.1, 0.2, 0.3], [0.1] * 5)
    assert found.dial().marks == tuple(
        pytest.approx(mark) for mark in Dial(tuple((i / 8, i / 4 if i < 0 else i * 3 / 8) for i in range(-8, 9))).marks
    )
    assert found.largest_jump(None) == pytest.approx(0.15)


def test_what_nobody_sees_has_no_unit():
    seen, unseen = (way([0.0] * 5 + [share * UNSEEN], [0.1 * UNSEEN] * 5) for share in (1.1, 0.9))
    assert seen.dial().strength(1.0) == 3.0
    with pytest.raises(ValueError, match="^slider: at strengths up to 3 the pictures change by 0.9% .* which nobody sees"):
        unseen.dial()


def test_a_side_that_does_nothing_has_no_unit():
    with pytest.raises(ValueError, match="^slider: from strength 0 to -2 the picture does not change; make one whose both sides"):
        way([0.0, 0.0, 0.0, 0.1, 0.2, 0.3], [0.0, 0.0, 0.1, 0.1, 0.1]).dial()


def test_pictures_that_measure_nothing_are_refused():
    pictures = drawn(lambda s: 0.1 * s)
    with pytest.raises(ValueError, match="^latent: all seeds draw the same picture"):
        Way.of(STRENGTHS, pictures[:1].repeat(2, 1, 1, 1, 1))
    pictures[0, 5, 0, 0, 0] = float("nan")
    with pytest.raises(ValueError, match="^vae: a picture has values that are no numbers"):
        Way.of(STRENGTHS, pictures)
