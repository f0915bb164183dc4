"""Inversion of a first-order sampler: the noise from which a run returns to a given picture."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..latent import append_dims
from .ddim import euler_step

DenoiserAt = Callable[[Tensor, float], Tensor]  # of x: (b, ...) at one noise level


def invert(
    model: DenoiserAt,
    x: Tensor,
    sigmas: Tensor,
    *,
    refinements: int = 5,
    tolerance: float = 1e-4,
    on_step: Callable[[int, float], None] | None = None,
) -> list[Tensor]:
    """The running latents of the run that ends in x: trajectory[i] at sigmas[i], the last one x itself.

    DDIM inversion (Song et al. 2021), with each step solved as `solve_step` says. model(x, sigma) gives the denoised latent
    of x: (b, ...). sigmas: (steps + 1,) descending, one step at the least. refinements: most iterations of a step, 0 for plain
    DDIM inversion. on_step(step, residual) reports the largest residual of the batch.
    """
    levels, trajectory = sigmas.tolist(), [x]
    noise = predicted_noise(model, x, levels[-2])  # not at the last level, which is 0 in a whole schedule
    for i in reversed(range(len(levels) - 1)):
        x, noise, residual = solve_step(model, x, noise, levels[i], levels[i + 1], refinements, tolerance)
        trajectory.insert(0, x)
        if on_step:
            on_step(i, float(residual.max()))
    return trajectory


def solve_step(
    model: DenoiserAt, x: Tensor, noise: Tensor, high: float, low: float, refinements: int, tolerance: float
) -> tuple[Tensor, Tensor, Tensor]:
    """The latent at noise level high that `euler_step` takes to x at low, the noise predicted for it, and its residual (b, 1, ...).

    Solves x_hi = x + (high - low) (x_hi - D(x_hi)) / high by fixed-point iteration. It starts from the given noise, that of
    the step below, and ends when the root mean square of the change falls below tolerance times high. The residual is the last
    change in units of high. Each latent of the batch stops by itself. A change that is larger than the one before is not made.
    """
    solved = x + (high - low) * noise
    residual = append_dims(x.new_full((len(x),), float("inf")), x.ndim)
    moving = torch.ones_like(residual, dtype=torch.bool)
    if not refinements:
        return solved, predicted_noise(model, solved, high), residual
    for _ in range(refinements):
        noise = torch.where(moving, predicted_noise(model, solved, high), noise)
        nearer = x + (high - low) * noise
        change = (nearer - solved).square().mean(tuple(range(1, x.ndim)), keepdim=True).sqrt() / high
        moving = moving & (change < residual)
        solved, residual = torch.where(moving, nearer, solved), torch.where(moving, change, residual)
        moving = moving & (change >= tolerance)
        if not moving.any():
            break
    return solved, noise, residual


def predicted_noise(model: DenoiserAt, x: Tensor, sigma: float) -> Tensor:
    """eps = (x - D(x)) / sigma."""
    return (x - model(x, sigma)) / sigma


@dataclass(frozen=True, eq=False)
class ExactPath:
    """A run as it should have gone, trajectory[i] at step i, and where a step from each of these points really leads."""

    trajectory: tuple[Tensor, ...]
    stepped: tuple[Tensor, ...]

    @classmethod
    def along(cls, model: DenoiserAt, trajectory: list[Tensor], sigmas: Tensor) -> ExactPath:
        """Makes one model call for each step of sigmas: (steps + 1,)."""
        levels = sigmas.tolist()
        stepped = [euler_step(x, model(x, sigma), sigma, after) for x, sigma, after in zip(trajectory, levels, levels[1:])]
        return cls(tuple(trajectory), tuple(stepped))

    def to(self, like: Tensor) -> ExactPath:
        """The same on another latent's device and in its dtype."""
        return ExactPath(tuple(x.to(like) for x in self.trajectory), tuple(x.to(like) for x in self.stepped))

    def rows(self, rows: list[int]) -> ExactPath:
        """The runs of some of its pictures, in this order."""
        if rows == list(range(len(self.trajectory[0]))):
            return self
        return ExactPath(tuple(x[rows] for x in self.trajectory), tuple(x[rows] for x in self.stepped))


class OtherRun(ValueError):
    """A run that a path cannot lead. difference: the steps and the shapes of both, as a clause."""

    def __init__(self, path: ExactPath, x: Tensor, steps: int) -> None:
        start = path.trajectory[0]
        self.difference = f"{len(path.stepped)} steps at {tuple(start.shape)}, this run {steps} at {tuple(x.shape)}"
        super().__init__(f"path: it has {self.difference}; give the same sigmas and the same latents.")


def nearest(latents: Tensor, pictures: Tensor, asked: Sequence[int | None]) -> tuple[list[int], Tensor]:
    """For each latent (b, ...) the number of the nearest of the pictures (n, ...), and its distance (b,).

    The distance is the largest difference of a value. asked: a picture for each latent, which is kept if no other is nearer.
    """
    apart = torch.stack([(latents - picture).abs().flatten(1).amax(1) for picture in pictures], 1)
    least = apart.amin(1)
    kept = [row is not None and bool(line[row] <= most) for row, line, most in zip(asked, apart, least, strict=True)]
    return [row if row is not None and keep else int(line.argmin()) for row, line, keep in zip(asked, apart, kept, strict=True)], least


def sample_along(
    model: Callable[..., Tensor],
    x: Tensor,
    sigmas: Tensor,
    path: ExactPath,
    *,
    mask: Tensor | None = None,
    callback: Callable[[dict[str, Any]], None] | None = None,
    options: dict[str, Any] | None = None,
) -> Tensor:
    """A first-order run that adds at each step what the path's own step missed (direct inversion, Ju et al. 2024).

    x' = trajectory[i + 1] + (step(x) - step(trajectory[i])). While nothing is edited, the run follows the path bit for bit,
    whatever the error of the inversion. An edit adds its difference. A latent that starts at one of the path's pictures, up to
    rounding, follows that picture: the run may have some of the pictures, in any order. A latent that starts elsewhere
    follows the picture of its own place. mask: (b, 1 or c, h, w), 1 where an edit may act; elsewhere the run is the path
    itself. model(x, sigma (b,), **options) gives the denoised latent. Raises OtherRun, a ValueError, if the path has another
    number of steps or another size, or if the run has other pictures.
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


def _path_of(x: Tensor, path: ExactPath, levels: list[float]) -> tuple[ExactPath, Tensor]:
    """The path's pictures in the order of the latents that start at them, and which latents do (b, 1, ...)."""
    start = path.trajectory[0]
    if len(path.stepped) == len(levels) - 1 and start.shape[1:] == x.shape[1:]:
        rows, apart = nearest(x, start, [i if i < len(start) else None for i in range(len(x))])
        known = apart <= 1e-4 * max(levels[0], 1.0)
        if known.all() or len(x) == len(start):
            rows = [row if near else i for i, (row, near) in enumerate(zip(rows, known, strict=True))]
            return path.rows(rows), append_dims(known, x.ndim)
    raise OtherRun(path, x, len(levels) - 1)
