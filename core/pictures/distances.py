"""Distances between pictures: how much of what a person sees differs. Pictures are (b, c, h, w) in [-1, 1]."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

WINDOW, SIGMA = 7, 1.5  # of the SSIM's Gaussian window, in pixels
C1, C2 = (0.01 * 2) ** 2, (0.03 * 2) ** 2


def rms(a: Tensor, b: Tensor) -> Tensor:
    """Root mean square difference (b,), 0 to 2."""
    return torch.linalg.vector_norm((a - b).flatten(1), dim=1) / a[0].numel() ** 0.5


def ssim(a: Tensor, b: Tensor) -> Tensor:
    """Structural similarity (b,), at most 1 (Wang et al. 2004, eq. 13), mean over pixels and channels.

    Where a picture is smaller than the window, the window shrinks.
    """
    size = min(WINDOW, *a.shape[-2:])
    ticks = torch.arange(size, dtype=a.dtype, device=a.device) - (size - 1) / 2
    line = torch.softmax(-(ticks**2) / (2 * SIGMA**2), 0)
    kernel = (line[:, None] * line).expand(a.shape[1], 1, size, size)

    def blur(x: Tensor) -> Tensor:
        return F.conv2d(x, kernel, groups=a.shape[1])

    mean_a, mean_b = blur(a), blur(b)
    var_a, var_b, both = blur(a * a) - mean_a**2, blur(b * b) - mean_b**2, blur(a * b) - mean_a * mean_b
    similarity = (2 * mean_a * mean_b + C1) * (2 * both + C2) / ((mean_a**2 + mean_b**2 + C1) * (var_a + var_b + C2))
    return similarity.mean((1, 2, 3))


def structural_distance(a: Tensor, b: Tensor) -> Tensor:
    """(1 - SSIM) / 2, (b,) in 0..1, averaged over the picture's scales: halved until it is 8 pixels wide."""
    distances = []
    while True:
        distances.append((1 - ssim(a, b)) / 2)
        if min(a.shape[-2:]) < 16:
            return torch.stack(distances).mean(0)
        a, b = F.avg_pool2d(a, 2), F.avg_pool2d(b, 2)


def feature_distance(a: Tensor, b: Tensor) -> Tensor:
    """Distance of patch features (b, patches, d) as LPIPS measures it (Zhang et al. 2018, eq. 1, weights 1): (b,) in 0..4."""
    return (F.normalize(a, dim=-1) - F.normalize(b, dim=-1)).square().sum(-1).mean(1)


def psnr(a: Tensor, b: Tensor) -> Tensor:
    """Peak signal-to-noise ratio (b,) in dB; 120 at the most, for equal pictures."""
    return -20 * (rms(a, b) / 2).clamp(min=1e-6).log10()


def colour_drift(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """How far the channels' means and deviations lie apart, (b,) each: root mean square over channels, 0 to 2."""
    means = (a.mean((2, 3)) - b.mean((2, 3))).square().mean(1).sqrt()
    deviations = (a.flatten(2).std(2, unbiased=False) - b.flatten(2).std(2, unbiased=False)).square().mean(1).sqrt()
    return means, deviations
