"""The h-space vectors and blocks that others published, read from pickles with every check before anything is allocated."""

from __future__ import annotations

import io
import pickletools
import zipfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..files import names_damage
from .direction import Direction, Family
from .released import block_in, bytes_of, keys_of, released_direction
from .trained import BlockDirection

LARGEST = 2**24  # bytes of a file
LONGEST_PICKLE = 2**16  # bytes
PUBLISHED = "controlnet.fc1.weight"
PICKLED = {
    "collections.OrderedDict",
    "torch._utils._rebuild_tensor_v2",
    "torch._utils._rebuild_parameter",
    *(f"torch.{kind}Storage" for kind in ("Float", "Half", "Double", "BFloat16")),
}
PUBLISHED_CONCEPTS = ("female", "male", "young", "old", "white", "black", "asian", "anti-sexual")


def checked_archive(path: Path, largest: int) -> io.BytesIO:
    """The entries of an archive, copied, so that what was looked at is what is read.

    Raises ValueError if its pickle asks for more than plain tensors, or if it grows when it is unpacked.
    """
    copy = io.BytesIO()
    with zipfile.ZipFile(path) as archive, zipfile.ZipFile(copy, "w") as target:
        entries = archive.infolist()
        if sum(entry.file_size for entry in entries) > largest or any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
            raise ValueError("it is packed, or larger than it looks")
        for entry in entries:
            data = archive.read(entry)
            if entry.filename.endswith(".pkl"):
                if len(data) > LONGEST_PICKLE:
                    raise ValueError("its pickle is longer than that of a few tensors")
                asked = [
                    (operation.name, argument)
                    for operation, argument, _ in pickletools.genops(data)
                    if operation.name in ("GLOBAL", "INST", "STACK_GLOBAL")
                ]
                other = [name for name, argument in asked if name != "GLOBAL" or str(argument).replace(" ", ".") not in PICKLED]
                if other:
                    raise ValueError("its pickle asks for more than tensors")
            target.writestr(entry.filename, data)
    copy.seek(0)
    return copy


@names_damage
def load_published(path: Path, concept: str) -> Direction | BlockDirection:
    """What others published as pickles: an h-space vector of Li et al. 2024 (InterpretDiffusion), or a block of Kwon et al. 2023 (Asyrp).

    The vectors, for SD 1.4, are a matrix (1280 * 8 * 8, 8), constant over time and meant for the conditional half; concept says which.
    Read with weights_only: no code in the file can run. What it holds is looked at first without its values. Raises ValueError for any
    other file.
    """
    size = path.stat().st_size
    if size > LARGEST:
        raise ValueError(
            f"file: {path.name} has {size} bytes; the published vectors have 2.6 million, and Asyrp's blocks 3.2. Only those are read "
            "from .pth files."
        )
    try:
        archive = checked_archive(path, LARGEST)
        described = torch.load(archive, map_location="meta", weights_only=True)
    except Exception as error:  # the unpickler raises whatever the bytes lead it to
        raise ValueError(f"file: {path.name} cannot be read as a published direction ({type(error).__name__}: {error}).") from error
    try:
        block = block_in(described)
    except ValueError as error:
        raise ValueError(f"file: {path.name} cannot be read as a block of Asyrp: {error}.") from error
    if block is None:
        return _vector(path, _whole(path, archive), concept)
    if bytes_of(block[1]) > size:
        raise ValueError(f"file: {path.name} claims weights that are larger than the file.")
    form, weights = block_in(_whole(path, archive)) or block
    spoilt = [keys_of(form)[key] for key, value in weights.items() if not torch.isfinite(value).all()]
    if spoilt:
        raise ValueError(f"file: {path.name} is damaged: its {', '.join(spoilt)} contain NaN or Inf.")
    return released_direction(form, weights, path.stem)


def _whole(path: Path, archive: io.BytesIO) -> Any:
    """What an archive that was looked at holds, with its values."""
    archive.seek(0)
    try:
        return torch.load(archive, map_location="cpu", weights_only=True)
    except Exception as error:
        raise ValueError(f"file: {path.name} cannot be read as a published direction ({type(error).__name__}: {error}).") from error


def _vector(path: Path, state: Any, concept: str) -> Direction:
    """The vector of a concept. Raises ValueError for a file without the published matrix."""
    matrix = state.get(PUBLISHED) if isinstance(state, dict) else None
    if not isinstance(matrix, Tensor) or tuple(matrix.shape) != (1280 * 64, len(PUBLISHED_CONCEPTS)) or not matrix.is_floating_point():
        raise ValueError(
            f"file: {path.name} holds neither the published h-space vectors ({PUBLISHED} of shape (81920, 8)) nor a block of Asyrp."
        )
    if not torch.isfinite(matrix).all():
        raise ValueError(f"file: {path.name} is damaged: its vectors contain NaN or Inf.")
    if concept not in PUBLISHED_CONCEPTS:
        raise ValueError(f"concept: got {concept!r}; choose one of {', '.join(PUBLISHED_CONCEPTS)}.")
    shift = matrix[:, PUBLISHED_CONCEPTS.index(concept)].float().reshape(1, 1280, 8, 8)
    notes = {"target": concept, "source": "InterpretDiffusion (Li et al. 2024), for SD 1.4", "branch": "conditional"}
    return Direction(shift.contiguous(), (1.0,), Family("SD15", "EPS", 1280), "published", notes)
