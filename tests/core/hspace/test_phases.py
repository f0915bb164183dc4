"""When to edit and when to add noise: distances that fall over a run, and where they pass a threshold."""

import pytest
import torch

from pack.core.hspace.phases import Phases, last_reached

PERCENTS = [0.0, 0.2, 0.6, 0.8]
FALLING = [1.0, 0.8, 0.4, 0.1]


@pytest.mark.parametrize(
    ("threshold", "expected"),
    [
        (0.9, 0.1),
        (0.5, 0.5),
        (0.7, 0.3),
        (0.25, 0.7),
        (0.05, 0.9),  # the end of the run counts as distance 0
    ],
)
def test_a_threshold_is_passed_on_a_straight_line_between_two_steps(threshold, expected):
    assert last_reached(PERCENTS, FALLING, threshold) == pytest.approx(expected)


@pytest.mark.parametrize(("percent", "distance"), list(zip(PERCENTS, FALLING)))
def test_a_threshold_that_a_step_has_is_passed_at_that_step(percent, distance):
    assert last_reached(PERCENTS, FALLING, distance) == pytest.approx(percent)


def test_the_place_moves_evenly_with_the_threshold():
    places = torch.tensor([last_reached(PERCENTS, FALLING, 0.41 + 0.01 * i) for i in range(39)])
    torch.testing.assert_close(places.diff(), torch.full((38,), -0.01))


def test_of_several_places_the_last_counts():
    assert last_reached(PERCENTS, [1.0, 0.2, 0.6, 0.1], 0.5) == pytest.approx(0.64)


def test_a_threshold_that_is_never_reached_is_passed_at_the_start_and_one_of_0_at_the_end():
    assert last_reached(PERCENTS, FALLING, 1.1) == 0
    assert last_reached(PERCENTS, FALLING, 0.0) == 1
    assert last_reached([0.0, 0.5], [0.0, 0.0], 0.0) == 1


def test_phases_are_those_of_the_mean_over_the_pictures():
    strengths = torch.tensor([[1.0, 1.0], [0.6, 1.0], [0.2, 0.6], [0.0, 0.2]])
    deficiencies = torch.tensor([[2.0, 2.0], [1.0, 3.0], [1.5, 0.5], [1.0, 0.0]])
    phases = Phases.of(PERCENTS, strengths, deficiencies, edit_at=0.5, boost_at=0.75)
    assert phases.end == pytest.approx(0.5)
    assert phases.boost == pytest.approx(0.7)


def test_noise_is_added_no_earlier_than_editing_ends():
    strengths, deficiencies = (torch.tensor(FALLING)[:, None] * share for share in (1.0, 0.1))
    phases = Phases.of(PERCENTS, strengths, deficiencies, edit_at=0.25, boost_at=0.05)
    assert phases.end == phases.boost == pytest.approx(0.7)
