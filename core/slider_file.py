"""Files of sliders from words: what each prompt is to the model, as tensors, and where and when their contrast acts."""

from __future__ import annotations

import json
from collections.abc import Collection
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor

from .dial import Dial
from .files import LONGEST_TEXT, Format, Shapes, are_notes, entry_of, is_number, json_in, names_damage, read_checked, require
from .hspace.injection import Window

SLIDER = Format("semantic_latents.slider", "slider", 1)
SIDES = ("plus", "minus", "opposite")
PARTS = 64  # of one prompt
WHOLE = 2**53  # whole numbers up to here are exact in float64
FLOATS = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
TYPES = {
    str(one).removeprefix("torch."): one for one in (*FLOATS, torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool)
}
Prompt = list[list[Any]]  # [embedding (b, tokens, c), its extras by name] for each part


@dataclass(frozen=True, eq=False)
class KeptSlider:
    """A slider from words as a file holds it. prompts: by side, `plus` and `minus`, and `opposite` if there is one.

    focus: 0..1. dial: its unit, if it was calibrated. hold_rest: whether the rest of the picture stays that of the run without it.
    spread: whether the focus takes in what is joined to it.
    """

    name: str
    words: dict[str, str]
    place: str
    window: Window
    family: str
    prompts: dict[str, Prompt]
    focus: float = 0.0
    dial: Dial | None = None
    hold_rest: bool = False
    spread: bool = False


def slider_tensors(slider: KeptSlider) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors and the metadata of a file that holds a slider.

    Raises ValueError, naming it, for what comes with a prompt and no file can keep.
    """
    tensors = {key: stored(value) for side, prompt in slider.prompts.items() for key, value in _tensors(side, prompt).items()}
    metadata = {
        "format": SLIDER.name,
        "version": str(SLIDER.version),
        "name": slider.name,
        "words": json.dumps(slider.words),
        "place": slider.place,
        "window": json.dumps(asdict(slider.window)),
        "family": slider.family,
        "focus": json.dumps(slider.focus),
        "hold_rest": json.dumps(slider.hold_rest),
        "spread": json.dumps(slider.spread),
        "dial": json.dumps(slider.dial.marks if slider.dial else None),
        "prompts": json.dumps({side: [_described(part) for part in prompt] for side, prompt in slider.prompts.items()}),
    }
    if sum(map(len, metadata.values())) > LONGEST_TEXT or max(map(len, slider.prompts.values())) > PARTS:
        raise ValueError(f"slider: its prompts have more than {PARTS} parts, or longer texts than a file can keep.")
    return tensors, metadata


def stored(value: Tensor) -> Tensor:
    """A tensor as it is written: whole numbers as float64, which holds them exactly."""
    kept = value if value.dtype in FLOATS else value.double()
    return kept.cpu().clone(memory_format=torch.contiguous_format)  # several parts may share one


def _tensors(side: str, prompt: Prompt) -> dict[str, Tensor]:
    """All tensors of a prompt by their keys in a file."""
    return {f"{side}.{i}.{key}": value for i, part in enumerate(prompt) for key, value in _of_part(part).items()}


def _of_part(part: list[Any]) -> dict[str, Tensor]:
    """The tensors of a prompt's part, by the last words of their keys. Raises ValueError for a part that cannot be kept."""
    embedding, extras = part
    lost = [str(name) for name, value in extras.items() if not (isinstance(name, str) and _can_be_kept(value))]
    if not (_can_be_kept(embedding) and embedding.ndim == 3 and embedding.numel()):
        lost.append(f"an embedding of shape {tuple(embedding.shape)} or with values that are no real numbers")
    if lost:
        raise ValueError(
            f"slider: its prompts carry {', '.join(lost)}, which a file cannot keep. Tensors, numbers and texts can be kept; make the "
            "slider with a CLIP that adds nothing else."
        )
    return {"embedding": embedding, **{f"extras.{name}": value for name, value in extras.items() if isinstance(value, Tensor)}}


def _can_be_kept(value: object) -> bool:
    """Whether this is a tensor of finite numbers, a number, a text, or nothing."""
    if isinstance(value, Tensor):
        if value.dtype not in TYPES.values():
            return False
        return bool(torch.isfinite(value).all()) and (value.dtype in FLOATS or bool((value.double().abs() <= WHOLE).all()))
    return value is None or isinstance(value, (bool, str)) or is_number(value)


def _described(part: list[Any]) -> dict[str, Any]:
    """What the metadata say of a prompt's part: its tensors' types and shapes, and what else comes with it."""
    tensors = {key: [str(value.dtype).removeprefix("torch."), list(value.shape)] for key, value in _of_part(part).items()}
    return {"tensors": tensors, "values": {name: value for name, value in part[1].items() if not isinstance(value, Tensor)}}


@names_damage
def load_slider(path: Path, places: Collection[str]) -> KeptSlider:
    """The slider in a safetensors file. places: those that are known.

    Raises OtherFormat, a ValueError, for a file of another format. Raises ValueError that names the file if it is damaged, if
    a newer version wrote it, or if its shapes are not those of a slider. Nothing is allocated before these checks.
    """

    def parse(metadata: dict[str, str], shapes: Shapes) -> _Description:
        return _parsed(metadata, shapes, places)

    found, tensors = read_checked(path, SLIDER, parse)
    prompts = {side: [part.made(tensors, f"{side}.{i}.") for i, part in enumerate(parts)] for side, parts in found.prompts.items()}
    return KeptSlider(
        found.name, found.words, found.place, found.window, found.family, prompts, found.focus, found.dial, found.hold_rest, found.spread
    )


