"""DDIM on data from a normal distribution."""

import math

import pytest
import torch

from pack.core.sampling.ddim import ddim_levels, sample_ddim
from pack.tests.core.sampling.gaussian import SIGMAS, gaussian, noise


def test_ddim_levels_are_those_of_the_paper():
    """Song et al. 2021, eq. 16, in its own frame: sigma_t^2 = eta^2 (1 - a') / (1 - a) (1 - a / a'), a = 1 / (1 + sigma^2)."""
    for before, after, eta in ((14.6, 9.0, 1.0), (2.5, 1.0, 0.4), (1.0, 0.03, 0.7)):
        down, up = ddim_levels(before, after, eta)
        a, b = 1 / (1 + before**2), 1 / (1 + after**2)
        paper = eta * math.sqrt((1 - b) / (1 - a) * (1 - a / b))
        assert up == pytest.approx(paper / math.sqrt(b))
        assert down == pytest.approx(math.sqrt((1 - b - paper**2) / b))
    assert ddim_levels(1.0, 0.0, 1.0) == (0.0, 0.0)
    assert ddim_levels(2.0, 1.0, 0.0) == (1.0, 0.0)


def test_ddim_keeps_the_variance_of_gaussian_data_at_any_eta():
    levels = torch.cat(
        [torch.linspace(math.log(30.0), math.log(0.01), 150, dtype=torch.float64).exp(), torch.zeros(1, dtype=torch.float64)]
    )
    for eta, boost in ((0.0, 0.0), (1.0, 0.0), (0.0, 2.0)):
        generator = torch.Generator().manual_seed(1)
        drawn = sample_ddim(
            gaussian,
            math.sqrt(1 + 30.0**2) * noise(20_000, 1),
            levels,
            eta=eta,
            boost_below=boost,
            noise=lambda *_, generator=generator: torch.randn(20_000, 1, generator=generator, dtype=torch.float64),
        )
        assert drawn.std().item() == pytest.approx(1, abs=0.05), (eta, boost)


def test_ddim_tells_each_call_where_its_deterministic_part_goes():
    told = []
    sample_ddim(gaussian, noise(1, 1), SIGMAS, eta=0.5, noise=lambda *_: 0.0, announce=lambda down: told.append(down) or {})
    assert told == [ddim_levels(a, b, 0.5)[0] for a, b in zip(SIGMAS.tolist(), SIGMAS.tolist()[1:])]
