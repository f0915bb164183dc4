"""Sliders on the wires between nodes: what one is, and that can be put on a model at any strength."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from comfy.model_patcher import ModelPatcher
from torch import Tensor

from ..core.hspace.injection import Window
from .contrasts import Contrast, Place, with_contrast
from .types import Conditioning


class Slider(Protocol):
    """What Make Slider and Load Slider hand on."""

    @property
    def name(self) -> str:
        """A few words for a label."""

    def on(self, model: ModelPatcher, strength: float, mask: Tensor | None = None) -> ModelPatcher:
        """A clone of the model that carries it; the model itself where it has nothing to do: at strength 0, or under an empty mask.

        mask: (b or 1, h, w) in 0..1. Raises ValueError, naming the input, for a model that it does not fit.
        """


@dataclass(frozen=True, eq=False)
class WordSlider:
    """A slider from prompts: what `plus` does beyond `minus`. Strengths below 0 draw `opposite`, if there is one, as 1 draws `plus`."""

    name: str
    plus: Conditioning
    minus: Conditioning
    opposite: Conditioning | None
    place: Place
    window: Window

    def on(self, model: ModelPatcher, strength: float, mask: Tensor | None = None) -> ModelPatcher:
        if strength == 0 or (mask is not None and not mask.any()):
            return model
        wanted = self.plus
        if strength < 0 and self.opposite is not None:
            wanted, strength = self.opposite, -strength
        return with_contrast(model, Contrast(wanted, self.minus, self.place, strength, self.window, mask))
