"""Which steps of a run lie where, at and around the bounds."""

import torch

from pack.core.sampling.steps import Levels, at_or_below, first_step_from, is_ascending, is_descending

SIGMAS = [8.0, 4.0, 2.0, 1.0, 0.0]


def test_a_range_holds_the_steps_at_its_bounds_up_or_down():
    assert Levels(4.0, 2.0).steps(SIGMAS) == (1, 2)
    assert Levels(4.0, 2.0).steps(SIGMAS[::-1]) == (2, 3)
    assert Levels(3.9, 2.1).steps(SIGMAS) == ()


def test_a_bound_on_a_step_is_inside_in_float32_and_in_float64():
    exact = [1 - i / 8 for i in range(9)]
    shifted = [8 * t / (1 + 7 * t) for t in exact]
    for sigmas in (shifted, torch.tensor(shifted, dtype=torch.float32).tolist()):
        for i, level in enumerate(shifted[:-1]):
            assert Levels(level, 0.0).steps(sigmas) == tuple(range(i, 8))
            assert Levels(1.0, level).steps(sigmas) == tuple(range(i + 1))
            assert first_step_from(sigmas, level) == i


def test_neighbours_of_a_thousand_steps_stay_apart():
    sigmas = torch.linspace(14.6, 0.03, 1001).tolist()
    assert all(first_step_from(sigmas, level) == i for i, level in enumerate(sigmas[:-1]))
    assert not at_or_below(sigmas[0], sigmas[1])


def test_a_range_that_a_run_passes_through_is_not_missed():
    assert not Levels(3.5, 2.5).misses(SIGMAS)  # between two steps
    assert not Levels(0.0, 0.0).misses(SIGMAS)  # at the end, where no step starts
    assert Levels(8.0, 4.0).misses(SIGMAS[2:])  # before a second pass
    assert Levels(1.0, 0.5).misses(SIGMAS[:3])  # after the first of two samplers
    assert Levels(2.5, 1.5).misses(SIGMAS[:3])  # after the first of two samplers
    assert not Levels(8.0, 4.0).misses(SIGMAS[::-1])


def test_first_step_from_a_level():
    assert first_step_from(SIGMAS, 3.0) == 2
    assert first_step_from(SIGMAS, 100.0) == 0
    assert first_step_from(SIGMAS, 0.5) is None


def test_order_of_a_schedule():
    assert is_descending(SIGMAS)
    assert is_descending([2.0, 2.0, 1.0])
    assert is_ascending(SIGMAS[::-1])
    assert not is_descending([2.0, 1.0, 3.0])
    assert not is_ascending([2.0, 1.0, 3.0])
