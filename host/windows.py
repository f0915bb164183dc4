"""The windows of edits on the noise levels of one run."""

from __future__ import annotations

from ..core.hspace.injection import Window
from ..core.sampling.steps import Levels
from .denoisers import NoiseLevels, percent_of


class RunWindows:
    """Says how strong a window is at each noise level of a run. Remembers what it has asked the host.

    sigmas: (steps + 1,) noise levels of the run. model_sampling: the model's sampling object.
    """

    def __init__(self, sigmas: list[float], model_sampling: NoiseLevels) -> None:
        self.sigmas, self.model_sampling = sigmas, model_sampling
        self._percents: dict[float, float] = {}
        self._levels: dict[Window, Levels] = {}

    def weight(self, window: Window, sigma: float) -> float:
        """The window's weight in 0..1 at a noise level. A level at one of its bounds is inside."""
        if sigma not in self.levels(window):
            return 0.0
        return window.weight(min(max(self.percent(sigma), window.start), window.end))

    def weights(self, window: Window) -> list[float]:
        """The window's weight at the start of each step."""
        return [self.weight(window, sigma) for sigma in self.sigmas[:-1]]

    def check_missed(self, window: Window) -> None:
        """Raise ValueError unless a run without a step in the window lies outside of it, as a part of the whole run may."""
        if self.levels(window).misses(self.sigmas):
            return
        starts = ", ".join(f"{self.percent(sigma):.2f}" for sigma in self.sigmas[:-1][:12])
        raise ValueError(
            f"start_percent, end_percent: no step of this run starts in {window.start:g} to {window.end:g} (fades apart); its "
            f"{len(self.sigmas) - 1} steps start at {starts}. Widen the range, or sample more steps."
        )

    def levels(self, window: Window) -> Levels:
        """The window as a range of noise levels."""
        if window not in self._levels:
            self._levels[window] = Levels(
                self.model_sampling.percent_to_sigma(window.start), self.model_sampling.percent_to_sigma(window.end)
            )
        return self._levels[window]

    def percent(self, sigma: float) -> float:
        """The part of the schedule, 0..1, at which a noise level lies."""
        if sigma not in self._percents:
            self._percents[sigma] = percent_of(self.model_sampling, sigma)
        return self._percents[sigma]
