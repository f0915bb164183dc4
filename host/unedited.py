"""Runs beside their unedited selves: what the model foresees without an edit, call by call, for an edit that leaves the rest as it was.

That the rest of a picture is taken from the unedited run at each step is the idea of Blended Diffusion (Avrahami et al. 2022), for a
picture that is being drawn, and places that nobody marks by hand.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import torch
from comfy.model_patcher import ModelPatcher
from torch import Tensor

from .options import ONE_PASS, UNEDITED
from .progress import check_cancelled, shows_alone

Callback = Callable[[int, Tensor, Tensor, int], None]  # as the host's samplers are given: step, denoised, x, steps
Foreseen = list[Tensor | None]  # by prompt
OTHER_STEPS = (
    "hold_rest: the run with the slider asks the model at other steps than the run without it, as under a sampler that chooses its steps "
    "by the picture (dpm_adaptive), or a patch that skips steps (LazyCache). Choose another sampler, as euler, take that patch out, or "
    "turn hold_rest off in Make Slider."
)


def in_one_pass(model: ModelPatcher) -> ModelPatcher:
    """A clone of the model for runs that something looks into: they are made once, so edits hold no rest there."""
    patched = model.clone()
    patched.model_options["transformer_options"][ONE_PASS] = True
    return patched


class UneditedRun:
    """What each call of a run foresees for each prompt, in the host's memory: first kept, then handed out in the same order.

    One can serve several runs that differ in their edits alone.
    """

    def __init__(self) -> None:
        self.calls: list[tuple[Tensor, Foreseen]] = []
        self.is_kept = False  # whether the run is over, so that its calls are handed out
        self._next: Iterator[tuple[Tensor, Foreseen]] = iter(())

    def keep(self, timestep: Tensor, outputs: Iterable[Tensor | None]) -> None:
        self.calls.append((timestep.cpu(), [None if output is None else output.cpu() for output in outputs]))

    def begin(self) -> None:
        """Hand out the calls from the first."""
        self.is_kept, self._next = True, iter(self.calls)

    def foreseen(self, timestep: Tensor, outputs: Foreseen) -> Foreseen:
        """What the same call foresaw, on the device of the outputs. Raises ValueError if the run's calls are not the same."""
        kept = next(self._next, None)
        if kept is None or not torch.equal(kept[0], timestep.cpu()) or shapes_of(kept[1]) != shapes_of(outputs):
            raise ValueError(OTHER_STEPS)
        return [None if one is None or own is None else one.to(own) for one, own in zip(kept[1], outputs, strict=True)]


def shapes_of(outputs: Foreseen) -> list[torch.Size | None]:
    return [None if output is None else output.shape for output in outputs]


def half_of_steps(callback: Callback | None, second: bool) -> Callback:
    """A run's callback for the first or the second of two runs. Cancel works at each step.

    That of the host's nodes is told both as the two halves of one run, for its progress bar; any other one is told the second alone.
    """
    shown = shows_alone(callback)

    def told(step: int, denoised: Tensor, x: Tensor, steps: int) -> None:
        check_cancelled()
        if callback is not None and (shown or second):
            callback((step + second * steps) // 2 if shown else step, denoised, x, steps)

    return told


def run_twice(run: Callable[[Callback | None], Tensor], unedited: UneditedRun, callback: Callback | None) -> Tensor:
    """The second of two runs that start from the same random state; the first is kept, or there already. run: makes one, given its
    callback."""
    if unedited.is_kept:
        unedited.begin()
        return run(callback)
    unedited.calls.clear()  # of a run that was stopped
    with torch.random.fork_rng():
        run(half_of_steps(callback, second=False))
    unedited.begin()
    return run(half_of_steps(callback, second=True))


def sharing(model: ModelPatcher, unedited: UneditedRun) -> ModelPatcher:
    """A clone of the model whose run without edits is that one: for runs that differ in their edits alone, one after another."""
    patched = model.clone()
    patched.model_options["transformer_options"][UNEDITED] = unedited
    return patched
