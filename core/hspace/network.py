"""The implicit network of Asyrp, which finds a shift for each h (Kwon et al. 2023, section 5.1)."""

from __future__ import annotations

import copy
import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

GROUPS = 32
PERIODS = (1.5, 24.0)  # of the time embedding's waves, in units of ln sigma: no wave is shorter than a few steps of a run


class ImplicitNetwork(nn.Module):
    """The shift f(h, sigma): conv 1x1, plus a linear map of SiLU(time embedding), group norm, SiLU, conv 1x1.

    0.79 million parameters at 512 channels, 4.9 million at 1280. The time embedding is one of ln sigma (ours: it belongs
    to no checkpoint and no schedule); the last convolution starts at 0, so that an untrained network shifts nothing.
    scale: root mean square of h, in units of which it reads and writes (ours).
    """

    scale: Tensor

    def __init__(self, channels: int, scale: float = 1.0) -> None:
        super().__init__()
        self.enter = nn.Conv2d(channels, channels, 1)
        self.time = nn.Linear(channels, channels)
        self.norm = nn.GroupNorm(math.gcd(GROUPS, channels), channels)
        self.leave = nn.Conv2d(channels, channels, 1)
        self.register_buffer("scale", torch.tensor(float(scale)))
        for part in self.leave.parameters():
            nn.init.zeros_(part)

    @classmethod
    def empty(cls, channels: int) -> ImplicitNetwork:
        """One that has shapes but no values yet: nothing is allocated, nothing drawn from the random state."""
        with torch.device("meta"):
            return cls(channels).requires_grad_(False)

    def times(self, factor: float) -> ImplicitNetwork:
        """One whose shifts are so many times as large; this one stays as it is."""
        scaled = copy.deepcopy(self)
        with torch.no_grad():
            for part in scaled.leave.parameters():
                part.mul_(factor)
        return scaled

    def forward(self, h: Tensor, sigma: float) -> Tensor:
        """Shifts (b, c, h, w) of h: (b, c, h, w), float32."""
        time = self.time(F.silu(noise_embedding(sigma, self.time.in_features).to(self.scale)))
        inner = self.enter(h.to(self.scale) / self.scale) + time[None, :, None, None]
        return self.scale * self.leave(F.silu(self.norm(inner)))


def noise_embedding(sigma: float, width: int) -> Tensor:
    """Sines and cosines (width,) of ln sigma."""
    shortest, longest = PERIODS
    periods = shortest * (longest / shortest) ** torch.linspace(0, 1, (width + 1) // 2)
    angles = 2 * math.pi * math.log(sigma) / periods
    return torch.cat([angles.sin(), angles.cos()])[:width]
