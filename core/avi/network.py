"""The network of AVI: singular values of two latents to those of their integrated triplets (Wang et al. 2025)."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .integration import Objective

HIDDEN = 64


class ValueNetwork(nn.Module):
    """A small MLP for each channel, S = f([S_x, S_z]), on values as shares of their norm, so that one serves every noise level.

    Residual, and its last layer starts at 0: it starts as the plain concatenation (both choices are ours).
    """

    def __init__(self, channels: int, width: int, hidden: int = HIDDEN) -> None:
        super().__init__()
        self.first = nn.Parameter(torch.randn(channels, width, hidden) / width**0.5)
        self.first_bias = nn.Parameter(torch.zeros(channels, 1, hidden))
        self.second = nn.Parameter(torch.zeros(channels, hidden, width))
        self.second_bias = nn.Parameter(torch.zeros(channels, 1, width))

    @classmethod
    def empty(cls, channels: int, width: int, hidden: int) -> ValueNetwork:
        """One that has shapes but no values yet: nothing is allocated, nothing drawn from the random state."""
        with torch.device("meta"):
            return cls(channels, width, hidden).requires_grad_(False)

    def forward(self, S: Tensor) -> Tensor:
        """S: (b, channels, frames, width), the values of both parts, to values of the same shape."""
        size = S.norm(dim=-1, keepdim=True).clamp(min=1e-12)
        hidden = F.silu(S / size @ self.first + self.first_bias)
        return S + size * (hidden @ self.second + self.second_bias)

    def values(self, S: Tensor, shape: tuple[int, ...]) -> Tensor:
        """S: (n, width) of a latent of this shape, n = b * c * frames, to values (n, width)."""
        return self(S.to(self.first).reshape(shape[0], shape[1], -1, S.shape[-1])).reshape(S.shape)


def train(
    starts: Sequence[Tensor],
    objectives: Sequence[Objective],
    shapes: Sequence[tuple[int, ...]],
    *,
    steps: int,
    seed: int,
    on_step: Callable[[float], None] = lambda loss: None,
) -> tuple[ValueNetwork, list[float]]:
    """A network that minimises the mean loss of the pairs, and the loss after each step.

    The loss is divided by that of values 0, which make an empty latent. starts: (n, width) values of each pair's integrated
    triplets. objectives, shapes: of the same pairs. Each step of L-BFGS takes all pairs: there is no learning rate to choose,
    and equal inputs give equal results. Runs on the CPU, as the network is tiny. Works under inference mode.
    """
    with torch.inference_mode(False), torch.enable_grad():
        values = [S.detach().cpu().clone().float() for S in starts]
        problems = [Objective(*(part.detach().cpu().clone().float() for part in problem)) for problem in objectives]
        total = sum(float(problem.c.sum()) for problem in problems) or 1.0
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            network = ValueNetwork(shapes[0][1], values[0].shape[-1])
        optimizer = torch.optim.LBFGS(network.parameters(), max_iter=1, history_size=20, line_search_fn="strong_wolfe")

        def loss() -> Tensor:
            each = (problem(network.values(S, shape)).sum() for problem, S, shape in zip(problems, values, shapes, strict=True))
            return sum(each, start=values[0].new_zeros(())) / total

        def closure() -> Tensor:
            optimizer.zero_grad()
            value = loss()
            value.backward()
            return value

        losses = []
        for _ in range(steps):
            losses.append(float(optimizer.step(closure).detach()))
            on_step(losses[-1])
    return network.requires_grad_(False), losses
