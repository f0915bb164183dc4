"""Inversion of a first-order sampler: the noise from which a run returns to a given picture."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .ddim import euler_step

Denoiser = Callable[[Tensor, float], Tensor]


def invert(
    model: Denoiser,
    x: Tensor,
    sigmas: Tensor,
    *,
    refinements: int = 5,
    tolerance: float = 1e-4,
    on_step: Callable[[int, float], None] | None = None,
) -> list[Tensor]:
    """The running latents of the run that ends in x: trajectory[i] at sigmas[i], the last one x itself.

    model(x, sigma) gives the denoised latent of x: (b, ...). sigmas: (steps + 1,) descending. Each step upwards solves
    x_hi = x_lo + (sigma_hi - sigma_lo) (x_hi - D(x_hi)) / sigma_hi, whose solution `euler_step` takes back to x_lo, by
    fixed-point iteration from the first-order guess (the noise predicted at the point below; DDIM inversion, Song et al.
    2021), until the change of the root mean square falls below tolerance times sigma_hi, at most refinements times. An
    iteration that moves away is not followed. Each latent of the batch goes its own way. on_step(step, residual) reports
    the largest of their last changes.
    """
    levels, trajectory, noise = sigmas.tolist(), [x], None
    for i in range(len(levels) - 2, -1, -1):
        high, low = levels[i], levels[i + 1]
        if noise is None:
            noise = _noise(model, x, high)
        solved = x + (high - low) * noise
        residual = x.new_full((len(x), *[1] * (x.ndim - 1)), float("inf"))
        moving = torch.ones_like(residual, dtype=torch.bool)
        for _ in range(refinements):
            noise = torch.where(moving, _noise(model, solved, high), noise)
            nearer = x + (high - low) * noise
            change = (nearer - solved).square().mean(tuple(range(1, x.ndim)), keepdim=True).sqrt() / high
            moving = moving & (change < residual)
            solved, residual = torch.where(moving, nearer, solved), torch.where(moving, change, residual)
            moving = moving & (change >= tolerance)
            if not moving.any():
                break
        x, noise = solved, noise if refinements else _noise(model, solved, high)
        trajectory.insert(0, x)
        if on_step:
            on_step(i, float(residual.max()))
    return trajectory


def _noise(model: Denoiser, x: Tensor, sigma: float) -> Tensor:
    return (x - model(x, sigma)) / sigma


@dataclass(frozen=True, eq=False)
class Path:
    """A run as it should have gone, trajectory[i] at step i, and where a step from each of these points really leads."""

    trajectory: tuple[Tensor, ...]
    stepped: tuple[Tensor, ...]

    @classmethod
    def along(cls, model: Denoiser, trajectory: list[Tensor], sigmas: Tensor) -> Path:
        """One model call for each step of sigmas: (steps + 1,)."""
        levels = sigmas.tolist()
        stepped = [euler_step(x, model(x, sigma), sigma, after) for x, sigma, after in zip(trajectory, levels, levels[1:])]
        return cls(tuple(trajectory), tuple(stepped))

    def to(self, like: Tensor) -> Path:
        """The same on another latent's device and in its dtype."""
        return Path(tuple(x.to(like) for x in self.trajectory), tuple(x.to(like) for x in self.stepped))

    def rows(self, rows: list[int]) -> Path:
        """The runs of some of its pictures, in this order."""
        if rows == list(range(len(self.trajectory[0]))):
            return self
        return Path(tuple(x[rows] for x in self.trajectory), tuple(x[rows] for x in self.stepped))


def nearest(latents: Tensor, pictures: Tensor, asked: Sequence[int | None]) -> tuple[list[int], Tensor]:
    """For each latent (b, ...) the nearest of the pictures (n, ...), and how far it is (b,): the largest difference of a value.

    asked: a picture for each latent, which is kept if none is nearer.
    """
    apart = torch.stack([(latents - picture).abs().flatten(1).amax(1) for picture in pictures], 1)
    least = apart.amin(1)
    kept = [row is not None and bool(line[row] <= most) for row, line, most in zip(asked, apart, least, strict=True)]
    return [row if row is not None and keep else int(line.argmin()) for row, line, keep in zip(asked, apart, kept, strict=True)], least


def sample_along(
    model: Callable[..., Tensor],
    x: Tensor,
    sigmas: Tensor,
    path: Path,
    *,
    mask: Tensor | None = None,
    callback: Callable[[dict[str, Any]], None] | None = None,
    options: dict[str, Any] | None = None,
) -> Tensor:
    """A first-order run that adds at each step what the path's own step missed (direct inversion, Ju et al. 2024).

    x' = trajectory[i + 1] + (step(x) - step(trajectory[i])): as long as nothing is edited it follows the path bit for
    bit, whatever the inversion's own error; an edit adds its difference. A start that differs from the path's by rounding
    only is taken for it. By their starts, a part of the pictures is known again, in any order and number; a latent that starts
    elsewhere is taken for the picture of its place. mask: (b, 1 or c, h, w), 1 where an edit may act; elsewhere the run is the
    path itself. model(x, sigma (b,), **options) gives the denoised latent. Raises ValueError if the path has another number of
    steps or another size, or if the run has other pictures.
    """
    levels = sigmas.tolist()
    path, known = _path_of(x, path, levels)
    x = torch.where(known, path.trajectory[0], x)

    def masked(x: Tensor, i: int) -> Tensor:
        return x if mask is None else torch.lerp(path.trajectory[i], x, mask.to(x))

    for i, (sigma, after) in enumerate(zip(levels, levels[1:])):
        x = masked(x, i)
        denoised = model(x, sigmas[i] * x.new_ones(len(x)), **(options or {}))
        if callback:
            callback({"x": x, "i": i, "sigma": sigmas[i], "sigma_hat": sigmas[i], "denoised": denoised})
        x = path.trajectory[i + 1] + (euler_step(x, denoised, sigma, after) - path.stepped[i])
    return masked(x, -1)


def _path_of(x: Tensor, path: Path, levels: list[float]) -> tuple[Path, Tensor]:
    """The path's pictures in the order of the latents that start at them, and which latents do (b, 1, ...)."""
    start = path.trajectory[0]
    if len(path.stepped) == len(levels) - 1 and start.shape[1:] == x.shape[1:]:
        rows, apart = nearest(x, start, [i if i < len(start) else None for i in range(len(x))])
        known = apart <= 1e-4 * max(levels[0], 1.0)
        if known.all() or len(x) == len(start):
            rows = [row if near else i for i, (row, near) in enumerate(zip(rows, known, strict=True))]
            return path.rows(rows), known.view(-1, *[1] * (x.ndim - 1))
    raise ValueError(
        f"sampler: the inversion has {len(path.stepped)} steps at {tuple(start.shape)}, this run {len(levels) - 1} at "
        f"{tuple(x.shape)}; use the same sigmas and the same latents as Invert."
    )
