"""Latents: what a tensor has to be to pass for one, likeness, and an edit under a mask."""

from __future__ import annotations

import torch
from torch import Tensor


def check_latent(x: Tensor, name: str = "latent") -> None:
    """Raise ValueError unless x is a finite floating-point latent, (b, c, h, w) or (b, c, t, h, w)."""
    if getattr(x, "is_nested", False):
        raise ValueError(
            f"{name}: a nested latent (several tensors in one, as audio-video models use) has no single matrix "
            "to decompose; separate it first and connect its picture part."
        )
    if x.ndim not in (4, 5):
        raise ValueError(
            f"{name}: got shape {tuple(x.shape)}; expected an image latent (b, c, h, w) "
            "or a video latent (b, c, t, h, w). Audio latents (b, c, length) cannot be decomposed."
        )
    if x.numel() == 0:
        raise ValueError(f"{name}: got shape {tuple(x.shape)}, which holds no values; connect a latent that is not empty.")
    if not x.is_floating_point():
        raise ValueError(f"{name}: got {x.dtype}; expected floating-point values. Connect a latent, not a mask or an index.")
    if not torch.isfinite(x).all():
        raise ValueError(
            f"{name}: contains NaN or Inf, so it has no singular values; look for the node upstream that produced them "
            "(an overflow in half precision, or a model that diverged)."
        )


def append_dims(x: Tensor, ndim: int) -> Tensor:
    """x with dimensions of size 1 after its own, ndim in all: values of each row, to be multiplied with rows."""
    return x.reshape(*x.shape, *[1] * (ndim - x.ndim))


def is_off(strength: float, mask: Tensor | None) -> bool:
    """Whether an edit of a strength under a mask has nothing to do."""
    return strength == 0 or (mask is not None and not mask.any())


def nearly_equal(a: Tensor, b: Tensor) -> bool:
    """Whether two predictions differ by rounding only: by no more than a thousandth of b's norm.

    Predictions for equal prompts in one batch differ as much: the last bits of a row depend on its place in the batch, in
    half precision the third digit.
    """
    a, b = a.float(), b.float()
    return bool((a - b).norm() <= 1e-3 * b.norm())


def masked(x: Tensor, edited: Tensor, mask: Tensor) -> Tensor:
    """An edit under a mask, x + m (edited - x).

    x, edited: latents of one shape. mask: broadcasts to them. Where the mask is 0 the result is x, and where it is 1
    it is edited, bit for bit. Raises ValueError if the shapes do not fit or the mask is not finite.
    """
    if x.shape != edited.shape:
        raise ValueError(f"edited: got shape {tuple(edited.shape)} beside a latent of shape {tuple(x.shape)}; they must agree.")
    if not _broadcasts(mask.shape, x.shape):
        raise ValueError(
            f"mask: shape {tuple(mask.shape)} does not broadcast to the latent's shape {tuple(x.shape)}; "
            "resize the mask to the latent's height and width."
        )
    if not torch.isfinite(mask).all():
        raise ValueError("mask: contains NaN or Inf; connect a mask with values from 0 to 1.")
    inner = torch.promote_types(x.dtype, torch.float32)
    mask = mask.to(x.device, inner).expand(x.shape)
    return torch.lerp(x.to(inner), edited.to(x.device, inner), mask).to(x.dtype)


def _broadcasts(shape: torch.Size, target: torch.Size) -> bool:
    return len(shape) <= len(target) and all(a in (1, b) for a, b in zip(reversed(shape), reversed(target)))
