"""Variants of one latent, each with one singular value changed (Wang et al. 2025, figure 3)."""

from __future__ import annotations

import re
from collections.abc import Sequence

import torch
from torch import Tensor

from .spectrum import LatentSVD, decompose


def variants(x: Tensor, triplets: Sequence[int], gains: Sequence[float]) -> Tensor:
    """Latents (gains * triplets, c, h, w) of x: (1, c, h, w), row by row: in each, s_i of every channel is gain times what it was.

    triplets count from 1. A gain of 1 is x, bit for bit. Raises ValueError for a triplet that x does not have.
    """
    svd = decompose(x)
    if max(triplets) > svd.rank:
        raise ValueError(f"triplets: got {max(triplets)}, a latent of this size has {svd.rank}.")
    parts = torch.stack([_part(svd, i - 1).reshape(x.shape) for i in triplets])  # triplets, 1, c, h, w
    return torch.cat([x if gain == 1 else x + (gain - 1) * part.to(x) for gain in gains for part in parts])


def _part(svd: LatentSVD, i: int) -> Tensor:
    return svd.S[:, i, None, None] * svd.U[:, :, i, None] * svd.Vh[:, None, i]


def numbers_in(text: str, name: str, *, whole: bool) -> list[float] | list[int]:
    """Numbers out of a text such as `1-4, 8` (whole numbers from 1) or `0, 0.5, 2`; ValueError that names the input."""
    found: list = []
    for part in filter(None, (part.strip() for part in re.split(r"[,;\s]+", text))):
        match = re.fullmatch(r"(\d+)-(\d+)", part)
        try:
            if whole and match:
                first, last = map(int, match.groups())
                if not 1 <= first <= last <= 4096:
                    raise ValueError
                found.extend(range(first, last + 1))
            else:
                value = int(part) if whole else float(part)
                if whole and not 1 <= value <= 4096 or not abs(value) < 1e6:
                    raise ValueError
                found.append(value)
        except ValueError:
            example = "1-4, 8" if whole else "0, 0.5, 2"
            raise ValueError(
                f"{name}: {part!r} cannot be read; write {'numbers from 1, or ranges' if whole else 'numbers'}, such as {example}."
            ) from None
    if not found:
        raise ValueError(f"{name}: it is empty; write at least one number.")
    return found
