"""Sliders on the wires between nodes: what one is, and that can be put on a model at any strength."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

import comfy.sd
from comfy.model_patcher import ModelPatcher
from torch import Tensor

from ..core.avi.attribute import Mixture
from ..core.dial import Dial
from ..core.hspace.injection import Window
from ..core.hspace.trained import AnyDirection
from ..core.latent import is_off
from ..core.lora.file import LoraNotes
from .attributes import Use
from .carried import with_use
from .contrasts import Contrast, Place, with_contrast
from .edits import HEdit, with_edit
from .families import check_fits, family_name
from .types import Conditioning


class Slider(Protocol):
    """What Make Slider and Load Slider hand on."""

    @property
    def name(self) -> str:
        """A few words for a label."""

    def on(self, model: ModelPatcher, strength: float, mask: Tensor | None = None, name: str = "slider") -> ModelPatcher:
        """A clone of the model that carries it; the model itself where it has nothing to do: at strength 0, or under an empty mask.

        mask: (b or 1, h, w) in 0..1. name: of the input that brought it. Raises ValueError, naming the input, for a model that it does
        not fit.
        """


@dataclass(frozen=True, eq=False)
class WordSlider:
    """A slider from prompts: what `plus` does beyond `minus`. Strengths below 0 draw `opposite`, if there is one, as 1 draws `plus`.

    family: of the model whose CLIP read the words. words: as they were written, by the inputs of Make Slider. focus, hold_rest,
    spread: as the focus, the hold and the spreads of `Contrast`.
    """

    name: str
    plus: Conditioning
    minus: Conditioning
    opposite: Conditioning | None
    place: Place
    window: Window
    family: str
    words: dict[str, str] = field(default_factory=dict)
    focus: float = 0.0
    hold_rest: bool = False
    spread: bool = False

    def on(self, model: ModelPatcher, strength: float, mask: Tensor | None = None, name: str = "slider") -> ModelPatcher:
        if family_name(model) != self.family:
            raise ValueError(
                f"{name}: {self.name!r} was made on a model of the family {self.family}, and this one is of {family_name(model)}, which "
                "does not read its prompts. Connect a model of that family, or make the slider again on this one (Make Slider)."
            )
        if is_off(strength, mask):
            return model
        wanted = self.plus
        if strength < 0 and self.opposite is not None:
            wanted, strength = self.opposite, -strength
        how = (self.place, strength, self.window, mask, self.focus, self.hold_rest, self.spread)
        return with_contrast(model, Contrast(wanted, self.minus, *how))


@dataclass(frozen=True, eq=False)
class CalibratedSlider:
    """A slider under a dial: strengths -1 to 1 are its usable range, in steps that look equal."""

    slider: Slider
    dial: Dial

    @property
    def name(self) -> str:
        return self.slider.name

    def on(self, model: ModelPatcher, strength: float, mask: Tensor | None = None, name: str = "slider") -> ModelPatcher:
        return self.slider.on(model, self.dial.strength(strength), mask, name)


def adds_contrasts_alone(slider: Slider) -> bool:
    """Whether models that carry it at several strengths differ in their contrasts alone."""
    return isinstance(slider.slider if isinstance(slider, CalibratedSlider) else slider, WordSlider)


@dataclass(frozen=True, eq=False)
class DirectionSlider:
    """A direction in h-space, as Apply Direction applies it with its settings as they stand."""

    name: str
    direction: AnyDirection

    def on(self, model: ModelPatcher, strength: float, mask: Tensor | None = None, name: str = "slider") -> ModelPatcher:
        check_fits(model, self.direction, name)
        edit = HEdit(self.direction, strength, Window(0.0, 0.8), "both", asymmetric=False, keep_norm=False, mask=mask)
        return model if is_off(strength, mask) else with_edit(model, edit)


@dataclass(frozen=True, eq=False)
class AttributeSlider:
    """An attribute or a mix, as Apply Attribute to Model applies it without a target prompt."""

    name: str
    attribute: Mixture

    def on(self, model: ModelPatcher, strength: float, mask: Tensor | None = None, name: str = "slider") -> ModelPatcher:
        return with_use(model, Use(self.attribute, strength, 0.0, None, mask), name)


@dataclass(frozen=True, eq=False)
class LoraSlider:
    """A LoRA, as the host's loader puts it on a model. weights: the tensors of its file. notes: what a trained slider's says of itself."""

    name: str
    weights: dict[str, Tensor]
    notes: LoraNotes | None = None

    def on(self, model: ModelPatcher, strength: float, mask: Tensor | None = None, name: str = "slider") -> ModelPatcher:
        if mask is not None:
            raise ValueError(
                "mask: a LoRA changes the model's weights, which act in the whole picture. Disconnect the mask, or make a slider "
                "from words (Make Slider)."
            )
        patched: ModelPatcher = comfy.sd.load_lora_for_models(model, None, self.weights, strength, 0.0)[0]
        if patches_of(patched) == patches_of(model):
            raise ValueError(
                f"{name}: none of the {len(self.weights)} tensors of {self.name!r} fits a weight of this model ({family_name(model)}); "
                "it is of another family, or no LoRA. Choose one that was trained for this model."
            )
        return model if strength == 0 else patched


def patches_of(model: ModelPatcher) -> int:
    """How many patches of weights a model has."""
    return sum(map(len, model.patches.values()))
