"""Files of directions and attributes: safetensors with metadata, checked before any tensor is read."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from .attribute import Attribute, LatentKind, Mixture, Recipe
from .direction import Direction, Family
from .integration import LossWeights
from .latent import matrix_shape
from .spectrum import LatentSVD, check_rank
from .value_network import ValueNetwork

DIRECTION, ATTRIBUTE, VERSION = "semantic_latents.direction", "semantic_latents.attribute", 1
LARGEST = 2**30  # values in one file; SDXL at 50 noise levels has 65 million
PARTS = 64  # attributes in one mix
Shapes = dict[str, tuple[int, ...]]
PUBLISHED = "controlnet.fc1.weight"
PUBLISHED_CONCEPTS = ("female", "male", "young", "old", "white", "black", "asian", "anti-sexual")


def direction_tensors(direction: Direction) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors and the metadata of a direction's file."""
    family = direction.family
    metadata = {
        "format": DIRECTION, "version": str(VERSION), "family": family.name, "prediction": family.prediction,
        "channels": str(family.channels), "method": direction.method, "norm": f"{direction.norm:.6g}", "notes": json.dumps(direction.notes),
    }
    levels = torch.tensor(direction.sigmas, dtype=torch.float64)
    return {"shifts": direction.shifts.float().contiguous(), "sigmas": levels}, metadata


def load_direction(path: Path) -> Direction:
    """The direction in a safetensors file.

    Raises ValueError that names the file if it is damaged, if it is no direction, if a newer version wrote it, or if its
    shapes are not those of a direction; nothing is allocated before these checks.
    """
    def check(metadata: dict[str, str], shapes: Shapes) -> None:
        _require(path, metadata, "family", "prediction", "method")
        shifts = shapes.get("shifts", ())
        fits = len(shifts) == 4 and shapes.get("sigmas", ()) == shifts[:1] and shifts[1] == _channels(path, metadata) and min(shifts) > 0
        if not fits:
            raise ValueError(f"file: {path.name} is damaged: its tensors have shapes {shapes}, which no direction has.")
        _notes(path, metadata.get("notes", ""))

    metadata, tensors = _read(path, DIRECTION, "direction", "Save Direction", check)
    family = Family(metadata["family"], metadata["prediction"], int(metadata["channels"]))
    return Direction(tensors["shifts"].float(), tuple(tensors["sigmas"].double().tolist()), family, metadata["method"], _notes(path, metadata["notes"]))


def _read(path: Path, form: str, what: str, source: str, check: Callable[[dict[str, str], Shapes], None]) -> tuple[dict[str, str], dict[str, Tensor]]:
    """Metadata and tensors of a file of this format, once its version, its size and check(metadata, shapes) have passed."""
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            if metadata.get("format") != form:
                raise ValueError(f"file: {path.name} holds no {what} (its format is {metadata.get('format', 'unnamed')!r}); choose a file of {source}.")
            if not metadata.get("version", "").isdecimal() or int(metadata["version"]) > VERSION:
                raise ValueError(f"file: {path.name} is of version {metadata.get('version')!r}, this pack reads up to {VERSION}; update Semantic Latents.")
            shapes = {key: tuple(file.get_slice(key).get_shape()) for key in file.keys()}
            if sum(torch.Size(shape).numel() for shape in shapes.values()) > LARGEST:
                raise ValueError(f"file: {path.name} is larger than any {what}.")
            check(metadata, shapes)
            return metadata, {key: file.get_tensor(key) for key in shapes}
    except (SafetensorError, OSError) as error:
        raise ValueError(f"file: {path.name} cannot be read as safetensors ({error}); it is damaged, cut short or of another kind.") from error


def _require(path: Path, metadata: dict[str, str], *keys: str) -> None:
    missing = [key for key in keys if key not in metadata]
    if missing:
        raise ValueError(f"file: {path.name} is damaged: its metadata lacks {', '.join(missing)}.")


def _channels(path: Path, metadata: dict[str, str]) -> int:
    if not metadata.get("channels", "").isdecimal():
        raise ValueError(f"file: {path.name} is damaged: its metadata lacks or garbles channels.")
    return int(metadata["channels"])


def _notes(path: Path, text: str) -> dict[str, str]:
    try:
        notes = json.loads(text)
    except (json.JSONDecodeError, RecursionError):
        notes = None
    if not isinstance(notes, dict) or not all(isinstance(value, str) for value in notes.values()):
        raise ValueError(f"file: {path.name} is damaged: its metadata lacks or garbles notes.")
    return notes


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


