"""Directions in h-space from what a model does: the contrast of two prompts, and the principal components of h."""

from __future__ import annotations

from collections.abc import Iterable

import torch
import torch.nn.functional as F
from scipy.optimize import linear_sum_assignment
from torch import Tensor


class Means:
    """Running means of shifts (b, c, h, w), one for each noise level."""

    def __init__(self):
        self.sums: dict[float, Tensor] = {}
        self.counts: dict[float, int] = {}

    def add(self, sigma: float, shifts: Tensor) -> None:
        """Take in a batch (b, c, h, w) of one noise level."""
        self.sums[sigma] = self.sums.get(sigma, 0) + shifts.double().sum(0)
        self.counts[sigma] = self.counts.get(sigma, 0) + len(shifts)

    def result(self) -> tuple[Tensor, tuple[float, ...]]:
        """Means (n, c, h, w) in float32 and their noise levels, descending."""
        levels = tuple(sorted(self.sums, reverse=True))
        return torch.stack([self.sums[sigma] / self.counts[sigma] for sigma in levels]).float(), levels


def principal_components(samples: Tensor, count: int) -> tuple[Tensor, float]:
    """Leading principal components of h at one noise level, each as long as one standard deviation along it.

    samples: (n, c, h, w), n > count. Returns components (count, c, h, w) and the total variance, of which each explains
    its squared norm. Signs are fixed: the largest entry of each is positive. Haas et al. 2024, section 4.1, by the n x n
    Gram matrix. Raises ValueError for too few samples.
    """
    n = len(samples)
    if n <= count:
        raise ValueError(f"images: {n} are too few for {count} directions; sample more images than directions.")
    centred = (samples - samples.mean(0)).flatten(1).double()
    values, vectors = torch.linalg.eigh(centred @ centred.T)
    values, vectors = values.flip(0).clamp(min=0), vectors.flip(1)
    components = vectors[:, :count].T @ centred / (n - 1) ** 0.5  # sigma_k u_k / sqrt(n - 1)
    signs = components.gather(1, components.abs().argmax(1, keepdim=True)).sign()
    return (components * signs).reshape(count, *samples.shape[1:]).float(), float(values.sum() / (n - 1))


def aligned(levels: Iterable[Tensor]) -> list[Tensor]:
    """Components (k, c, h, w) of neighbouring noise levels, matched in order and sign to those of the level before.

    Each level's components are assigned to the previous ones by the largest total |cosine|.
    """
    result: list[Tensor] = []
    for components in levels:
        if result:
            before, now = (F.normalize(v.flatten(1), dim=1) for v in (result[-1], components))
            cosines = before @ now.T
            rows, columns = linear_sum_assignment(-cosines.abs().numpy())
            signs = torch.where(cosines[rows, columns] < 0, -1.0, 1.0)
            components = components[columns] * signs[:, None, None, None]
        result.append(components)
    return result
