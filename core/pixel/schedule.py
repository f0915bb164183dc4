"""The noise levels of pixel-space checkpoints."""

from __future__ import annotations

import torch
from torch import Tensor

from .configuration import NoiseSchedule

LEVELS = 1000  # as the host counts
LARGEST_BETA = 0.999


def betas(schedule: NoiseSchedule, steps: int) -> Tensor:
    """The variance that each of a network's steps adds, (steps,) in float64.

    linear: from 0.1 / steps to 20 / steps (Ho et al. 2020). cosine: 1 - a(t + 1) / a(t), at most 0.999, with
    a(t) = cos^2((t / steps + 0.008) / 1.008 * pi / 2) (Nichol & Dhariwal 2021, eq. 17).
    """
    if schedule == "linear":
        return torch.linspace(0.1 / steps, 20 / steps, steps, dtype=torch.float64)
    kept = torch.cos((torch.arange(steps + 1, dtype=torch.float64) / steps + 0.008) / 1.008 * torch.pi / 2).square()
    return (1 - kept[1:] / kept[:-1]).clamp(max=LARGEST_BETA)


def noise_levels(schedule: NoiseSchedule, steps: int) -> Tensor:
    """1000 of a network's noise levels sigma, rising, in float32: with 4000 steps every fourth, the highest among them."""
    kept = torch.cumprod(1 - betas(schedule, steps), 0)
    return ((1 - kept) / kept).sqrt()[steps // LEVELS - 1 :: steps // LEVELS].float()
