"""Where a contrast of two predictions lies: weights that let it act only where it is large (the idea of SEGA, Brack et al. 2023)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ..latent import append_dims

SPREAD = 1 / 3  # of the focus, where it spreads
FAINT = 2.0  # times the median size: so much is found everywhere, as from much noise, and joins nothing


def size_of_change(change: Tensor) -> Tensor:
    """How large a change (b, c, ..., h, w) is in each cell: (b, 1, ..., h, w), mean over channels, smoothed over 3 x 3 cells."""
    size = change.abs().float().mean(1, keepdim=True)
    if change.ndim < 4:
        return size
    cells = size.flatten(0, -3)[:, None]
    return F.avg_pool2d(F.pad(cells, (1, 1, 1, 1), mode="replicate"), 3, 1).reshape(size.shape)


def focus_weights(sizes: Tensor, focus: float, spread: float = 1.0) -> Tensor:
    """Weights (b, 1, ..., h, w) in 0..1: where a change is large; and, if it spreads, around there as long as it is not small.

    1 where a picture's size is at least `focus` of its largest, down to 0 at half of that; and 1, smoothed over 3 x 3 cells, wherever it
    is at least `spread` of that size, and twice the picture's median, and all cells on a way to such a place are, too (hysteresis, as the
    edges of Canny 1986; the median is ours).
    focus: 0..1; 0 weighs all alike. spread: 0..1; 1 does not spread. Where nothing changes the weights are 1.
    """
    if focus == 0:
        return torch.ones_like(sizes)
    largest = append_dims(sizes.flatten(1).amax(1), sizes.ndim)
    share = torch.where(largest > 0, sizes / largest.clamp(min=torch.finfo(sizes.dtype).tiny), 1.0)
    weights = ((2 * share - focus) / focus).clamp(0, 1)
    if spread == 1:
        return weights
    faint = FAINT * append_dims(share.flatten(1).median(1).values, share.ndim)
    return torch.maximum(weights, joined(share >= focus, (share >= spread * focus) & (share >= faint)))


def joined(begun: Tensor, allowed: Tensor) -> Tensor:
    """1 in the allowed cells (b, 1, ..., h, w) that touch a cell where it has begun, or another such cell; smoothed over 3 x 3 cells.

    Frames touch, too. It goes on for as many cells as the longer side has, which reaches all but the far end of a long spiral.
    """
    height, width = begun.shape[-2:] if begun.ndim > 3 else (1, begun.shape[-1])
    found, free = (where.reshape(len(where), 1, -1, height, width).float() for where in (begun, allowed))
    for _ in range(max(found.shape[2:])):
        found = F.max_pool3d(found, 3, 1, 1) * free
    frames = F.avg_pool2d(found.flatten(0, 2)[:, None], 3, 1, 1, count_include_pad=False)
    return frames.reshape(begun.shape)
