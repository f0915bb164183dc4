"""Files of directions."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..files import Kind, Shapes, are_notes, channels_in, names_damage, notes_in, read_checked, require
from .direction import Direction, Family
from .network import ImplicitNetwork
from .trained import AnyDirection, MixedDirection, TrainedDirection

DIRECTION = Kind("semantic_latents.direction", "direction", "Save Direction", 2)
PARTS, DEPTH = 64, 16  # of one mix


def direction_tensors(direction: AnyDirection) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors and the metadata of a direction's file. Version 2 has networks in it; one without is of version 1.

    Raises ValueError for a mix of too many parts.
    """
    family = direction.family
    metadata = {
        "format": DIRECTION.format,
        "family": family.name,
        "prediction": family.prediction,
        "channels": str(family.channels),
        "method": direction.method,
        "norm": f"{direction.mean().norm:.6g}",
        "notes": json.dumps(direction.notes),
    }
    if isinstance(direction, Direction):
        return _table(direction), {**metadata, "version": "1"}
    tensors: dict[str, Tensor] = {}
    tree = _described(direction, tensors)
    try:
        list(_leaves(tree))
    except ValueError as error:
        raise ValueError(f"direction: {error}; save its parts one by one, and mix them after loading.") from error
    return tensors, {**metadata, "version": "2", "tree": json.dumps(tree)}


def _table(direction: Direction, prefix: str = "") -> dict[str, Tensor]:
    return {
        f"{prefix}shifts": direction.shifts.float().clone().contiguous(),
        f"{prefix}sigmas": torch.tensor(direction.sigmas, dtype=torch.float64),
    }


def _described(direction: AnyDirection, tensors: dict[str, Tensor]) -> dict[str, Any]:
    """What a direction is made of; its leaves' tensors are added to tensors, under their numbers."""
    if isinstance(direction, MixedDirection):
        return {
            "parts": [_described(part, tensors) for part in direction.parts],
            "weights": list(direction.weights),
            "orthogonalise": direction.orthogonalise,
            "keep_size": direction.keep_size,
            "notes": direction.notes,
        }
    number = sum(key.endswith(".shifts") for key in tensors)
    tensors |= _table(direction.mean(), f"{number}.")
    if isinstance(direction, TrainedDirection):
        tensors |= {
            f"{number}.network.{key}": value.float().cpu().clone().contiguous() for key, value in direction.network.state_dict().items()
        }
    trained = isinstance(direction, TrainedDirection)
    return {"number": number, "trained": trained, "method": direction.method, "notes": direction.notes}


@names_damage
def load_direction(path: Path) -> AnyDirection:
    """The direction in a safetensors file.

    Raises ValueError that names the file if it is damaged, if it is no direction, if a newer version wrote it, or if its
    shapes are not those of a direction; nothing is allocated before these checks.
    """

    def check(metadata: dict[str, str], shapes: Shapes) -> None:
        require(path, metadata, "family", "prediction", "method")
        channels, notes = channels_in(path, metadata), notes_in(path, metadata.get("notes", ""))
        if metadata["version"] == "1":
            leaves = [_Leaf("", False, metadata["method"], notes)]
        else:
            try:
                leaves = list(_leaves(json.loads(metadata["tree"])))
            except (ValueError, TypeError, KeyError, OverflowError, RecursionError) as error:
                raise ValueError(f"file: {path.name} is damaged: its metadata does not describe a direction ({error}).") from error
        if len({leaf.prefix for leaf in leaves}) < len(leaves):
            raise ValueError(f"file: {path.name} is damaged: its metadata name a part twice.")
        if not all(leaf.fits(shapes, channels) for leaf in leaves) or {key for leaf in leaves for key in leaf.keys(channels)} != set(
            shapes
        ):
            raise ValueError(f"file: {path.name} is damaged: its tensors have shapes {shapes}, which no direction has.")

    metadata, tensors = read_checked(path, DIRECTION, check)
    family = Family(metadata["family"], metadata["prediction"], int(metadata["channels"]))
    if metadata["version"] == "1":
        return _Leaf("", False, metadata["method"], notes_in(path, metadata["notes"])).direction(tensors, family)
    direction = _built(json.loads(metadata["tree"]), tensors, family)
    direction.mean()  # values that are finite one by one may not be in a sum
    return direction


