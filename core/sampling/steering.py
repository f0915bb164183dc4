"""Edits of the running latent inside a sampler: which steps, and how a denoiser is made to apply them.

A sampler calls `model(x, sigma, **options)` for the denoised latent and keeps x as its state. An edit of the
prediction replaces what that call returns; an edit of x_t rewrites x in place just before the call, so that the
sampler goes on from the edited latent with its multistep history, noise and callbacks untouched.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from ..latent import masked
from .steps import Levels, at_or_below, is_ascending, is_descending

Target = Literal["x_t", "x0"]
StepEdit = Callable[[Tensor, int], Tensor]  # of a latent, at a step
Denoiser = Callable[..., Tensor]
Callback = Callable[[dict[str, Any]], None]  # of a sampler, which tells it of each step


@dataclass(frozen=True)
class Traits:
    """How a sampler function calls its denoiser.

    evaluations: the calls of a step. The first is of the running latent; a later one may fall on the next step's noise level.
    fewer_at_end: a step makes no more calls than there are steps left, itself among them. exposes_x_t: the first call of each step is of
    the running latent itself, so that it can be edited there. first_order: a step is x' = D + (sigma'/sigma) (x - D), and adds only what
    does not depend on D. known: all this is sure; else what the sampler reports to its callback has to confirm it.
    """

    evaluations: int = 1
    fewer_at_end: bool = False
    exposes_x_t: bool = True
    first_order: bool = False
    known: bool = True

    def first_calls(self, steps: int) -> dict[int, int]:
        """The steps of a run by the number, from 0, of the model call that begins each."""
        counts = [min(self.evaluations, steps - i) if self.fewer_at_end else self.evaluations for i in range(steps)]
        return {sum(counts[:i]): i for i in range(steps)}


UNKNOWN = Traits(known=False)


def steps_in_window(sigmas: Tensor, start: float, end: float, *, once: bool = False) -> tuple[int, ...]:
    """Indices of the steps that start at a sigma in [end, start], the first of them only if once.

    sigmas: (steps + 1,), the schedule of a run, down or up. None where the window lies in another part of the whole run. Raises
    ValueError if this run passes through the window without a step in it.
    """
    levels, window = sigmas.tolist(), Levels(start, end)
    steps = window.steps(levels)
    if not steps and not window.misses(levels):
        raise ValueError(
            f"start_percent, end_percent: no step of this run starts at a sigma from {start:.4g} down to {end:.4g}; its "
            f"{len(sigmas) - 1} steps go from {float(sigmas[0]):.4g} to {float(sigmas[-1]):.4g}. Widen the range, or sample more steps."
        )
    return steps[:1] if once else steps


class WrappedDenoiser:
    """Stands in a denoiser's place for one run. Its attributes are the wrapped denoiser's, no more and no less.

    Samplers ask for some by name, to tell the host's denoiser from a bare model: so what is wrapped has a name that none asks for.
    """

    def __init__(self, denoiser: Denoiser) -> None:
        self._denoiser = denoiser

    def __getattr__(self, name: str) -> Any:
        if name == "_denoiser":  # of a copy in the making, which has nothing yet
            raise AttributeError(name)
        return getattr(self._denoiser, name)

    def on(self, denoiser: Denoiser) -> Denoiser:
        """What stands in the place of another denoiser, for a run of its own: nothing, unless the wrapper is an edit."""
        return denoiser


class SteeredDenoiser(WrappedDenoiser):
    """The denoiser of one run, with an edit at the chosen steps."""

    def __init__(
        self, denoiser: Denoiser, edit: StepEdit, sigmas: Tensor, steps: tuple[int, ...], target: Target, traits: Traits = UNKNOWN
    ) -> None:
        super().__init__(denoiser)
        self._edit, self._target, self._traits = edit, target, traits
        self._schedule, self._steps, self._calls = sigmas.tolist(), steps, 0
        self._firsts = traits.first_calls(len(sigmas) - 1)
        self._reported = False  # whether the run reports its steps
        self._unconfirmed: dict[int, Tensor] = {}  # what was edited and not yet reported
        self._up = is_ascending(self._schedule)
        if target == "x0" and steps and not (self._up or is_descending(self._schedule)):
            raise ValueError("sigmas: they go up and down, so that a noise level does not tell its step. Edit x_t in place of x0.")

    def __call__(self, x: Tensor, sigma: Tensor, **options: Any) -> Tensor:
        """Denoised latent of x: (b, ...) at sigma: (b,), edited where the step is one of the chosen."""
        level = float(sigma.flatten()[0])
        if self._target == "x0":
            denoised, around = self._denoiser(x, sigma, **options), self._step_around(level)
            return self._edit(denoised, around) if around in self._steps else denoised
        step = self._firsts.get(self._calls)
        self._calls += 1
        if step in self._steps:
            self._edit_in_place(x, step, level)
        return self._denoiser(x, sigma, **options)

    def _step_around(self, level: float) -> int:
        """The step that a sigma belongs to: the last one that starts at it or was passed on the way to it."""
        passed = (at_or_below(start, level) if self._up else at_or_below(level, start) for start in self._schedule[:-1])
        return max(sum(passed) - 1, 0)

    def _edit_in_place(self, x: Tensor, step: int, level: float) -> None:
        if not self._reported:
            check_at_step(level, self._schedule[step])
        edited = self._edit(x, step)
        if edited is not x:
            x.copy_(edited)
        self._unconfirmed[step] = x

    def confirming(self, callback: Callback | None) -> Callback:
        """The run's callback, which looks whether what was edited is the running latent that the sampler reports.

        It raises ValueError where it is not: an evaluation that was taken for a step's first was of something else. It takes the place of
        the look at noise levels, which wrappers may have changed on the way to the model.
        """
        self._reported = True

        def confirm(state: dict[str, Any]) -> None:
            check_reported(state, self._unconfirmed.pop(state["i"], None))
            if callback:
                callback(state)

        return confirm

    def on(self, denoiser: Denoiser) -> SteeredDenoiser:
        """The same edits of another denoiser, for a run of its own."""
        return SteeredDenoiser(denoiser, self._edit, torch.tensor(self._schedule), self._steps, self._target, self._traits)

    def check_finished(self) -> None:
        """Raise ValueError if the run ended before a step whose x_t was to be edited, or should have reported one and did not."""
        early = self._steps and self._calls <= max(call for call, step in self._firsts.items() if step in self._steps)
        if self._target == "x_t" and (early or self._reported and self._unconfirmed):
            raise not_at_its_steps()


def check_at_step(level: float, expected: float) -> None:
    """Raise ValueError if an evaluation that should be a step's first is at another noise level."""
    if abs(level - expected) > 1e-4 * level:
        raise not_at_its_steps()


