"""Files that are sliders: the pack's own of each kind, and the host's LoRAs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import cast, get_args

import comfy.utils
from torch import Tensor

from ..core.avi.file import ATTRIBUTE, attribute_tensors, load_attribute
from ..core.files import format_of, names_damage
from ..core.hspace.file import DIRECTION, direction_tensors, load_direction
from ..core.lora.file import lora_metadata, notes_of_lora
from ..core.slider_file import SLIDER, KeptSlider, load_slider, slider_tensors
from .contrasts import Place
from .folders import FOLDER, file_names, path_of
from .sliders import AttributeSlider, CalibratedSlider, DirectionSlider, LoraSlider, Slider, WordSlider

LORAS = "loras"  # the host's folder
SUFFIX = ".safetensors"


def slider_names() -> list[str]:
    """Every file that may be a slider: those of the pack's folders, and LoRAs as loras/NAME."""
    own = [name for name in file_names() if not name.startswith(f"{LORAS}/")]
    return [name for name in [*own, *(f"{LORAS}/{name}" for name in file_names(LORAS))] if name.endswith(SUFFIX)]


def folder_of(name: str) -> tuple[str, str]:
    """A file of the list by its name in a folder of the host, and that folder."""
    is_lora = name.startswith(f"{LORAS}/")
    return (name.removeprefix(f"{LORAS}/"), LORAS) if is_lora else (name, FOLDER)


def slider_of(name: str) -> Slider:
    """The slider in a file of the list. Raises ValueError, naming the file, for one that is none or is damaged."""
    inside, folder = folder_of(name)
    path = path_of(inside, folder)
    if folder == LORAS:
        weights, notes = lora_weights(path), notes_of_lora(path)
        lora = LoraSlider(notes.name if notes else path.stem, weights, notes)
        return CalibratedSlider(lora, notes.dial) if notes and notes.dial else lora
    readers: dict[str, Callable[[Path], Slider]] = {
        SLIDER.name: lambda path: from_words(load_slider(path, get_args(Place))),
        DIRECTION.name: lambda path: DirectionSlider(path.stem, load_direction(path)),
        ATTRIBUTE.name: lambda path: AttributeSlider(path.stem, load_attribute(path)),
    }
    found = format_of(path)
    if found not in readers:
        raise ValueError(
            f"file: {path.name} holds no slider (its format is {found[:50]!r}); choose a file of Save Slider, Save Attribute or Save "
            "Direction, or a LoRA, which belongs in models/loras."
        )
    return readers[found](path)


@names_damage
def lora_weights(path: Path) -> dict[str, Tensor]:
    """The tensors of a LoRA. Raises ValueError, naming the file, for one that cannot be read, or is of this pack."""
    if format_of(path) in (SLIDER.name, DIRECTION.name, ATTRIBUTE.name):
        raise ValueError(f"file: {path.name} is no LoRA but a file of Semantic Latents; move it to models/{FOLDER}.")
    return cast(dict[str, Tensor], comfy.utils.load_torch_file(str(path), safe_load=True))


def from_words(kept: KeptSlider) -> Slider:
    """The slider that a file keeps, under its dial if it has one."""
    sides = (kept.prompts["plus"], kept.prompts["minus"], kept.prompts.get("opposite"))
    slider = WordSlider(
        kept.name, *sides, cast(Place, kept.place), kept.window, kept.family, kept.words, kept.focus, kept.hold_rest, kept.spread
    )
    return CalibratedSlider(slider, kept.dial) if kept.dial else slider


def tensors_of(slider: Slider) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors and the metadata of a slider's file. Raises ValueError for one that a file cannot keep."""
    if isinstance(slider, DirectionSlider):
        return direction_tensors(slider.direction)
    if isinstance(slider, AttributeSlider):
        return attribute_tensors(slider.attribute)
    dial = slider.dial if isinstance(slider, CalibratedSlider) else None
    if isinstance(slider, CalibratedSlider):
        slider = slider.slider
        if not isinstance(slider, WordSlider) and not is_trained(slider):
            raise ValueError(
                f"slider: {slider.name!r} is not from words, and its kind of file has no place for the unit of Calibrate Slider. Load it "
                "and calibrate it again where you need it."
            )
    if isinstance(slider, WordSlider):
        sides = {"plus": slider.plus, "minus": slider.minus, "opposite": slider.opposite}
        prompts = {side: prompt for side, prompt in sides.items() if prompt is not None}
        return slider_tensors(
            KeptSlider(
                slider.name,
                slider.words,
                slider.place,
                slider.window,
                slider.family,
                prompts,
                slider.focus,
                dial,
                slider.hold_rest,
                slider.spread,
            )
        )
    if isinstance(slider, LoraSlider) and slider.notes is not None:
        return slider.weights, lora_metadata(replace(slider.notes, dial=dial))
    raise ValueError(f"slider: {slider.name!r} is a LoRA, whose file is in models/{LORAS} already.")


def is_trained(slider: Slider) -> bool:
    """Whether this is a LoRA of Train Slider LoRA, whose file says so; one of another tool is none."""
    return isinstance(slider, LoraSlider) and slider.notes is not None


def home_of(slider: Slider) -> str:
    """The host's folder that a slider's file belongs in: LoRAs beside those of other tools."""
    return LORAS if isinstance(slider.slider if isinstance(slider, CalibratedSlider) else slider, LoraSlider) else FOLDER
