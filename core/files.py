"""What all files of this pack have in common: safetensors with metadata, checked before any tensor is read."""

from __future__ import annotations

import functools
import json
import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

LARGEST = 2**30  # values in one file; SDXL at 50 noise levels has 65 million
LONGEST_TEXT = 2**20  # characters of metadata; read as JSON they take fifty times as much
FLOATS = ("F64", "F32", "F16", "BF16")
READABLE = 600  # characters of a message
T = TypeVar("T")
Shapes = dict[str, tuple[int, ...]]


class Format(NamedTuple):
    """A format of files: its name, the word for what such a file holds, and the latest version that is read."""

    name: str
    holds: str
    version: int


class OtherFormat(ValueError):
    """A file that is whole, as far as can be seen, but of another format than the one that was asked for."""


def names_damage(load: Callable[..., T]) -> Callable[..., T]:
    """Names the file in the errors of load(path, ...).

    What reading and checking a file can raise (ValueError, SafetensorError, OSError) becomes a ValueError that is short enough
    to be read. Any other exception is a fault of the program and passes.
    """

    @functools.wraps(load)
    def loaded(path: Path, *rest: object) -> T:
        try:
            return load(path, *rest)
        except OtherFormat:
            raise
        except (ValueError, SafetensorError, OSError) as error:
            start, text = f"file: {path.name}", str(error)
            message = (
                text
                if text.startswith(start)
                else f"{start} cannot be read ({text or type(error).__name__}); it is damaged, cut short or of another kind."
            )
            raise ValueError(message if len(message) <= READABLE else f"{message[: READABLE - 100]} ... {message[-90:]}") from error

    return loaded


@names_damage
def format_of(path: Path) -> str:
    """The format that a safetensors file says it has; no tensor is read. Raises ValueError for a file that is none."""
    with safe_open(path, "pt") as file:
        return (file.metadata() or {}).get("format", "unnamed")


def read_checked(path: Path, format: Format, parse: Callable[[dict[str, str], Shapes], T]) -> tuple[T, dict[str, Tensor]]:
    """What parse(metadata, shapes) makes of a file's description, and the file's tensors.

    No tensor is read before the format, the version, the size and parse have passed. The tensors are copies: what happens to
    the file afterwards does not reach them. parse raises ValueError, with a clause, for metadata or shapes that do not fit.
    Raises OtherFormat for a file of another format, and ValueError for a damaged one.
    """
    with safe_open(path, "pt") as file:
        metadata = file.metadata() or {}
        _check_format(path, metadata, format)
        slices = {key: file.get_slice(key) for key in file.keys()}
        shapes = {key: tuple(part.get_shape()) for key, part in slices.items()}
        if sum(math.prod(shape) for shape in shapes.values()) > LARGEST:
            raise ValueError(f"file: {path.name} is larger than any {format.holds}.")
        if not all(part.get_dtype() in FLOATS for part in slices.values()):
            raise ValueError(f"file: {path.name} is damaged: it holds tensors that are no real numbers of 16 bits or more.")
        try:
            parsed = parse(metadata, shapes)
        except ValueError as error:
            raise ValueError(f"file: {path.name} is damaged: {error}.") from error
        tensors = {key: file.get_tensor(key).clone() for key in shapes}
    spoilt = [key for key, value in tensors.items() if not torch.isfinite(value).all()]
    if spoilt:
        raise ValueError(f"file: {path.name} is damaged: {', '.join(spoilt)} contain NaN or Inf.")
    return parsed, tensors


def _check_format(path: Path, metadata: dict[str, str], format: Format) -> None:
    """Raise OtherFormat or ValueError unless a file of this metadata is of this format, of a known version, and short enough."""
    if metadata.get("format") != format.name:
        name = metadata.get("format", "unnamed")[:50]
        raise OtherFormat(f"file: {path.name} holds no {format.holds} (its format is {name!r}).")
    if not _is_count(metadata.get("version", "")) or int(metadata["version"]) > format.version:
        raise ValueError(
            f"file: {path.name} is of version {metadata.get('version', '')[:50]!r}, this pack reads up to {format.version}; "
            "update Semantic Latents."
        )
    if sum(map(len, metadata.values())) > LONGEST_TEXT:
        raise ValueError(f"file: {path.name} is damaged: its metadata is longer than any {format.holds}'s.")


def _is_count(text: str) -> bool:
    return text.isdecimal() and len(text) < 10  # Python refuses to read thousands of digits


def require(metadata: dict[str, str], *keys: str) -> None:
    """Raise ValueError that names the keys which the metadata lacks."""
    missing = [key for key in keys if key not in metadata]
    if missing:
        raise ValueError(f"its metadata lacks {', '.join(missing)}")


def channels_in(metadata: dict[str, str]) -> int:
    """The number of channels. Raises ValueError if it is missing or no number."""
    if not _is_count(metadata.get("channels", "")):
        raise ValueError("its metadata lacks or garbles channels")
    return int(metadata["channels"])


def notes_in(metadata: dict[str, str]) -> dict[str, str]:
    """The notes. Raises ValueError if they are missing or no mapping to texts."""
    try:
        notes = json_in(metadata, "notes")
    except ValueError:
        notes = None
    if not are_notes(notes):
        raise ValueError("its metadata lacks or garbles notes")
    return notes


def json_in(metadata: dict[str, str], key: str) -> Any:
    """What stands under this key as JSON. Raises ValueError if it is missing, cannot be read, or is nested too deeply."""
    require(metadata, key)
    try:
        return json.loads(metadata[key])
    except RecursionError as error:
        raise ValueError(f"its {key} is nested too deeply") from error


def entry_of(value: object, **types: type) -> tuple[Any, ...]:
    """The values of a JSON object under these names, in this order. Raises ValueError unless each is there and has its type.

    The type float stands for any number that `is_number` takes.
    """
    if not isinstance(value, dict):
        raise ValueError(f"{repr(value)[:50]} is no mapping")
    for name, expected in types.items():
        if not _has_type(value.get(name), expected):
            raise ValueError(f"{name} is missing or no {expected.__name__}")
    return tuple(value[name] for name in types)


def _has_type(value: object, expected: type) -> bool:
    if expected is float:
        return is_number(value)
    return isinstance(value, expected) and isinstance(value, bool) is (expected is bool)


def are_notes(value: object) -> bool:
    """Whether this is a mapping to texts."""
    return isinstance(value, dict) and all(isinstance(text, str) for text in value.values())


def is_number(value: object) -> bool:
    """Whether this is a finite number, and an integer no larger than a float can be; a boolean is none."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) <= sys.float_info.max