def check_reported(state: dict[str, Any], x: Tensor | None) -> None:
    """Raise ValueError if the running latent that a callback reports at a step is not the x that was taken for it; None is none."""
    if x is not None and state["x"] is not x and not torch.equal(state["x"], x):
        raise not_at_its_steps()


def not_at_its_steps() -> ValueError:
    return ValueError(
        "sampler: it does not evaluate the model once at each step of its schedule, at its running latent, so x_t cannot be edited inside "
        "it. Choose a sampler such as euler, ddim or dpmpp_2m, or edit x0 in its place where there is the choice."
    )


def sample_steered(
    sampler: Callable[..., Tensor],
    model: Denoiser,
    x: Tensor,
    sigmas: Tensor,
    *,
    edit: StepEdit,
    steps: tuple[int, ...],
    target: Target,
    traits: Traits = UNKNOWN,
    masks: Callable[[Tensor], Sequence[Tensor]] = lambda latent: (),
    name: str = "operation",
    **options: Any,
) -> Tensor:
    """Run sampler(model, x, sigmas, **options) with an edit of x_t or of the predicted x0 at the chosen steps.

    x: (b, ...) noise at sigmas[0]; it is not modified. masks: for a latent, those that the edit stays inside of, (b, ...) in 0..1.
    name: the input that errors about the edit's result name. Raises ValueError if the sampler cannot be steered.
    """

    def applied(latent: Tensor, step: int) -> Tensor:
        edited = check_edited(latent, edit(latent, step), name)
        for mask in masks(latent):
            edited = masked(latent, edited, mask)
        return edited

    denoiser = SteeredDenoiser(model, applied, sigmas, steps, target, traits)
    if "callback" in options and not traits.known and target == "x_t":
        options["callback"] = denoiser.confirming(options["callback"])
    result = sampler(denoiser, x.clone(), sigmas, **options)
    denoiser.check_finished()
    return result


class SwitchedDenoiser(WrappedDenoiser):
    """One denoiser up to a step of a descending schedule, another from it on."""

    def __init__(self, before: Denoiser, after: Denoiser, sigmas: Tensor, step: int) -> None:
        super().__init__(before)
        self._after, self._level = after, float(sigmas[step])

    def __call__(self, x: Tensor, sigma: Tensor, **options: Any) -> Tensor:
        return (self._after if at_or_below(float(sigma.flatten()[0]), self._level) else self._denoiser)(x, sigma, **options)


def check_edited(x: Tensor, edited: Tensor, name: str = "operation") -> Tensor:
    """The edited latent in x's dtype and on its device; ValueError if its shape changed or it is not finite."""
    if edited.shape != x.shape:
        raise ValueError(f"{name}: it turned a latent of shape {tuple(x.shape)} into {tuple(edited.shape)}; the shape must stay.")
    result = edited.to(x)
    if not torch.isfinite(result).all():  # after the cast: float16 overflows at 65504
        raise ValueError(f"{name}: its result contains NaN or Inf; lower its strength or gain, or sample in a wider dtype.")
    return result
