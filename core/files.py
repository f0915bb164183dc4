"""What all files of this pack have in common: safetensors with metadata, checked before any tensor is read."""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple, TypeVar

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

LARGEST = 2**30  # values in one file; SDXL at 50 noise levels has 65 million
LONGEST_TEXT = 2**20  # characters of metadata; read as JSON they take fifty times as much
FLOATS = ("F64", "F32", "F16", "BF16")
READABLE = 600  # characters of a message
T = TypeVar("T")
Shapes = dict[str, tuple[int, ...]]


class Kind(NamedTuple):
    """A kind of file: its format's name, what it holds, the node that writes it, and the latest version that is read."""

    format: str
    what: str
    node: str
    version: int


def names_damage(load: Callable[..., T]) -> Callable[..., T]:
    """Makes of whatever goes wrong in load(path, ...) a ValueError that names the file, short enough to be read."""

    @functools.wraps(load)
    def loaded(path: Path, *rest: object) -> T:
        try:
            return load(path, *rest)
        except (
            ValueError,
            TypeError,
            LookupError,
            AttributeError,
            ArithmeticError,
            RuntimeError,
            MemoryError,
            EOFError,
            SafetensorError,
            OSError,
        ) as error:
            start, text = f"file: {path.name}", str(error)
            message = (
                text
                if text.startswith(start)
                else f"{start} cannot be read ({text or type(error).__name__}); it is damaged, cut short or of another kind."
            )
            raise ValueError(message if len(message) <= READABLE else f"{message[: READABLE - 100]} ... {message[-90:]}") from error

    return loaded


def read_checked(path: Path, kind: Kind, check: Callable[[dict[str, str], Shapes], None]) -> tuple[dict[str, str], dict[str, Tensor]]:
    """Metadata and tensors of a file of this kind, once its version, its size and check(metadata, shapes) have passed.

    The tensors are copies: what happens to the file afterwards does not reach them. Raises ValueError for any other file.
    """
    with safe_open(path, "pt") as file:
        metadata = file.metadata() or {}
        if metadata.get("format") != kind.format:
            raise ValueError(
                f"file: {path.name} holds no {kind.what} (its format is {metadata.get('format', 'unnamed')[:50]!r}); choose a "
                f"file of {kind.node}."
            )
        if not _is_number(metadata.get("version", "")) or int(metadata["version"]) > kind.version:
            raise ValueError(
                f"file: {path.name} is of version {metadata.get('version', '')[:50]!r}, this pack reads up to {kind.version}; "
                "update Semantic Latents."
            )
        if sum(map(len, metadata.values())) > LONGEST_TEXT:
            raise ValueError(f"file: {path.name} is damaged: its metadata is longer than any {kind.what}'s.")
        slices = {key: file.get_slice(key) for key in file.keys()}
        shapes = {key: tuple(part.get_shape()) for key, part in slices.items()}
        if sum(math.prod(shape) for shape in shapes.values()) > LARGEST:
            raise ValueError(f"file: {path.name} is larger than any {kind.what}.")
        if not all(part.get_dtype() in FLOATS for part in slices.values()):
            raise ValueError(f"file: {path.name} is damaged: it holds tensors that are no real numbers of 16 bits or more.")
        check(metadata, shapes)
        tensors = {key: file.get_tensor(key).clone() for key in shapes}
    spoilt = [key for key, value in tensors.items() if not torch.isfinite(value).all()]
    if spoilt:
        raise ValueError(f"file: {path.name} is damaged: {', '.join(spoilt)} contain NaN or Inf.")
    return metadata, tensors


def _is_number(text: str) -> bool:
    return text.isdecimal() and len(text) < 10  # Python refuses to read thousands of digits


def require(path: Path, metadata: dict[str, str], *keys: str) -> None:
    missing = [key for key in keys if key not in metadata]
    if missing:
        raise ValueError(f"file: {path.name} is damaged: its metadata lacks {', '.join(missing)}.")


def channels_in(path: Path, metadata: dict[str, str]) -> int:
    if not _is_number(metadata.get("channels", "")):
        raise ValueError(f"file: {path.name} is damaged: its metadata lacks or garbles channels.")
    return int(metadata["channels"])


def are_notes(notes: object) -> bool:
    """Whether this is a mapping to texts."""
    return isinstance(notes, dict) and all(isinstance(value, str) for value in notes.values())


def notes_in(path: Path, text: str) -> dict[str, str]:
    try:
        notes = json.loads(text)
    except (ValueError, RecursionError):
        notes = None
    if not are_notes(notes):
        raise ValueError(f"file: {path.name} is damaged: its metadata lacks or garbles notes.")
    return notes
