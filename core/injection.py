"""Adding a shift to h, and the part of a run in which it is added."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class Window:
    """The part of a run, from start to end in 0..1, with a linear fade of width ramp inside at both of its ends.

    Raises ValueError if it is empty or leaves 0..1, or if the two fades do not fit in.
    """

    start: float = 0.0
    end: float = 1.0
    ramp: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.start <= self.end <= 1:
            raise ValueError(f"start_percent, end_percent: got {self.start:g} to {self.end:g}; give 0 <= start <= end <= 1.")
        if not 0 <= 2 * self.ramp <= self.end - self.start + 1e-9:
            raise ValueError(f"ramp: got {self.ramp:g}; the two fades must fit between start_percent {self.start:g} and end_percent {self.end:g}.")

    def weight(self, percent: float) -> float:
        """Weight in 0..1 of the shift at this part of the run."""
        if not self.start <= percent <= self.end:
            return 0.0
        return 1.0 if self.ramp == 0 else min(1.0, (percent - self.start) / self.ramp, (self.end - percent) / self.ramp)


def shifted(h: Tensor, shift: Tensor, mask: Tensor | None = None, *, keep_norm: bool = False) -> Tensor:
    """h + m shift, in h's dtype.

    h: (b, c, h, w). shift: (c, h, w) or (b or 1, c, h, w). mask: (b or 1, 1, h, w) in 0..1. keep_norm: rescale each sample to the norm that
    it had, so that a strong shift turns h and does not inflate it.
    """
    inner = torch.promote_types(h.dtype, torch.float32)
    change = shift.to(h.device, inner)
    edited = h.to(inner) + (change if mask is None else mask.to(h.device, inner) * change)
    if keep_norm:
        before, after = (torch.linalg.vector_norm(v.to(inner), dim=(1, 2, 3), keepdim=True) for v in (h, edited))
        edited = edited * (before / after.clamp(min=1e-12))
    return edited.to(h.dtype)


def mask_for(mask: Tensor, size: tuple[int, int], area: tuple[float, float, float, float] | None = None) -> Tensor:
    """A mask (b, h, w) or (h, w) averaged over the cells of an h of this height and width: (b, 1, h, w).

    area: the top, left, height and width of what h covers, as shares of the picture; all of it if None.
    """
    mask = mask.reshape(-1, 1, *mask.shape[-2:]).float()
    if area:
        mask = mask[..., _span(area[0], area[2], mask.shape[-2]), _span(area[1], area[3], mask.shape[-1])]
    return F.interpolate(mask, size, mode="area")


def _span(start: float, length: float, pixels: int) -> slice:
    first = min(round(start * pixels), pixels - 1)
    return slice(first, max(round((start + length) * pixels), first + 1))
