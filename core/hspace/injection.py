"""Adding a shift to h: the part of a run in which it is added, where in the picture, and the gain of the asymmetric process."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

LARGEST_GAIN = 1e3


def asymmetric_gain(sigma: float, sigma_next: float) -> float:
    """Gain g with which `D + g (D~ - D)` makes a first-order step the asymmetric one: 1 / (1 - sigma'/sigma), at most 1000.

    Put into x' = D_eff + sigma' (x - D_eff) / sigma, it gives D~ + sigma' (x - D) / sigma. Raises ValueError unless
    0 <= sigma' < sigma.
    """
    if not 0 <= sigma_next < sigma:
        raise ValueError(f"sigmas: an asymmetric step goes down, from sigma to a smaller one; got {sigma:.4g} to {sigma_next:.4g}.")
    return min(1 / (1 - sigma_next / sigma), LARGEST_GAIN)


def matched_scale(sigmas: Sequence[float], weights: Sequence[float]) -> float:
    """Strength of the asymmetric process, in units of a symmetric shift of equal total effect to first order.

    A symmetric shift enters x with weight 1 - sigma'/sigma at each step, an asymmetric one with weight 1: its effect
    grows with the number of steps. The ratio of the two sums over the steps (weights: one a step, 0 outside the window)
    makes both alike, and the edit independent of the number of steps. Plays the role of n_ref / n in the authors' code.
    """
    shares = [1 - after / before for before, after in zip(sigmas, sigmas[1:])]
    return sum(w * s for w, s in zip(weights, shares, strict=True)) / sum(weights)


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
            raise ValueError(
                f"ramp: got {self.ramp:g}; the two fades must fit between start_percent {self.start:g} and end_percent {self.end:g}."
            )

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


@dataclass(frozen=True)
class Place:
    """What of a picture something covers: these of its rows and columns of cells, which are so many in all."""

    rows: Sequence[int]
    columns: Sequence[int]
    size: tuple[int, int]


def places_of(part: Tensor, pictures: Tensor) -> list[tuple[int, Place]]:
    """Each place where a part (c, h, w) was cut from pictures (b, c, H, W): the picture's number, and the place in it.

    A place is one only where all values are equal bit for bit. It may reach over the picture's edges.
    """
    height, width = part.shape[-2:]
    rows, columns = pictures.shape[-2:]
    if height > rows or width > columns:
        return []
    around = torch.cat([pictures, pictures[..., : height - 1, :]], -2)
    around = torch.cat([around, around[..., : width - 1]], -1)
    starts = (pictures == part[:, :1, :1]).all(1).nonzero().tolist()
    equal = [(i, top, left) for i, top, left in starts if torch.equal(around[i, :, top : top + height, left : left + width], part)]
    return [(i, Place(cells_from(top, height, rows), cells_from(left, width, columns), (rows, columns))) for i, top, left in equal]


def cells_from(start: int, length: int, count: int) -> Sequence[int]:
    """So many of count cells in a row, those after the last being the first again."""
    return range(start, start + length) if start + length <= count else [cell % count for cell in range(start, start + length)]


def mask_for(mask: Tensor, size: tuple[int, int], place: Place | None = None) -> Tensor:
    """A mask (b, h, w) or (h, w) averaged over the cells of an h of this height and width: (b, 1, h, w).

    place: what of the picture h covers; all of it if None.
    """
    mask = mask.reshape(-1, 1, *mask.shape[-2:]).float()
    if place:
        mask = _taken(_taken(mask, -2, place.rows, place.size[0]), -1, place.columns, place.size[1])
    return F.interpolate(mask, size, mode="area")


def _taken(mask: Tensor, dim: int, cells: Sequence[int], count: int) -> Tensor:
    """The pixels of a mask that belong to these of count cells along a dimension."""
    starts = [i for i in range(len(cells)) if i == 0 or cells[i] != cells[i - 1] + 1]
    runs = [(cells[first], cells[last - 1] + 1) for first, last in zip(starts, [*starts[1:], len(cells)])]
    spans = [_span(first / count, stop / count, mask.shape[dim]) for first, stop in runs]
    return torch.cat([mask.narrow(dim, first, stop - first) for first, stop in spans], dim)


def _span(start: float, stop: float, pixels: int) -> tuple[int, int]:
    first = min(round(start * pixels), pixels - 1)
    return first, max(round(stop * pixels), first + 1)
