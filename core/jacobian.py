"""Leading singular vectors of a Jacobian that is never formed: products with it, forward and reverse."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

Map = Callable[[Tensor], Tensor]


class Jacobian:
    """Products with the Jacobian of f at 0, for stacks of vectors; f maps (k, ...) to (k, ...), row by row.

    Forward products are central differences with steps of the given length; reverse products are automatic. weight:
    optional weights of the output's entries, such as a mask.
    """

    def __init__(self, f: Map, step: float, weight: Tensor | None = None):
        self.f, self.step, self.weight = f, step, weight

    def forward(self, v: Tensor) -> Tensor:
        """J v, for v: (k, ...)."""
        with torch.no_grad():
            length = self.step / v.flatten(1).norm(dim=1).clamp(min=1e-12).reshape(-1, *[1] * (v.ndim - 1))
            change = (self.f(v * length) - self.f(-v * length)).float()
            return self._weighted(change / (2 * length.reshape(-1, *[1] * (change.ndim - 1))))

    def reverse(self, u: Tensor, like: Tensor) -> Tensor:
        """J^T u, for u: (k, ...) of f's output, in the shape of like. Raises ValueError if it is not finite."""
        with torch.enable_grad():
            origin = torch.zeros_like(like, requires_grad=True)
            (result,) = torch.autograd.grad(self.f(origin), origin, self._weighted(u))
        if not torch.isfinite(result).all():
            raise ValueError(
                "model: a patch of it has no finite gradient (Patch Model Add Downscale with bislerp has none). Choose other "
                "settings there, or method PCA."
            )
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