def attribute_tensors(mix: Mixture) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors and the metadata of an attribute's file, or a mix's."""
    tensors, parts = {}, []
    for i, (attribute, weight) in enumerate(mix.parts):
        svd = attribute.stored
        network = {} if attribute.network is None else attribute.network.state_dict()
        for key, value in {"U": svd.U, "S": svd.S, "Vh": svd.Vh, **network}.items():
            tensors[f"{i}.{key}"] = value.float().cpu().contiguous()
        parts.append({"weight": weight, "shape": list(svd.shape), "recipe": asdict(attribute.recipe), "losses": attribute.losses, "notes": attribute.notes})
    metadata = {"format": ATTRIBUTE, "version": str(VERSION), "latents": mix.kind.name, "channels": str(mix.kind.channels), "parts": json.dumps(parts)}
    return tensors, metadata


@dataclass(frozen=True)
class _Part:
    """What the metadata say of one attribute of a file."""

    weight: float
    shape: tuple[int, ...]
    recipe: Recipe
    losses: dict[str, float]
    notes: dict[str, str]

    @classmethod
    def of(cls, entry: dict[str, Any], channels: int) -> _Part:
        """Raises ValueError, TypeError or KeyError for anything else than what `attribute_tensors` writes."""
        recipe = dict(entry["recipe"])
        recipe["weights"] = LossWeights(**recipe["weights"])
        shape, losses, notes = tuple(entry["shape"]), dict(entry["losses"]), dict(entry["notes"])
        if not all(type(size) is int and size > 0 for size in shape) or len(shape) not in (4, 5) or shape[:2] != (1, channels):
            raise ValueError(f"no latent of {channels} channels has the shape {shape}")
        if not all(isinstance(value, float) for value in losses.values()) or not all(isinstance(value, str) for value in notes.values()):
            raise ValueError("losses must be numbers, notes must be text")
        return cls(float(entry["weight"]), shape, Recipe(**recipe), losses, notes)

    def shapes(self, rank: int, hidden: int | None) -> Shapes:
        """The tensors that such an attribute has, with so many triplets on file and hidden units in its network, if it has one."""
        matrix, count = matrix_shape(self.shape, "channel"), math.prod(self.shape[:-2])
        check_rank(rank, matrix, "triplets")
        shapes = {"U": (count, matrix.rows, rank), "S": (count, rank), "Vh": (count, rank, matrix.cols)}
        if hidden is not None:
            network = ValueNetwork.empty(self.shape[1], sum(self.recipe.ranks(matrix)), hidden)
            shapes |= {key: tuple(value.shape) for key, value in network.state_dict().items()}
        return shapes

    def attribute(self, tensors: dict[str, Tensor], kind: LatentKind) -> Attribute:
        stored = LatentSVD(*(tensors.pop(key).float() for key in ("U", "S", "Vh")), self.shape, torch.float32)
        network = None
        if tensors:
            network = ValueNetwork.empty(*tensors["first"].shape)
            network.load_state_dict(tensors, assign=True)
        return Attribute(self.recipe, stored, kind, network, self.losses, self.notes)


def load_attribute(path: Path) -> Mixture:
    """The attribute or mix in a safetensors file.

    Raises ValueError that names the file if it is damaged, if it is no attribute, if a newer version wrote it, or if its
    shapes are not those of an attribute; nothing is allocated before these checks.
    """
    parts: list[_Part] = []

    def check(metadata: dict[str, str], shapes: Shapes) -> None:
        _require(path, metadata, "latents", "parts")
        try:
            entries = json.loads(metadata["parts"])
            if not (isinstance(entries, list) and 1 <= len(entries) <= PARTS):
                raise ValueError(f"it has to have 1 to {PARTS} parts")
            parts.extend(_Part.of(entry, _channels(path, metadata)) for entry in entries)
            expected = {f"{i}.{key}": shape for i, part in enumerate(parts)
                        for key, shape in part.shapes(shapes[f"{i}.S"][-1], shapes.get(f"{i}.first", (None,))[-1]).items()}
        except (ValueError, TypeError, KeyError, IndexError, RuntimeError) as error:
            raise ValueError(f"file: {path.name} is damaged: its metadata does not describe an attribute ({error}).") from error
        if expected != shapes:
            raise ValueError(f"file: {path.name} is damaged: its tensors have shapes {shapes}, which its attributes do not have.")

    metadata, tensors = _read(path, ATTRIBUTE, "attribute", "Save Attribute", check)
    kind = LatentKind(metadata["latents"], int(metadata["channels"]))
    own = [{key.removeprefix(f"{i}."): value for key, value in tensors.items() if key.startswith(f"{i}.")} for i in range(len(parts))]
    return Mixture(tuple((part.attribute(mine, kind), part.weight) for part, mine in zip(parts, own, strict=True)))
