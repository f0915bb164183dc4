"""A latent code as a stack of matrices: how it is laid out, and back."""

from __future__ import annotations

from typing import Literal, NamedTuple, get_args

from einops import rearrange
from torch import Tensor

Layout = Literal["channel", "joint"]


class MatrixShape(NamedTuple):
    """Size of the matrices that a latent is decomposed as."""

    rows: int
    cols: int

    @property
    def rank(self) -> int:
        """Number of singular triplets of one matrix, min(rows, cols)."""
        return min(self.rows, self.cols)

    def __str__(self) -> str:
        return f"{self.rows} x {self.cols}"


def check_layout(layout: str) -> None:
    """Raise ValueError unless layout is one that `matricise` knows."""
    if layout not in get_args(Layout):
        raise ValueError(f"layout: got {layout!r}; choose one of {', '.join(get_args(Layout))}.")


def matrix_shape(shape: tuple[int, ...], layout: Layout) -> MatrixShape:
    """Size of the matrices of a latent of this shape: h x w per channel, or c x (h w) jointly."""
    check_layout(layout)
    height, width = shape[-2:]
    return MatrixShape(height, width) if layout == "channel" else MatrixShape(shape[1], height * width)


def matricise(x: Tensor, layout: Layout) -> Tensor:
    """Stack of matrices (n, rows, cols) of a latent (b, c, h, w) or (b, c, t, h, w).

    channel: one h x w matrix per sample, channel and frame.
    joint: one c x (h w) matrix per sample and frame.
    """
    check_layout(layout)
    if layout == "channel":
        return rearrange(x, "b c ... h w -> (b c ...) h w")
    return rearrange(x, "b c h w -> b c (h w)") if x.ndim == 4 else rearrange(x, "b c t h w -> (b t) c (h w)")


def unmatricise(matrices: Tensor, shape: tuple[int, ...], layout: Layout) -> Tensor:
    """Latent of the given shape from its stack of matrices; inverse of `matricise`."""
    check_layout(layout)
    if layout == "channel" or len(shape) == 4:
        return matrices.reshape(shape)
    return rearrange(matrices, "(b t) c (h w) -> b c t h w", t=shape[2], h=shape[3])
