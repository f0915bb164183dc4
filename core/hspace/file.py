"""Files of directions."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast, get_args

import torch
from torch import Tensor, nn

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
from .delta_block import BlockForm, DeltaBlock
from .direction import Direction, Family
from .network import GROUPS, ImplicitNetwork
from .trained import AnyDirection, BlockDirection, MixedDirection, TrainedDirection

DIRECTION = Format("semantic_latents.direction", "direction", 3)
PARTS, DEPTH = 64, 16  # of one mix


def direction_tensors(direction: AnyDirection) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors and the metadata of a direction's file, of the lowest version that can hold it.

    Version 1 holds shifts alone, version 2 networks too, version 3 blocks that look at the time embedding.
    Raises ValueError for a mix of too many parts.
    """
    family = direction.family
    metadata = {
        "format": DIRECTION.name,
        "family": family.name,
        "prediction": family.prediction,
        "channels": str(family.channels),
        "method": direction.method,
        **({"norm": f"{direction.mean().norm:.6g}"} if direction.embedded is None else {}),
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
    return tensors, {**metadata, "version": "2" if direction.embedded is None else "3", "tree": json.dumps(tree)}


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
    number = len({key.partition(".")[0] for key in tensors})
    about = {"number": number, "method": direction.method, "notes": direction.notes}
    if isinstance(direction, BlockDirection):
        tensors |= _weights(direction.block, f"{number}.block.")
        return {**about, "block": direction.block.form}
    tensors |= _table(direction.mean(), f"{number}.")
    if isinstance(direction, TrainedDirection):
        tensors |= _weights(direction.network, f"{number}.network.")
    return {**about, "trained": isinstance(direction, TrainedDirection)}


def _weights(network: nn.Module, prefix: str) -> dict[str, Tensor]:
    return {f"{prefix}{key}": value.float().cpu().clone().contiguous() for key, value in network.state_dict().items()}


def _without(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Those whose keys begin with prefix, by the rest of the keys, as copies in float32."""
    return {key.removeprefix(prefix): value.float().clone() for key, value in tensors.items() if key.startswith(prefix)}


@names_damage
def load_direction(path: Path) -> AnyDirection:
    """The direction in a safetensors file.

    Raises OtherFormat, a ValueError, for a file of another format. Raises ValueError that names the file if it is damaged, if
    a newer version wrote it, or if its shapes are not those of a direction. Nothing is allocated before these checks.
    """
    (family, tree), tensors = read_checked(path, DIRECTION, _parsed)
    direction = tree.direction(tensors, family)
    _check_sums(direction)
    return direction


def _check_sums(direction: AnyDirection) -> None:
    """Raise ValueError for a mix of tables that are finite one by one and not in a sum."""
    if direction.embedded is None:
        direction.mean()
    elif isinstance(direction, MixedDirection):
        for part in direction.parts:
            _check_sums(part)


def _parsed(metadata: dict[str, str], shapes: Shapes) -> tuple[Family, _Leaf | _Block | _Mix]:
    """What a file's metadata describe. Raises ValueError if they are garbled, or if the file has other tensors."""
    require(metadata, "family", "prediction", "method")
    family, notes = Family(metadata["family"], metadata["prediction"], channels_in(metadata)), notes_in(metadata)
    tree: _Leaf | _Block | _Mix
    if metadata["version"] == "1":
        tree = _Leaf("", False, metadata["method"], notes)
    else:
        try:
            tree = _tree_of(json_in(metadata, "tree"))
        except ValueError as error:
            raise ValueError(f"its metadata does not describe a direction ({error})") from error
    _check_tensors(tree.leaves(), shapes, family.channels)
    return family, tree


def _check_tensors(leaves: list[_Leaf | _Block], shapes: Shapes, channels: int) -> None:
    """Raise ValueError unless the shapes of a file's tensors are those of these leaves, and no others."""
    if len({leaf.prefix for leaf in leaves}) < len(leaves):
        raise ValueError("its metadata name a part twice")
    fit = all(leaf.fits(shapes, channels) for leaf in leaves)
    if not fit or {key for leaf in leaves for key in leaf.keys(channels)} != set(shapes):
        raise ValueError(f"its tensors have shapes {shapes}, which no direction has")
    tables = [shapes[key] for leaf in leaves if (key := f"{leaf.prefix}shifts") in shapes]
    # a mix is looked at on the levels of all, at the largest size
    if sum(table[0] for table in tables) * max((math.prod(table[1:]) for table in tables), default=0) > LARGEST:
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

    def leaves(self) -> list[_Leaf | _Block]:
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
        network = ImplicitNetwork.empty(family.channels)
        network.load_state_dict(_without(f"{self.prefix}network.", tensors), assign=True)
        return TrainedDirection(network.requires_grad_(False), table)


@dataclass(frozen=True)
class _Block:
    """A block in a file, by the prefix of its tensors."""

    prefix: str
    form: BlockForm
    method: str
    notes: dict[str, str]

    @classmethod
    def of(cls, entry: object) -> _Block:
        """Raises ValueError for anything else than what `_described` writes."""
        number, form, method, notes = entry_of(entry, number=int, block=str, method=str, notes=dict)
        if form not in get_args(BlockForm) or not are_notes(notes):
            raise ValueError(f"part {number} has garbled notes, or a block of no known form")
        return cls(f"{number}.", cast(BlockForm, form), method, notes)

    def leaves(self) -> list[_Leaf | _Block]:
        """Itself."""
        return [self]

    def keys(self, channels: int) -> set[str]:
        """The keys of all its tensors."""
        return {f"{self.prefix}block.{key}" for key in DeltaBlock.empty(self.form, GROUPS, 1).state_dict()}

    def fits(self, shapes: Shapes, channels: int) -> bool:
        """Whether a file with tensors of these shapes has all of this block's."""
        prefix = f"{self.prefix}block."
        time = shapes.get(f"{prefix}time.weight", ())
        if len(time) != 2 or min(time) < 1 or time[0] != channels or channels % GROUPS:
            return False
        block = DeltaBlock.empty(self.form, channels, time[1]).state_dict()
        return all(shapes.get(f"{prefix}{key}") == tuple(value.shape) for key, value in block.items())

    def direction(self, tensors: dict[str, Tensor], family: Family) -> BlockDirection:
        """The direction of its tensors."""
        return BlockDirection(DeltaBlock.of(self.form, _without(f"{self.prefix}block.", tensors)), family, self.method, self.notes)


@dataclass(frozen=True)
class _Mix:
    """A mixed direction in a file."""

    parts: tuple[_Leaf | _Block | _Mix, ...]
    weights: tuple[float, ...]
    orthogonalise: bool
    keep_size: bool
    notes: dict[str, str]

    def leaves(self) -> list[_Leaf | _Block]:
        """The directions that it is mixed of, in order, those of the mixes in it too."""
        return [leaf for part in self.parts for leaf in part.leaves()]

    def direction(self, tensors: dict[str, Tensor], family: Family) -> MixedDirection:
        """The mix of its parts' directions."""
        parts = tuple(part.direction(tensors, family) for part in self.parts)
        return MixedDirection(parts, self.weights, self.orthogonalise, self.keep_size, self.notes)


def _tree_of(entry: object, depth: int = 0) -> _Leaf | _Block | _Mix:
    """What an entry of the metadata's tree describes, at this depth in other mixes. Raises ValueError if it is garbled."""
    if not isinstance(entry, dict) or "parts" not in entry:
        is_block = isinstance(entry, dict) and "block" in entry and "trained" not in entry
        return _Block.of(entry) if is_block else _Leaf.of(entry)
    parts, weights, orthogonalise, keep_size, notes = entry_of(
        entry, parts=list, weights=list, orthogonalise=bool, keep_size=bool, notes=dict
    )
    if depth >= DEPTH or not 1 <= len(parts) <= PARTS:
        raise ValueError(f"a mix has more than {PARTS} parts, or mixes lie {DEPTH} deep in each other")
    if len(weights) != len(parts) or not all(map(is_number, weights)) or not are_notes(notes):
        raise ValueError("a mix is garbled")
    return _Mix(tuple(_tree_of(part, depth + 1) for part in parts), tuple(map(float, weights)), orthogonalise, keep_size, notes)
