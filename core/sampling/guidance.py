"""Guidance of what is foreseen: towards a reference picture (Choi et al. 2021), up a score's gradient (Dhariwal and Nichol 2021)."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor


def low_pass(x: Tensor, downsample: int) -> Tensor:
    """phi_N(x): x made smaller by a factor N in height and width, and enlarged again. It is linear, and x itself at 1.

    x: (b, c, ..., h, w). Both ways are bicubic, the first with antialiasing, in float32 at least.
    """
    if downsample == 1:
        return x
    size = x.shape[-2:]
    small = [math.ceil(side / downsample) for side in size]
    flat = x.reshape(-1, 1, *size).to(torch.promote_types(x.dtype, torch.float32))
    coarse = F.interpolate(flat, small, mode="bicubic", antialias=True)
    return F.interpolate(coarse, size, mode="bicubic", antialias=True).reshape(x.shape).to(x.dtype)


def towards_reference(x0: Tensor, reference: Tensor, amount: float, *, downsample: int) -> Tensor:
    """x0 + amount phi_N(reference - x0), as in ILVR (Choi et al. 2021, eq. 8, there for x_t and amount 1).

    x0, reference: (b, c, ..., h, w), the reference also with a batch, or frames, of 1. What phi_N leaves out of x0 stays as it is.
    """
    return x0 + amount * low_pass(reference.to(x0) - x0, downsample)


def up_gradient(x0: Tensor, gradient: Tensor, amount: float) -> Tensor:
    """x0 + amount g / rms(g), the root mean square taken over each sample, so that the step has the same length whatever the score.

    x0, gradient: (b, c, ..., h, w). A gradient of 0 moves nothing.
    """
    size = gradient.flatten(1).square().mean(1).sqrt().clamp(min=1e-30)
    return x0 + amount * (gradient / size.reshape(-1, *[1] * (x0.ndim - 1))).to(x0)


def spread(sigma: float, share: float) -> float:
    """How far what is foreseen may be from what is drawn: sigma / sqrt(sigma^2 + a^2), 1 in pure noise and 0 at the end.

    It is the standard deviation of x0 given x = a x0 + sigma noise for latents of unit variance. share: a, the picture's in x.
    """
    return sigma / math.hypot(sigma, share)
