"""Files of attributes and of their mixes."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..files import LARGEST, Format, Shapes, are_notes, channels_in, entry_of, is_number, json_in, names_damage, read_checked, require
from ..svd.decomposition import LatentSVD, check_rank
from ..svd.matrices import matrix_shape
from .attribute import Attribute, LatentKind, Mixture, Recipe
from .integration import LossWeights
from .network import ValueNetwork

ATTRIBUTE = Format("semantic_latents.attribute", "attribute", 1)
PARTS = 64  # attributes in one mix
FIELDS, LOSS_FIELDS = ({field.name for field in fields(one)} for one in (Recipe, LossWeights))


def attribute_tensors(mix: Mixture) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors and the metadata of a file that holds an attribute or a mix.

    Raises ValueError for a mix of too many attributes.
    """
    if len(mix.parts) > PARTS:
        raise ValueError(f"attribute: a mix has more than {PARTS} attributes; save its parts one by one, and mix them after loading.")
    tensors: dict[str, Tensor] = {}
    parts: list[dict[str, Any]] = []
    for i, (attribute, weight) in enumerate(mix.parts):
        svd = attribute.stored
        network = {} if attribute.network is None else attribute.network.state_dict()
        for key, value in {"U": svd.U, "S": svd.S, "Vh": svd.Vh, **network}.items():
            tensors[f"{i}.{key}"] = value.float().cpu().clone(memory_format=torch.contiguous_format)  # an attribute may be in a mix twice
        parts.append(
            {
                "weight": weight,
                "shape": list(svd.shape),
                "recipe": asdict(attribute.recipe),
                "losses": attribute.losses,
                "notes": attribute.notes,
            }
        )
    metadata = {
        "format": ATTRIBUTE.name,
        "version": str(ATTRIBUTE.version),
        "latents": mix.kind.name,
        "channels": str(mix.kind.channels),
        "parts": json.dumps(parts),
    }
    return tensors, metadata


@names_damage
def load_attribute(path: Path) -> Mixture:
    """The attribute or mix in a safetensors file.

    Raises OtherFormat, a ValueError, for a file of another format. Raises ValueError that names the file if it is damaged, if
    a newer version wrote it, or if its shapes are not those of an attribute. Nothing is allocated before these checks.
    """
    (kind, saved), tensors = read_checked(path, ATTRIBUTE, _parsed)
    own = [{key.removeprefix(f"{i}."): value for key, value in tensors.items() if key.startswith(f"{i}.")} for i in range(len(saved))]
    return Mixture(tuple((one.attribute(mine, kind), one.weight) for one, mine in zip(saved, own, strict=True)))


def _parsed(metadata: dict[str, str], shapes: Shapes) -> tuple[LatentKind, list[_Saved]]:
    """What a file's metadata describe. Raises ValueError if they are garbled, or if the file has other tensors."""
    require(metadata, "latents", "parts")
    channels = channels_in(metadata)
    try:
        entries = json_in(metadata, "parts")
        if not (isinstance(entries, list) and 1 <= len(entries) <= PARTS):
            raise ValueError(f"it has to have 1 to {PARTS} parts")
        saved = [_Saved.of(entry, channels) for entry in entries]
        expected = {key: shape for i, one in enumerate(saved) for key, shape in one.shapes(f"{i}.", shapes).items()}
    except ValueError as error:
        raise ValueError(f"its metadata does not describe an attribute ({error})") from error
    if expected != shapes:
        raise ValueError(f"its tensors have shapes {shapes}, which its attributes do not have")
    return LatentKind(metadata["latents"], channels), saved


@dataclass(frozen=True)
class _Saved:
    """What the metadata say of one attribute of a file."""

    weight: float
    shape: tuple[int, ...]
    recipe: Recipe
    losses: dict[str, float]
    notes: dict[str, str]

    @classmethod
    def of(cls, entry: object, channels: int) -> _Saved:
        """Raises ValueError for anything else than what `attribute_tensors` writes."""
        weight, recipe, shape, losses, notes = entry_of(entry, weight=float, recipe=dict, shape=list, losses=dict, notes=dict)
        if not all(type(size) is int and size > 0 for size in shape) or len(shape) not in (4, 5) or shape[:2] != [1, channels]:
            raise ValueError(f"no latent of {channels} channels has the shape {tuple(shape)}")
        if math.prod(shape) > LARGEST:
            raise ValueError(f"no latent is as large as {tuple(shape)}")
        if not all(isinstance(value, (int, float)) and not isinstance(value, bool) for value in losses.values()) or not are_notes(notes):
            raise ValueError("losses must be numbers, notes must be text")
        return cls(float(weight), tuple(shape), _recipe_of(recipe, min(shape[-2:])), losses, notes)

    def shapes(self, prefix: str, found: Shapes) -> Shapes:
        """The shapes of its tensors, by key. found: those of the file, which say how many triplets and hidden units there are.

        Raises ValueError if they do not say it.
        """
        matrix, count = matrix_shape(self.shape, "channel"), math.prod(self.shape[:-2])
        rank = _last(found, f"{prefix}S")
        check_rank(rank, matrix, "triplets")
        shapes = {"U": (count, matrix.rows, rank), "S": (count, rank), "Vh": (count, rank, matrix.cols)}
        if f"{prefix}first" in found:
            width, hidden = sum(self.recipe.ranks(matrix)), _last(found, f"{prefix}first")
            if found[f"{prefix}first"] != (self.shape[1], width, hidden):  # a network of such a size is made only if it is in the file
                raise ValueError(f"its network is not one for {self.shape[1]} channels and {width} singular values")
            network = ValueNetwork.empty(self.shape[1], width, hidden)
            shapes |= {key: tuple(value.shape) for key, value in network.state_dict().items()}
        return {f"{prefix}{key}": shape for key, shape in shapes.items()}

    def attribute(self, tensors: dict[str, Tensor], kind: LatentKind) -> Attribute:
        """The attribute of its tensors, by their keys without the prefix."""
        U, S, Vh = (tensors[key].float() for key in ("U", "S", "Vh"))
        stored = LatentSVD(U, S, Vh, self.shape, torch.float32)
        weights = {key: value.float() for key, value in tensors.items() if key not in ("U", "S", "Vh")}
        network = None
        if weights:
            network = ValueNetwork.empty(*weights["first"].shape)
            network.load_state_dict(weights, assign=True)
        return Attribute(self.recipe, stored, kind, network, self.losses, self.notes)


def _last(shapes: Shapes, key: str) -> int:
    """The last size of a tensor. Raises ValueError if there is no such tensor, or if it is a single number."""
    if not shapes.get(key):
        raise ValueError(f"it has no tensor {key} of one dimension or more")
    return shapes[key][-1]


def _recipe_of(entry: dict[str, Any], rank: int) -> Recipe:
    """The recipe in an entry, for latents of this rank. Raises ValueError if it is garbled, or asks for more triplets."""
    *ranks, weights, _ = entry_of(entry, source_rank=int, target_rank=int, weights=dict, residual=bool)
    entry_of(entry, percent=float, ahead=float, branch=float)
    if not all(map(is_number, weights.values())):
        raise ValueError("its weights are no numbers")
    if not set(entry) <= FIELDS or not set(weights) <= LOSS_FIELDS:
        raise ValueError("its recipe has settings that no recipe has")
    if min(ranks) < 0 or max(ranks) > rank:
        raise ValueError(f"it has ranks {ranks} of {rank} triplets")
    return Recipe(**{**entry, "weights": LossWeights(**weights)})