@dataclass(frozen=True)
class _Leaf:
    """A direction in a file, by the prefix of its tensors: with a network, or its shifts alone."""

    prefix: str
    trained: bool
    method: str
    notes: dict[str, str]

    @classmethod
    def of(cls, entry: dict[str, Any]) -> _Leaf:
        """Raises ValueError, TypeError or KeyError for anything else than what `_described` writes."""
        number, trained, method, notes = (entry[key] for key in ("number", "trained", "method", "notes"))
        if type(number) is not int or type(trained) is not bool or not isinstance(method, str) or not are_notes(notes):
            raise ValueError(f"part {number!r} is garbled")
        return cls(f"{number}.", trained, method, notes)

    def networks_shapes(self, channels: int) -> Shapes:
        network = ImplicitNetwork.empty(channels).state_dict() if self.trained else {}
        return {f"{self.prefix}network.{key}": tuple(value.shape) for key, value in network.items()}

    def keys(self, channels: int) -> set[str]:
        return {f"{self.prefix}shifts", f"{self.prefix}sigmas", *self.networks_shapes(channels)}

    def fits(self, shapes: Shapes, channels: int) -> bool:
        shifts = shapes.get(f"{self.prefix}shifts", ())
        table = len(shifts) == 4 and shapes.get(f"{self.prefix}sigmas", ()) == shifts[:1] and shifts[1] == channels and min(shifts) > 0
        return table and all(shapes.get(key) == shape for key, shape in self.networks_shapes(channels).items())

    def direction(self, tensors: dict[str, Tensor], family: Family) -> Direction | TrainedDirection:
        levels = tuple(tensors[f"{self.prefix}sigmas"].double().tolist())
        table = Direction(tensors[f"{self.prefix}shifts"].float(), levels, family, self.method, self.notes)
        if not self.trained:
            return table
        network, prefix = ImplicitNetwork.empty(family.channels), f"{self.prefix}network."
        network.load_state_dict(
            {key.removeprefix(prefix): value.float().clone() for key, value in tensors.items() if key.startswith(prefix)}, assign=True
        )
        return TrainedDirection(network.requires_grad_(False), table)


def _leaves(entry: dict[str, Any], depth: int = 0) -> Iterator[_Leaf]:
    """The leaves below an entry of the tree. Raises ValueError, TypeError or KeyError if it is garbled."""
    if "parts" not in entry:
        yield _Leaf.of(entry)
        return
    if depth >= DEPTH or not 1 <= len(entry["parts"]) <= PARTS:
        raise ValueError(f"a mix has more than {PARTS} parts, or mixes lie {DEPTH} deep in each other")
    weights, notes, switches = entry["weights"], entry["notes"], (entry["orthogonalise"], entry["keep_size"])
    numbers = all(isinstance(weight, (int, float)) and math.isfinite(weight) for weight in weights)
    if len(weights) != len(entry["parts"]) or not numbers or not all(type(on) is bool for on in switches) or not are_notes(notes):
        raise ValueError("a mix is garbled")
    for part in entry["parts"]:
        yield from _leaves(part, depth + 1)


def _built(entry: dict[str, Any], tensors: dict[str, Tensor], family: Family) -> AnyDirection:
    if "parts" not in entry:
        return _Leaf.of(entry).direction(tensors, family)
    parts = tuple(_built(part, tensors, family) for part in entry["parts"])
    return MixedDirection(
        parts, tuple(map(float, entry["weights"])), bool(entry["orthogonalise"]), bool(entry["keep_size"]), entry["notes"]
    )
