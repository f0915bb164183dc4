"""Runs whose running latents are kept: at some steps, or all of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from torch import Tensor

from .steering import UNKNOWN, Callback, Denoiser, Traits, WrappedDenoiser, check_at_step, check_reported, not_at_its_steps

Seen = Literal["x_t", "x0"]


@dataclass(frozen=True, eq=False)
class Trajectory:
    """A run: the running latents x[i] at sigmas[i] and the predictions made there, (b, c, h, w) on the CPU.

    The last entry of both is the finished latent, at the level where the run ended. percents: the parts of the schedule.
    """

    x: tuple[Tensor, ...]
    denoised: tuple[Tensor, ...]
    sigmas: tuple[float, ...]
    percents: tuple[float, ...]

    def latents(self, seen: Seen) -> tuple[Tensor, ...]:
        """The noisy latents, or the predicted ones."""
        return self.x if seen == "x_t" else self.denoised


class Moment(NamedTuple):
    """The running latent at the start of a step and what the model foresees from it, (b, ...) both."""

    x: Tensor
    denoised: Tensor


class _Seen(Exception):
    """Ends a run of which the rest is not needed."""


class _Recorder(WrappedDenoiser):
    """The denoiser of a run that is only looked at, at the first evaluation of the chosen steps."""

    def __init__(self, denoiser: Denoiser, sigmas: Tensor, steps: tuple[int, ...], traits: Traits) -> None:
        super().__init__(denoiser)
        self._known = traits.known
        self._firsts = traits.first_calls(len(sigmas) - 1)
        self._schedule, self._steps, self._calls = sigmas.tolist(), steps, 0
        self._seen: dict[int, Moment] = {}
        self._unconfirmed: dict[int, Tensor] = {}

    def __call__(self, x: Tensor, sigma: Tensor, **options: Any) -> Tensor:
        step = self._firsts.get(self._calls)
        self._calls += 1
        denoised = self._denoiser(x, sigma, **options)
        if step in self._steps:
            self._see(step, x, denoised, float(sigma.flatten()[0]))
        return denoised

    def _see(self, step: int, x: Tensor, denoised: Tensor, level: float) -> None:
        self._seen[step] = Moment(x.clone(), denoised)
        if not self._known:
            self._unconfirmed[step] = x
            return
        check_at_step(level, self._schedule[step])
        if self._complete:
            raise _Seen

    def confirming(self, callback: Callback) -> Callback:
        """The run's callback, which looks whether the sampler reports what was seen as its running latent, and ends the run at the last."""

        def confirm(state: dict[str, Any]) -> None:
            check_reported(state, self._unconfirmed.pop(state["i"], None))
            if self._complete:
                raise _Seen
            callback(state)

        return confirm

    @property
    def _complete(self) -> bool:
        return len(self._seen) == len(self._steps) and not self._unconfirmed

    def result(self) -> dict[int, Moment]:
        """What was seen at all of the steps; ValueError if the run ended before."""
        if not self._complete:
            raise not_at_its_steps()
        return self._seen


def recorded(
    sampler: Callable[..., Tensor],
    model: Denoiser,
    x: Tensor,
    sigmas: Tensor,
    *,
    steps: Iterable[int],
    traits: Traits = UNKNOWN,
    callback: Callback = lambda state: None,
    **options: Any,
) -> dict[int, Moment]:
    """The moments of sampler(model, x, sigmas, callback=callback, **options) at these steps; the run ends at the last of them.

    x: (b, ...) noise at sigmas[0]; it is not modified. Raises ValueError if the sampler does not expose its steps.
    """
    recorder = _Recorder(model, sigmas, tuple(set(steps)), traits)
    with suppress(_Seen):
        sampler(recorder, x.clone(), sigmas, callback=recorder.confirming(callback), **options)
    return recorder.result()
