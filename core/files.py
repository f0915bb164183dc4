"""Files of directions: safetensors with metadata, checked before any tensor is read."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from .direction import Direction, Family

FORMAT, VERSION = "semantic_latents.direction", 1
LARGEST = 2**30  # values in one file; SDXL at 50 noise levels has 65 million
PUBLISHED = "controlnet.fc1.weight"
PUBLISHED_CONCEPTS = ("female", "male", "young", "old", "white", "black", "asian", "anti-sexual")


def direction_tensors(direction: Direction) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors and the metadata of a direction's file."""
    family = direction.family
    metadata = {
        "format": FORMAT, "version": str(VERSION), "family": family.name, "prediction": family.prediction,
        "channels": str(family.channels), "method": direction.method, "norm": f"{direction.norm:.6g}", "notes": json.dumps(direction.notes),
    }
    levels = torch.tensor(direction.sigmas, dtype=torch.float64)
    return {"shifts": direction.shifts.float().contiguous(), "sigmas": levels}, metadata


def load_direction(path: Path) -> Direction:
    """The direction in a safetensors file.

    Raises ValueError that names the file if it is damaged, if it is no direction, if a newer version wrote it, or if its
    shapes are not those of a direction; nothing is allocated before these checks.
    """
    try:
        with safe_open(path, "pt") as file:
            metadata = _checked_metadata(path, file.metadata() or {})
            shapes = {key: tuple(file.get_slice(key).get_shape()) for key in file.keys()}
            _check_shapes(path, shapes, int(metadata["channels"]))
            shifts, sigmas = file.get_tensor("shifts").float(), tuple(file.get_tensor("sigmas").double().tolist())
    except (SafetensorError, OSError) as error:
        raise ValueError(f"file: {path.name} cannot be read as safetensors ({error}); it is damaged, cut short or of another kind.") from error
    family = Family(metadata["family"], metadata["prediction"], int(metadata["channels"]))
    return Direction(shifts, sigmas, family, metadata["method"], json.loads(metadata["notes"]))


def _checked_metadata(path: Path, metadata: dict[str, str]) -> dict[str, str]:
    if metadata.get("format") != FORMAT:
        raise ValueError(f"file: {path.name} holds no direction (its format is {metadata.get('format', 'unnamed')!r}); choose a file of Save Direction.")
    if not metadata.get("version", "").isdecimal() or int(metadata["version"]) > VERSION:
        raise ValueError(f"file: {path.name} is of version {metadata.get('version')!r}, this pack reads up to {VERSION}; update Semantic Latents.")
    missing = [key for key in ("family", "prediction", "channels", "method", "notes") if key not in metadata]
    if missing or not metadata["channels"].isdecimal() or not _is_notes(metadata["notes"]):
        raise ValueError(f"file: {path.name} is damaged: its metadata lacks or garbles {', '.join(missing) or 'channels or notes'}.")
    return metadata


def _is_notes(text: str) -> bool:
    try:
        notes = json.loads(text)
    except (json.JSONDecodeError, RecursionError):
        return False
    return isinstance(notes, dict) and all(isinstance(value, str) for value in notes.values())


def _check_shapes(path: Path, shapes: dict[str, tuple[int, ...]], channels: int) -> None:
    shifts, sigmas = shapes.get("shifts", ()), shapes.get("sigmas", ())
    fits = len(shifts) == 4 and sigmas == shifts[:1] and shifts[1] == channels and min(shifts) > 0
    if not fits or torch.Size(shifts).numel() > LARGEST:
        raise ValueError(f"file: {path.name} is damaged: its tensors have shapes {shapes}, which no direction has.")


def load_published(path: Path, concept: str) -> Direction:
    """One of the h-space vectors that Li et al. 2024 (InterpretDiffusion) published for SD 1.4.

    A pickle of one matrix (1280 * 8 * 8, 8), read with weights_only: no code in it can run. Constant over time; meant
    for the conditional half. Raises ValueError for any other file.
    """
    largest = 16 * 2**20
    if path.stat().st_size > largest:
        raise ValueError(f"file: {path.name} has {path.stat().st_size} bytes; the published vectors have 2.6 million. Only those are read from .pth files.")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # the unpickler raises whatever the bytes lead it to
        raise ValueError(f"file: {path.name} cannot be read as published h-space vectors ({type(error).__name__}).") from error
    matrix = state.get(PUBLISHED) if isinstance(state, dict) else None
    if not isinstance(matrix, Tensor) or tuple(matrix.shape) != (1280 * 64, len(PUBLISHED_CONCEPTS)) or not matrix.is_floating_point():
        raise ValueError(f"file: {path.name} does not hold the published h-space vectors ({PUBLISHED} of shape (81920, 8)).")
    if concept not in PUBLISHED_CONCEPTS:
        raise ValueError(f"concept: got {concept!r}; choose one of {', '.join(PUBLISHED_CONCEPTS)}.")
    shift = matrix[:, PUBLISHED_CONCEPTS.index(concept)].float().reshape(1, 1280, 8, 8)
    notes = {"target": concept, "source": "InterpretDiffusion (Li et al. 2024), for SD 1.4", "branch": "conditional"}
    return Direction(shift.contiguous(), (1.0,), Family("SD15", "EPS", 1280), "published", notes)