class _Part(NamedTuple):
    """What the metadata say of a prompt's part. tensors: types and shapes by the last words of their keys."""

    tensors: dict[str, tuple[torch.dtype, tuple[int, ...]]]
    values: dict[str, Any]

    @classmethod
    def of(cls, entry: object) -> _Part:
        """Raises ValueError for anything else than what `_described` writes."""
        tensors, values = entry_of(entry, tensors=dict, values=dict)
        if not all(_can_be_kept(value) for value in values.values()):
            raise ValueError("its values must be numbers or texts")
        if "embedding" not in tensors or not all(key == "embedding" or key.startswith("extras.") for key in tensors):
            raise ValueError("a part has no embedding, or tensors of other names")
        return cls({key: _type_and_shape(one) for key, one in tensors.items()}, values)

    def made(self, tensors: dict[str, Tensor], prefix: str) -> list[Any]:
        """The part of a CONDITIONING. Raises ValueError for values that their type does not have."""
        own = {key: tensors[prefix + key].to(dtype) for key, (dtype, _) in self.tensors.items()}
        if not all(torch.equal(value.to(tensors[prefix + key].dtype), tensors[prefix + key]) for key, value in own.items()):
            raise ValueError("its tensors have values that are none of their types")
        embedding = own.pop("embedding")
        return [embedding, {**self.values, **{key.removeprefix("extras."): value for key, value in own.items()}}]


class _Description(NamedTuple):
    """What a file's metadata say of its slider."""

    name: str
    words: dict[str, str]
    place: str
    window: Window
    family: str
    prompts: dict[str, list[_Part]]
    focus: float
    dial: Dial | None
    hold_rest: bool
    spread: bool


def _type_and_shape(entry: object) -> tuple[torch.dtype, tuple[int, ...]]:
    """Raises ValueError unless this is the name of a type and a list of sizes."""
    if not (isinstance(entry, list) and len(entry) == 2 and entry[0] in list(TYPES) and isinstance(entry[1], list)):
        raise ValueError("a tensor has no type that is known, or no shape")
    if not all(type(size) is int and size >= 0 for size in entry[1]):
        raise ValueError("a tensor has no type that is known, or no shape")
    return TYPES[entry[0]], tuple(entry[1])


def _parsed(metadata: dict[str, str], shapes: Shapes, places: Collection[str]) -> _Description:
    """What a file's metadata describe. Raises ValueError if they are garbled, or if the file has other tensors."""
    require(metadata, "name", "words", "place", "window", "family", "focus", "hold_rest", "spread", "dial", "prompts")
    try:
        words = json_in(metadata, "words")
        if not are_notes(words):
            raise ValueError("its words must be text")
        if metadata["place"] not in places:
            raise ValueError(f"its place is none of {', '.join(places)}")
        window = Window(*map(float, entry_of(json_in(metadata, "window"), start=float, end=float, ramp=float)))
        focus, dial = _focus_of(json_in(metadata, "focus")), dial_of(json_in(metadata, "dial"))
        switches = _switch_of(metadata, "hold_rest"), _switch_of(metadata, "spread")
        prompts = _prompts_of(json_in(metadata, "prompts"))
    except ValueError as error:
        raise ValueError(f"its metadata does not describe a slider ({error})") from error
    expected = {
        f"{side}.{i}.{key}": shape
        for side, parts in prompts.items()
        for i, part in enumerate(parts)
        for key, (_, shape) in part.tensors.items()
    }
    embeddings = [shape for key, shape in expected.items() if key.endswith(".embedding") and ".extras." not in key]
    if expected != shapes or not all(len(shape) == 3 and min(shape) > 0 for shape in embeddings):
        raise ValueError(f"its tensors have shapes {shapes}, which its prompts do not have")
    return _Description(metadata["name"], words, metadata["place"], window, metadata["family"], prompts, focus, dial, *switches)


def _switch_of(metadata: dict[str, str], name: str) -> bool:
    value = json_in(metadata, name)
    if not isinstance(value, bool):
        raise ValueError(f"its {name} is neither true nor false")
    return value


def _focus_of(entry: object) -> float:
    """Raises ValueError for anything but a number in 0..1."""
    if not is_number(entry) or not 0 <= float(cast(float, entry)) <= 1:
        raise ValueError("its focus is no number from 0 to 1")
    return float(cast(float, entry))


def dial_of(entry: object) -> Dial | None:
    """The dial in an entry, None for none. Raises ValueError for anything else."""
    if entry is None:
        return None
    if not isinstance(entry, list) or not all(isinstance(mark, list) and len(mark) == 2 and all(map(is_number, mark)) for mark in entry):
        raise ValueError("its dial has marks that are no two numbers")
    return Dial(tuple((float(shown), float(strength)) for shown, strength in entry))


def _prompts_of(entry: object) -> dict[str, list[_Part]]:
    """The prompts in an entry, by side. Raises ValueError if one is missing, unknown, empty or garbled."""
    if not isinstance(entry, dict) or not {"plus", "minus"} <= set(entry) <= set(SIDES):
        raise ValueError(f"its prompts have to be {', '.join(SIDES)}, of which the last may be missing")
    if not all(isinstance(parts, list) and 1 <= len(parts) <= PARTS for parts in entry.values()):
        raise ValueError(f"a prompt has to have 1 to {PARTS} parts")
    return {side: [_Part.of(part) for part in parts] for side, parts in entry.items()}
