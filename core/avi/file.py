"""Files of attributes and of their mixes."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..files import Kind, Shapes, channels_in, names_damage, read_checked, require
from ..svd.decomposition import LatentSVD, check_rank
from ..svd.matrices import matrix_shape
from .attribute import Attribute, LatentKind, Mixture, Recipe
from .integration import LossWeights
from .network import ValueNetwork

ATTRIBUTE = Kind("semantic_latents.attribute", "attribute", "Save Attribute", 1)
PARTS = 64  # attributes in one mix


def attribute_tensors(mix: Mixture) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors and the metadata of an attribute's file, or a mix's."""
    tensors, parts = {}, []
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
        "format": ATTRIBUTE.format,
        "version": str(ATTRIBUTE.version),
        "latents": mix.kind.name,
        "channels": str(mix.kind.channels),
        "parts": json.dumps(parts),
    }
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
        weights = recipe["weights"] = LossWeights(**recipe["weights"])
        ranks, percents = (recipe["source_rank"], recipe["target_rank"]), (recipe["percent"], recipe["ahead"], recipe["branch"])
        if not all(type(rank) is int and rank >= 0 for rank in ranks) or type(recipe["residual"]) is not bool:
            raise ValueError("its ranks or switches are garbled")
        if not all(type(value) in (int, float) and math.isfinite(value) for value in (*percents, *vars(weights).values(), entry["weight"])):
            raise ValueError("its percents or weights are no numbers")
        shape, losses, notes = tuple(entry["shape"]), dict(entry["losses"]), dict(entry["notes"])
        if not all(type(size) is int and size > 0 for size in shape) or len(shape) not in (4, 5) or shape[:2] != (1, channels):
            raise ValueError(f"no latent of {channels} channels has the shape {shape}")
        if max(ranks) > min(shape[-2:]):
            raise ValueError(f"a latent of {shape} has no {max(ranks)} triplets")
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
        U, S, Vh = (tensors.pop(key).float() for key in ("U", "S", "Vh"))
        stored = LatentSVD(U, S, Vh, self.shape, torch.float32)
        network = None
        if tensors:
            network = ValueNetwork.empty(*tensors["first"].shape)
            network.load_state_dict({key: value.float() for key, value in tensors.items()}, assign=True)
        return Attribute(self.recipe, stored, kind, network, self.losses, self.notes)


@names_damage
def load_attribute(path: Path) -> Mixture:
    """The attribute or mix in a safetensors file.

    Raises ValueError that names the file if it is damaged, if it is no attribute, if a newer version wrote it, or if its
    shapes are not those of an attribute; nothing is allocated before these checks.
    """
    parts: list[_Part] = []

    def check(metadata: dict[str, str], shapes: Shapes) -> None:
        require(path, metadata, "latents", "parts")
        try:
            entries = json.loads(metadata["parts"])
            if not (isinstance(entries, list) and 1 <= len(entries) <= PARTS):
                raise ValueError(f"it has to have 1 to {PARTS} parts")
            parts.extend(_Part.of(entry, channels_in(path, metadata)) for entry in entries)
            expected = {
                f"{i}.{key}": shape
                for i, part in enumerate(parts)
                for key, shape in part.shapes(shapes[f"{i}.S"][-1], shapes.get(f"{i}.first", (None,))[-1]).items()
            }
        except (ValueError, TypeError, KeyError, IndexError, RuntimeError) as error:
            raise ValueError(f"file: {path.name} is damaged: its metadata does not describe an attribute ({error}).") from error
        if expected != shapes:
            raise ValueError(f"file: {path.name} is damaged: its tensors have shapes {shapes}, which its attributes do not have.")

    metadata, tensors = read_checked(path, ATTRIBUTE, check)
    kind = LatentKind(metadata["latents"], int(metadata["channels"]))
    own = [{key.removeprefix(f"{i}."): value for key, value in tensors.items() if key.startswith(f"{i}.")} for i in range(len(parts))]
    return Mixture(tuple((part.attribute(mine, kind), part.weight) for part, mine in zip(parts, own, strict=True)))
