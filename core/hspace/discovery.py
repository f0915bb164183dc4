"""Directions in h-space from what a model does: the contrast of two prompts, the principal components of h, and the leading singular
vectors of a Jacobian that is never formed."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
import torch.nn.functional as F
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from ..latent import append_dims


class Means:
    """Running means of shifts (b, c, h, w), one for each noise level."""

    def __init__(self) -> None:
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
        raise ValueError(f"samples: {n} are too few for {count} components; give more samples than components.")
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


Map = Callable[[Tensor], Tensor]


class NoGradient(ValueError):
    """A function has no finite gradient."""


class Jacobian:
    """Products with the Jacobian of f at 0, for stacks of vectors; f maps (k, ...) to (k, ...), row by row.

    Forward products are central differences with steps of the given length; reverse products are automatic. weight:
    optional weights of the output's entries, such as a mask.
    """

    def __init__(self, f: Map, step: float, weight: Tensor | None = None) -> None:
        self.f, self.step, self.weight = f, step, weight

    def forward(self, v: Tensor) -> Tensor:
        """J v, for v: (k, ...)."""
        with torch.no_grad():
            length = append_dims(self.step / v.flatten(1).norm(dim=1).clamp(min=1e-12), v.ndim)
            change = (self.f(v * length) - self.f(-v * length)).float()
            return self._weighted(change / append_dims(2 * length.flatten(), change.ndim))

    def reverse(self, u: Tensor, like: Tensor) -> Tensor:
        """J^T u, for u: (k, ...) of f's output, in the shape of like. Raises NoGradient, a ValueError, if it is not finite."""
        with torch.enable_grad():
            origin = torch.zeros_like(like, requires_grad=True)
            (result,) = torch.autograd.grad(self.f(origin), origin, self._weighted(u))
        if not torch.isfinite(result).all():
            raise NoGradient("f: its gradient contains NaN or Inf; give a function that is differentiable at 0.")
        return result

    def _weighted(self, u: Tensor) -> Tensor:
        return u if self.weight is None else u * self.weight


def leading_right_vectors(
    jacobian: Jacobian, start: Tensor, iterations: int, *, avoid: Tensor | None = None, on_step: Callable[[], None] | None = None
) -> tuple[Tensor, Tensor]:
    """Leading right singular vectors (k, ...) of a Jacobian and their singular values (k,), by block power iteration.

    start: (k, ...) random. avoid: an orthonormal stack (m, ...) that the result is kept orthogonal to (LOCO Edit, Chen et
    al. 2024: the null space of what must not change). Signs are fixed: the largest entry of each is positive.
    """
    v = _orthonormal(start, avoid)
    for _ in range(iterations):
        v = _orthonormal(jacobian.reverse(jacobian.forward(v).to(v), v), avoid)
        if on_step:
            on_step()
    rotation, values, _ = torch.linalg.svd(jacobian.forward(v).flatten(1).double(), full_matrices=False)  # Rayleigh-Ritz
    v = torch.einsum("ij,i...->j...", rotation.to(v), v)
    flat = v.flatten(1)
    signs = flat.gather(1, flat.abs().argmax(1, keepdim=True)).sign()
    return (flat * signs).reshape(v.shape), values.float().cpu()


def _orthonormal(v: Tensor, avoid: Tensor | None) -> Tensor:
    flat = v.flatten(1).double()
    if avoid is not None:
        basis = avoid.flatten(1).double()
        flat = flat - (flat @ basis.T) @ basis
    return torch.linalg.qr(flat.T)[0].T.reshape(v.shape).to(v.dtype)
