"""Runs that are recorded at their steps."""

import pytest
import torch

from pack.core.sampling.recording import recorded
from pack.tests.core.sampling.by_hand import NOISE, SIGMAS, denoise, euler


def test_a_recorded_run_is_seen_at_its_steps_and_stops():
    calls = []

    def counted(x, sigma, **options):
        calls.append(float(sigma[0]))
        return denoise(x, sigma)

    seen = recorded(euler, counted, NOISE, SIGMAS, steps=(2, 1, 2))
    at_2 = euler(denoise, NOISE, SIGMAS[:3])
    assert sorted(seen) == [1, 2]
    assert len(calls) == 3
    assert torch.equal(seen[2].x, at_2)
    assert torch.equal(seen[2].denoised, denoise(at_2, SIGMAS[2] * torch.ones(2)))
    with pytest.raises(ValueError, match="sampler: it does not evaluate"):
        recorded(lambda model, x, sigmas, callback: model(x, sigmas[0] * x.new_ones(2)), denoise, NOISE, SIGMAS, steps=(1,))
