"""Where a contrast of two predictions lies: weights that let it act only where it is large (the idea of SEGA, Brack et al. 2023)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ..latent import append_dims


def size_of_change(change: Tensor) -> Tensor:
    """How large a change (b, c, ..., h, w) is in each cell: (b, 1, ..., h, w), mean over channels, smoothed over 3 x 3 cells."""
    size = change.abs().float().mean(1, keepdim=True)
    if change.ndim < 4:
        return size
    cells = size.flatten(0, -3)[:, None]
    return F.avg_pool2d(F.pad(cells, (1, 1, 1, 1), mode="replicate"), 3, 1).reshape(size.shape)


def focus_weights(sizes: Tensor, focus: float) -> Tensor:
    """Weights (b, 1, ..., h, w) in 0..1: 1 where a picture's size is at least `focus` of its largest, down to 0 at half of that.

    focus: 0..1; 0 weighs all alike. Where nothing changes the weights are 1.
    """
    if focus == 0:
        return torch.ones_like(sizes)
    largest = append_dims(sizes.flatten(1).amax(1), sizes.ndim)
    share = torch.where(largest > 0, sizes / largest.clamp(min=torch.finfo(sizes.dtype).tiny), 1.0)
    return ((2 * share - focus) / focus).clamp(0, 1)
