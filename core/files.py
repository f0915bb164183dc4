"""What all files of this pack have in common: safetensors with metadata, checked before any tensor is read."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

LARGEST = 2**30  # values in one file; SDXL at 50 noise levels has 65 million
Shapes = dict[str, tuple[int, ...]]


class Kind(NamedTuple):
    """A kind of file: its format's name, what it holds, the node that writes it, and the latest version that is read."""

    format: str
    what: str
    node: str
    version: int


def read_checked(path: Path, kind: Kind, check: Callable[[dict[str, str], Shapes], None]) -> tuple[dict[str, str], dict[str, Tensor]]:
    """Metadata and tensors of a file of this kind, once its version, its size and check(metadata, shapes) have passed."""
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            if metadata.get("format") != kind.format:
                raise ValueError(f"file: {path.name} holds no {kind.what} (its format is {metadata.get('format', 'unnamed')!r}); choose a file of {kind.node}.")
            if not _is_number(metadata.get("version", "")) or int(metadata["version"]) > kind.version:
                raise ValueError(f"file: {path.name} is of version {metadata.get('version')!r}, this pack reads up to {kind.version}; update Semantic Latents.")
            shapes = {key: tuple(file.get_slice(key).get_shape()) for key in file.keys()}
            if sum(torch.Size(shape).numel() for shape in shapes.values()) > LARGEST:
                raise ValueError(f"file: {path.name} is larger than any {kind.what}.")
            check(metadata, shapes)
            return metadata, {key: file.get_tensor(key) for key in shapes}
    except (SafetensorError, OSError) as error:
        raise ValueError(f"file: {path.name} cannot be read as safetensors ({error}); it is damaged, cut short or of another kind.") from error


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
    except (json.JSONDecodeError, RecursionError):
        notes = None
    if not are_notes(notes):
        raise ValueError(f"file: {path.name} is damaged: its metadata lacks or garbles notes.")
    return notes
