"""The spectrum of pure noise: Marchenko-Pastur bulk, its edge, and the noise level read off a spectrum.

The singular values of an m x n matrix (m <= n) of independent entries with standard deviation sigma fill
sigma sqrt(n) [1 - sqrt(beta), 1 + sqrt(beta)], beta = m / n (Marchenko & Pastur 1967).
"""

from __future__ import annotations

from functools import lru_cache
from math import pi, sqrt

import numpy as np
import torch
from torch import Tensor

from .matrices import MatrixShape


def bulk_edge(matrix: MatrixShape, sigma: Tensor | float) -> Tensor | float:
    """Upper edge of the noise bulk, sigma (sqrt(rows) + sqrt(cols)): larger singular values carry signal."""
    return sigma * (sqrt(matrix.rows) + sqrt(matrix.cols))


def noise_spectrum(matrix: MatrixShape, sigma: float = 1.0) -> Tensor:
    """Expected singular values (rank,) of a noise matrix, in descending order, float64.

    The i-th is the Marchenko-Pastur quantile at 1 - (i - 1/2) / rank.
    """
    levels = 1 - (torch.arange(matrix.rank, dtype=torch.float64) + 0.5) / matrix.rank
    return sigma * _noise_quantile(matrix, levels.numpy())


def noise_level(S: Tensor, matrix: MatrixShape) -> Tensor:
    """Standard deviation (n,) of the noise in matrices with singular values S: (n, rank), from their median.

    sigma = median(S) / sqrt(cols mu_beta), mu_beta the median of the Marchenko-Pastur law
    (Gavish & Donoho 2014, eq. 10, for rows <= cols). It takes most triplets for noise: sound when the rank is
    several tens or more, and no more than the size of the small triplets on a clean image.
    Raises ValueError if S lacks triplets, since the median would then be that of the leading ones.
    """
    if S.shape[-1] != matrix.rank:
        raise ValueError(
            f"sigma: the noise level cannot be read off {S.shape[-1]} of {matrix.rank} triplets; "
            "decompose without a rank limit, or give sigma."
        )
    median = torch.quantile(S.abs().float(), 0.5, dim=-1).to(S.dtype)
    return median / _noise_quantile(matrix, np.array([0.5])).item()


def _noise_quantile(matrix: MatrixShape, levels: np.ndarray) -> Tensor:
    """Quantiles of the singular values of unit noise at the given levels in 0..1."""
    short, long = sorted(matrix)
    values, distribution = _marchenko_pastur(short / long)
    return sqrt(long) * torch.from_numpy(np.interp(levels, distribution, values))


@lru_cache(maxsize=64)
def _marchenko_pastur(beta: float, nodes: int = 4096) -> tuple[np.ndarray, np.ndarray]:
    """Singular values in units of sigma sqrt(n) and their cumulative distribution, tabulated.

    With l = s^2 = 1 + beta - 2 sqrt(beta) cos(theta) the density sqrt((l+ - l)(l - l-)) / (2 pi beta l) dl becomes
    2 sin^2(theta) / (pi l) dtheta, which the trapezoid rule integrates to 1e-6 for square matrices and to 3e-4 at worst
    (beta just below 1).
    """
    theta = np.linspace(0.0, pi, nodes)
    squares = 1 + beta - 2 * sqrt(beta) * np.cos(theta)
    density = 2 * np.sin(theta) ** 2 / (pi * np.maximum(squares, 1e-30))
    density[0] = 2 / pi * (beta == 1)  # the limit at theta = 0, where a square matrix has 0 / 0
    steps = np.diff(theta) * (density[1:] + density[:-1]) / 2
    distribution = np.concatenate([[0.0], np.cumsum(steps)])
    return np.sqrt(squares), distribution / distribution[-1]
