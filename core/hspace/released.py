"""The blocks that Asyrp's authors released, known by their keys and shapes (Kwon et al. 2023)."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from .delta_block import BlockForm, DeltaBlock
from .direction import PIXEL, Family
from .network import GROUPS
from .trained import BlockDirection

SOURCE = "Asyrp (Kwon et al. 2023)"
PLACE = "0"  # the key of the block beside the optimiser's state
# The parts of a block by their names in the authors' files.
NAMES: dict[BlockForm, dict[str, str]] = {
    "DDPM": {"conv1": "enter", "temb_proj": "time", "norm2": "norm", "conv2": "leave"},
    "ADM": {"in_layers.0": "first_norm", "in_layers.2": "enter", "emb_layers.1": "time", "out_layers.0": "norm", "out_layers.3": "leave"},
}
NAMED = re.compile(r"(?P<target>.+?)_LC_(?P<pictures>.+?)_t\d+_")


def keys_of(form: BlockForm) -> dict[str, str]:
    """The keys of a block in the authors' files, by those of `DeltaBlock`."""
    return {f"{own}.{end}": f"{name}.{end}" for name, own in NAMES[form].items() for end in ("weight", "bias")}


def block_in(state: Any) -> tuple[BlockForm, dict[str, Tensor]] | None:
    """The weights of the block in what a file holds, by the names of its parts; None if it holds nothing like one.

    Raises ValueError that says what is wrong with a block whose keys, types or shapes are not those of the authors' networks, or where
    there are several.
    """
    found = state.get(PLACE, state) if isinstance(state, Mapping) else None
    if not isinstance(found, Mapping):
        return None
    form = next((form for form in NAMES if keys_of(form)["enter.weight"] in found), None)
    if form is None:
        return None
    if found is not state and any(isinstance(key, str) and key.isdecimal() and key != PLACE for key in state):
        raise ValueError("it has several blocks in it; save one of them by itself")
    keys = keys_of(form)
    other = sorted(map(str, keys.values() ^ found.keys()))
    if other:
        raise ValueError(f"a block of the {form} form lacks or does not have {', '.join(other[:4])}")
    weights = {own: found[key] for own, key in keys.items()}
    if not all(isinstance(value, Tensor) and value.is_floating_point() for value in weights.values()):
        raise ValueError("its weights are no real numbers")
    _check_shapes(form, weights)
    return form, weights


def _check_shapes(form: BlockForm, weights: dict[str, Tensor]) -> None:
    """Raise ValueError unless the weights have the shapes of one block."""
    time = tuple(weights["time.weight"].shape)
    if len(time) != 2 or min(time) < 1 or time[0] % GROUPS:
        raise ValueError(f"its map of the time embedding has the shape {time}; (c, e) with c a multiple of {GROUPS} is needed")
    shapes = {key: tuple(value.shape) for key, value in DeltaBlock.empty(form, *time).state_dict().items()}
    other = [
        f"{keys_of(form)[key]} is {tuple(weights[key].shape)}, not {shape}" for key, shape in shapes.items() if weights[key].shape != shape
    ]
    if other:
        raise ValueError(f"its weights do not fit each other: {', '.join(other[:4])}")


def bytes_of(weights: dict[str, Tensor]) -> int:
    """How many bytes these weights take."""
    return sum(math.prod(value.shape) * value.element_size() for value in weights.values())


def released_direction(form: BlockForm, weights: dict[str, Tensor], name: str) -> BlockDirection:
    """A block as a direction, for each pixel-space checkpoint of its widths. name: of its file, without its ending."""
    said = NAMED.match(name)
    target, pictures = (said["target"], f", on {said['pictures']}") if said else (name, "")
    block = DeltaBlock.of(form, weights)
    notes = {"target": target, "source": SOURCE + pictures}
    return BlockDirection(block, Family(PIXEL, "EPS", block.time.out_features), "published", notes)
