"""What a slider LoRA is trained for, and the optimisation of its weights (Concept Sliders, Gandikota et al. 2023, arXiv 2311.12092)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ..latent import append_dims, masked

SMALLEST = 1e-12
MOST_SKIPPED = 12  # updates in a row whose gradient has no finite value at any scale


def derivative(x: Tensor, denoised: Tensor, sigma: Tensor) -> Tensor:
    """d = (x - x0) / sigma: the predicted noise of a diffusion model, the velocity of a flow model (Karras et al. 2022, eq. 3).

    x, denoised: (b, c, ..., h, w). sigma: (b,), above 0.
    """
    return (x - denoised) / append_dims(sigma, x.ndim).to(x)


def contrast_target(neutral: Tensor, plus: Tensor, minus: Tensor, scale: float, mask: Tensor | None = None) -> Tensor:
    """v(c0) + k (v(c+) - v(c-)), rescaled to the norm of v(c0) (Gandikota et al. 2023; the norm is ours).

    All (b, c, ..., h, w). scale: k, below 0 for the slider's other sign. mask: broadcasts to them, in 0..1; where it is 0 the target is
    v(c0), bit for bit.
    """
    moved = neutral + scale * (plus - minus)
    target = moved * (norms(neutral) / norms(moved).clamp(min=SMALLEST))
    return target if mask is None else masked(neutral, target, mask)


def norms(x: Tensor) -> Tensor:
    """The norm (b, 1, ..., 1) of each of (b, ...)."""
    return append_dims(x.flatten(1).norm(dim=1), x.ndim)


def distance(one: Tensor, other: Tensor) -> Tensor:
    """The mean of |one - other|^2 over all values of (b, ...)."""
    return (one - other).square().mean()


class LoraTraining:
    """The optimisation of LoRA weights by Adam, one update for several losses that are descended from one after another.

    weights: float32, trained in place. rate: of learning; falls to a tenth along a cosine over so many updates.
    """

    def __init__(self, weights: Sequence[nn.Parameter], rate: float, updates: int) -> None:
        self.weights, self.rate, self.updates = list(weights), rate, updates
        self.optimizer = torch.optim.Adam(self.weights, lr=rate)
        self.losses: list[float] = []
        self.scale = 1.0  # the largest entry of what is propagated back; a power of 2
        self.skipped = 0  # updates in a row
        self._gradients: list[Tensor] = []
        self._loss = 0.0

    def descend(self, loss: Tensor, through: Tensor) -> None:
        """Add the gradient of a loss that depends on the weights through one float32 tensor, a prediction.

        What is propagated further back from there is scaled to a largest entry of `scale`: it may pass a network in half precision.
        Raises ValueError for a loss that is no number: the weights stay as they were.
        """
        self._loss += float(loss.detach())
        if not math.isfinite(self._loss):
            raise self._diverged("loss", self._loss)
        (gradient,) = torch.autograd.grad(loss, through)
        unit = gradient.abs().max().clamp(min=SMALLEST)
        through.backward(gradient * (self.scale / unit))
        self._gradients = self._gradients or [torch.zeros_like(weight) for weight in self.weights]
        for kept, weight in zip(self._gradients, self.weights, strict=True):
            if weight.grad is not None:
                kept += weight.grad * (unit / self.scale)
            weight.grad = None

    def update(self) -> bool:
        """One update by the gradients since the last one, clipped to a norm of 1; whether there was one.

        Where a gradient has overflowed there is none, and the next ones are propagated at a quarter of the scale. Raises ValueError if that
        happens `MOST_SKIPPED` times in a row: the weights stay as they were.
        """
        for kept, weight in zip(self._gradients, self.weights, strict=True):
            weight.grad = kept
        self._gradients = []
        loss, self._loss = self._loss, 0.0
        norm = float(nn.utils.clip_grad_norm_(self.weights, 1.0))
        if not math.isfinite(norm):
            self.optimizer.zero_grad()
            self.scale, self.skipped = self.scale / 4, self.skipped + 1
            if self.skipped >= MOST_SKIPPED:
                raise self._diverged("gradient", norm)
            return False
        for group in self.optimizer.param_groups:
            group["lr"] = self.rate * (0.55 + 0.45 * math.cos(math.pi * min(1.0, len(self.losses) / max(1, self.updates))))
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.losses.append(loss)
        self.skipped = 0
        return True

    def _diverged(self, what: str, value: float) -> ValueError:
        return ValueError(
            f"learning_rate: the {what} became {value} at update {len(self.losses) + 1}; lower learning_rate, or load the model in a wider "
            "dtype."
        )
