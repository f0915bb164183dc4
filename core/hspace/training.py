"""What a direction is trained for, and the optimisation of its network (Kwon et al. 2023; Li et al. 2024)."""

from __future__ import annotations

import copy
import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .network import ImplicitNetwork

SMALLEST = 1e-12


def matching_loss(edited: Tensor, target: Tensor, plain: Tensor) -> Tensor:
    """Distance left between the edited prediction and the target prompt's, as a share of what it was without the edit.

    All (b, ...) denoised latents of one noise level, where a difference of predicted noises is that of denoised latents
    over sigma: the ratio is the same for both. 1 for no edit, 0 for the target's prediction. After Li et al. 2024.
    """
    return (edited - target).square().sum() / (plain - target).square().sum().clamp(min=SMALLEST)


def directional_loss(before: Tensor, after: Tensor, change: Tensor) -> Tensor:
    """-log((2 - L) / 2), L = 1 - cos(dI, dT), of image embeddings (b, d) before and after and the texts' difference (d,).

    0 where all pictures move as the text does; ln 2 where they move across. Kwon et al. 2023, section 3.1, in the form
    that the authors' code minimises. It says nothing of how far they move.
    """
    moved = F.normalize(after, dim=1) - F.normalize(before, dim=1)
    cosines = (moved * change).sum(1) / (moved.square().sum(1) + 1e-8).sqrt() / change.norm().clamp(min=SMALLEST)
    return -torch.log((1 + cosines).clamp(min=1e-6) / 2).mean()


def reach_loss(before: Tensor, after: Tensor, change: Tensor) -> Tensor:
    """(1 - dI . dT / |dT|^2)^2, of the same: 0 where pictures move along the text's change as far as the text does (ours).

    It gives the strength its unit: the directional loss alone is content with the smallest move of the right direction.
    """
    moved = F.normalize(after, dim=1) - F.normalize(before, dim=1)
    return (1 - (moved @ change) / change.square().sum().clamp(min=SMALLEST)).square().mean()


def change_loss(edited: Tensor, plain: Tensor) -> Tensor:
    """Mean absolute change of the denoised latent: what keeps the rest as it is (Kwon et al. 2023, eq. 4)."""
    return (edited - plain).abs().mean()


class Training:
    """The optimisation of an implicit network: one update for each batch of each step, by Adam.

    network: is not modified; the result is in `average`, an exponential mean of the weights over the last updates.
    """

    def __init__(self, network: ImplicitNetwork, rate: float, updates: int) -> None:
        self.network = copy.deepcopy(network).requires_grad_(True)
        self.average = copy.deepcopy(network).requires_grad_(False)
        self.optimizer = torch.optim.Adam(self.network.parameters(), lr=rate)
        self.losses: list[float] = []
        self.rate, self.updates = rate, updates

    def update(self, loss: Tensor, through: Tensor) -> None:
        """Descend from a loss that depends on the network through one float32 tensor, a prediction.

        What is propagated further back from there is scaled to a largest entry of 1: it may pass a decoder in half
        precision. Raises ValueError if loss or gradient are no numbers: the weights stay as they were.
        """
        value = float(loss.detach())
        self._check("loss", value)
        self.optimizer.zero_grad()
        (gradient,) = torch.autograd.grad(loss, through)
        scale = gradient.abs().max().clamp(min=SMALLEST)
        through.backward(gradient / scale)
        for weight in self.network.parameters():
            if weight.grad is not None:
                weight.grad *= scale
        self._check("gradient", float(nn.utils.clip_grad_norm_(self.network.parameters(), 1.0)))
        for group in self.optimizer.param_groups:  # falls to a tenth along a cosine
            group["lr"] = self.rate * (0.55 + 0.45 * math.cos(math.pi * len(self.losses) / max(1, self.updates)))
        self.optimizer.step()
        self.losses.append(value)
        decay = min(0.98, len(self.losses) / (len(self.losses) + 9))
        with torch.no_grad():
            for mean, weight in zip(self.average.parameters(), self.network.parameters(), strict=True):
                mean.lerp_(weight, 1 - decay)

    def _check(self, what: str, value: float) -> None:
        if not math.isfinite(value):
            raise ValueError(
                f"learning_rate: the {what} became {value} at update {len(self.losses) + 1}; lower learning_rate, or sample in "
                "a wider dtype."
            )


def difference(source: Tensor, target: Tensor) -> Tensor:
    """The direction (d,) between two text embeddings (d,), each of length 1 as CLIP compares them."""
    return F.normalize(target, dim=-1) - F.normalize(source, dim=-1)
