"""What pictures of other nodes are like."""

from __future__ import annotations

from torch import Tensor


def as_rgb(pictures: Tensor, name: str, dim: int = -1) -> Tensor:
    """Pictures with three channels in this dimension: grey is repeated, and an opacity after RGB is left out.

    Raises ValueError, under the input's name, for any other number of channels.
    """
    channels = pictures.shape[dim]
    if channels not in (1, 3, 4):
        raise ValueError(f"{name}: got pictures of {channels} channels; connect pictures of 1 (grey), 3 (RGB) or 4 (RGB with opacity).")
    return pictures.repeat_interleave(3, dim) if channels == 1 else pictures.narrow(dim, 0, 3)
