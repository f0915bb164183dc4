"""Files of directions."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..files import (
    LARGEST,
    Format,
    Shapes,
    are_notes,
    channels_in,
    entry_of,
    is_number,
    json_in,
    names_damage,
    notes_in,
    read_checked,
    require,
)
from .direction import Direction, Family
from .network import ImplicitNetwork
from .trained import AnyDirection, MixedDirection, TrainedDirection

DIRECTION = Format("semantic_latents.direction", "direction", 2)
PARTS, DEPTH = 64, 16  # of one mix


def direction_tensors(direction: AnyDirection) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors and the metadata of a direction's file. Version 2 has networks in it; one without is of version 1.

    Raises ValueError for a mix of too many parts.
    """
    family = direction.family
    metadata = {
        "format": DIRECTION.name,
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
        _tree_of(tree)
    except ValueError as error:
        raise ValueError(f"direction: {error}; save its parts one by one, and mix them after loading.") from error
    return tensors, {**metadata, "version": "2", "tree": json.dumps(tree)}


def _table(direction: Direction, prefix: str = "") -> dict[str, Tensor]:
    return {
        f"{prefix}shifts": direction.shifts.float().clone().contiguous(),
        f"{prefix}sigmas": torch.tensor(direction.sigmas, dtype=torch.float64),
    }


def _described(direction: AnyDirection, tensors: dict[str, Tensor]) -> dict[str, Any]:
    """What a direction is made of. Adds the tensors of its leaves to tensors, under the leaves' numbers."""
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

    Raises OtherFormat, a ValueError, for a file of another format. Raises ValueError that names the file if it is damaged, if
    a newer version wrote it, or if its shapes are not those of a direction. Nothing is allocated before these checks.
    """
    (family, tree), tensors = read_checked(path, DIRECTION, _parsed)
    direction = tree.direction(tensors, family)
    direction.mean()  # values that are finite one by one may not be in a sum
    return direction


def _parsed(metadata: dict[str, str], shapes: Shapes) -> tuple[Family, _Leaf | _Mix]:
    """What a file's metadata describe. Raises ValueError if they are garbled, or if the file has other tensors."""
    require(metadata, "family", "prediction", "method")
    family, notes = Family(metadata["family"], metadata["prediction"], channels_in(metadata)), notes_in(metadata)
    tree: _Leaf | _Mix
    if metadata["version"] == "1":
        tree = _Leaf("", False, metadata["method"], notes)
    else:
        try:
            tree = _tree_of(json_in(metadata, "tree"))
        except ValueError as error:
            raise ValueError(f"its metadata does not describe a direction ({error})") from error
    _check_tensors(tree.leaves(), shapes, family.channels)
    return family, tree


def _check_tensors(leaves: list[_Leaf], shapes: Shapes, channels: int) -> None:
    """Raise ValueError unless the shapes of a file's tensors are those of these leaves, and no others."""
    if len({leaf.prefix for leaf in leaves}) < len(leaves):
        raise ValueError("its metadata name a part twice")
    fit = all(leaf.fits(shapes, channels) for leaf in leaves)
    if not fit or {key for leaf in leaves for key in leaf.keys(channels)} != set(shapes):
        raise ValueError(f"its tensors have shapes {shapes}, which no direction has")
    tables = [shapes[f"{leaf.prefix}shifts"] for leaf in leaves]  # a mix is looked at on the levels of all, at the largest size
    if sum(table[0] for table in tables) * max(math.prod(table[1:]) for table in tables) > LARGEST:
        raise ValueError("its parts make a larger mix than any direction is")


@dataclass(frozen=True)
class _Leaf:
    """A direction in a file, by the prefix of its tensors: with a network, or its shifts alone."""

    prefix: str
    trained: bool
    method: str
    notes: dict[str, str]

    @classmethod
    def of(cls, entry: object) -> _Leaf:
        """Raises ValueError for anything else than what `_described` writes."""
        number, trained, method, notes = entry_of(entry, number=int, trained=bool, method=str, notes=dict)
        if not are_notes(notes):
            raise ValueError(f"part {number} has garbled notes")
        return cls(f"{number}.", trained, method, notes)

    def leaves(self) -> list[_Leaf]:
        """Itself."""
        return [self]

    def network_shapes(self, channels: int) -> Shapes:
        """The shapes of its network's tensors, by key; none if it has no network."""
        network = ImplicitNetwork.empty(channels).state_dict() if self.trained else {}
        return {f"{self.prefix}network.{key}": tuple(value.shape) for key, value in network.items()}

    def keys(self, channels: int) -> set[str]:
        """The keys of all its tensors."""
        return {f"{self.prefix}shifts", f"{self.prefix}sigmas", *self.network_shapes(channels)}

    def fits(self, shapes: Shapes, channels: int) -> bool:
        """Whether a file with tensors of these shapes has all of this leaf's."""
        shifts = shapes.get(f"{self.prefix}shifts", ())
        table = len(shifts) == 4 and shapes.get(f"{self.prefix}sigmas", ()) == shifts[:1] and shifts[1] == channels and min(shifts) > 0
        return table and all(shapes.get(key) == shape for key, shape in self.network_shapes(channels).items())

    def direction(self, tensors: dict[str, Tensor], family: Family) -> Direction | TrainedDirection:
        """The direction of its tensors. Raises ValueError if its noise levels are not descending."""
        levels = tuple(tensors[f"{self.prefix}sigmas"].double().tolist())
        table = Direction(tensors[f"{self.prefix}shifts"].float(), levels, family, self.method, self.notes)
        if not self.trained:
            return table
        network, prefix = ImplicitNetwork.empty(family.channels), f"{self.prefix}network."
        network.load_state_dict(
            {key.removeprefix(prefix): value.float().clone() for key, value in tensors.items() if key.startswith(prefix)}, assign=True
        )
        return TrainedDirection(network.requires_grad_(False), table)


@dataclass(frozen=True)
class _Mix:
    """A mixed direction in a file."""

    parts: tuple[_Leaf | _Mix, ...]
    weights: tuple[float, ...]
    orthogonalise: bool
    keep_size: bool
    notes: dict[str, str]

    def leaves(self) -> list[_Leaf]:
        """The directions that it is mixed of, in order, those of the mixes in it too."""
        return [leaf for part in self.parts for leaf in part.leaves()]

    def direction(self, tensors: dict[str, Tensor], family: Family) -> MixedDirection:
        """The mix of its parts' directions."""
        parts = tuple(part.direction(tensors, family) for part in self.parts)
        return MixedDirection(parts, self.weights, self.orthogonalise, self.keep_size, self.notes)


def _tree_of(entry: object, depth: int = 0) -> _Leaf | _Mix:
    """What an entry of the metadata's tree describes, at this depth in other mixes. Raises ValueError if it is garbled."""
    if not isinstance(entry, dict) or "parts" not in entry:
        return _Leaf.of(entry)
    parts, weights, orthogonalise, keep_size, notes = entry_of(
        entry, parts=list, weights=list, orthogonalise=bool, keep_size=bool, notes=dict
    )
    if depth >= DEPTH or not 1 <= len(parts) <= PARTS:
        raise ValueError(f"a mix has more than {PARTS} parts, or mixes lie {DEPTH} deep in each other")
    if len(weights) != len(parts) or not all(map(is_number, weights)) or not are_notes(notes):
        raise ValueError("a mix is garbled")
    return _Mix(tuple(_tree_of(part, depth + 1) for part in parts), tuple(map(float, weights)), orthogonalise, keep_size, notes)
