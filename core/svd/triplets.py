"""Singular values and left vectors of a stack of wide matrices, as many as are asked for."""

from __future__ import annotations

import torch
from torch import Tensor

# Measured with LAPACK on one CPU core, 4 matrices, milliseconds for (Gram, Krylov if it converges, Krylov giving up):
# 8 triplets at rank 512 (160, 40 to 65, 25), 16 there (160, 80 to 170, 40); 4 at rank 256 (28, 8 to 22, 6), 8 there
# (28, 17 to 40, 9); 1 to 4 at rank 128 (4.7, 2 to 12, 3).
KRYLOV_RANK = 256
KRYLOV_SHARE = 64
# PyTorch's CUDA eigensolver takes the matrices of a stack one at a time (pytorch/pytorch#174674: 1.8 ms for each of
# 100 x 100); LAPACK takes 0.3 ms at rank 64 and 1 ms at 128, and moving a few such matrices less.
LAPACK_RANK = 256


def in_float64(x: Tensor) -> Tensor:
    """x in float64, on its own device where that has float64 (CPU, CUDA, ROCm), else on the CPU (MPS and others).

    Squaring the singular values in a Gram matrix halves the digits: float64 keeps values down to 1e-8 of the first,
    float32 would lose those below 3e-4.
    """
    device = x.device if x.device.type in ("cpu", "cuda") else torch.device("cpu")
    return x.to(device, torch.float64)


def left_triplets(X: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Leading `count` left singular vectors U: (n, rows, count) and singular values S: (n, count), in descending order.

    X: (n, rows, cols), float64, rows <= cols. A few triplets of large matrices come from block Krylov iteration if it
    converges, all else from the Gram matrix.
    """
    rows = X.shape[-2]
    if count == 0:
        return X.new_zeros(len(X), rows, 0), X.new_zeros(len(X), 0)
    if rows >= KRYLOV_RANK and count * KRYLOV_SHARE <= rows:
        found = krylov_triplets(X, count)
        if found is not None:
            return found
    U, S = gram_triplets(X)
    return U[..., :count], S[..., :count]


def gram_triplets(X: Tensor) -> tuple[Tensor, Tensor]:
    """All left singular vectors and values from the eigenproblem X X^T = U diag(S^2) U^T."""
    squares, U = _eigh(X @ X.mT)
    return U.flip(-1), squares.flip(-1).clamp(min=0).sqrt()


def krylov_triplets(
    X: Tensor, count: int, *, oversampling: int = 8, blocks: int = 10, tolerance: float = 1e-7
) -> tuple[Tensor, Tensor] | None:
    """Leading triplets by block Krylov iteration on X X^T with Rayleigh-Ritz, or None if it does not converge.

    Musco & Musco 2015, algorithm 2, with a residual test after each block: a Ritz vector u with
    rho = ||X X^T u - theta u|| is off by at most the angle rho / gap, gap = theta - (first Ritz value not asked for),
    which moves X by sqrt(theta) times the angle. Accepted when this sums to less than tolerance ||X||.
    The start is a fixed random block, so equal inputs give equal results.
    """
    width = count + oversampling
    scale = X.flatten(1).norm(dim=-1)
    basis = _orthonormal_rows(_start(X, width) @ X.mT)
    images = basis @ X @ X.mT
    for block in range(blocks):
        squares, Y = _eigh(images @ basis.mT)
        squares, Y = squares.flip(-1).clamp(min=0), Y.flip(-1)[..., :count].mT
        theta, Ut = squares[..., :count], Y @ basis
        error = _displacement(Y @ images - theta[..., None] * Ut, theta, squares[..., count:])
        if (error <= tolerance * scale).all():
            return Ut.mT, theta.sqrt()
        if block >= 3 and (error > 0.1 * 0.3 ** (block - 3) * scale).any():
            return None
        fresh = _orthonormal_rows(_remove(images[:, -width:], basis))
        fresh = _orthonormal_rows(_remove(fresh, basis))
        basis = torch.cat([basis, fresh], dim=1)
        images = torch.cat([images, fresh @ X @ X.mT], dim=1)
    return None


def _displacement(residual: Tensor, theta: Tensor, rest: Tensor) -> Tensor:
    """Bound (n,) on how far Ritz vectors with these residuals (n, count, rows) move X."""
    angle = residual.norm(dim=-1) / (theta - rest[..., :1]).clamp(min=1e-300)
    return (theta.sqrt() * angle.clamp(max=1)).sum(-1)


def _start(X: Tensor, width: int) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(width, X.shape[-1], dtype=X.dtype, generator=generator).to(X.device)


def _orthonormal_rows(rows: Tensor) -> Tensor:
    return torch.linalg.qr(rows.mT).Q.mT


def _remove(rows: Tensor, basis: Tensor) -> Tensor:
    """Rows less their projection on the rows of an orthonormal basis."""
    return rows - rows @ basis.mT @ basis


def _eigh(symmetric: Tensor) -> tuple[Tensor, Tensor]:
    """Eigenvalues in ascending order and eigenvectors, by LAPACK where that is the faster one."""
    small = symmetric.shape[-1] <= LAPACK_RANK
    values, vectors = torch.linalg.eigh(symmetric.cpu() if small else symmetric)
    return values.to(symmetric.device), vectors.to(symmetric.device)
