"""The h-space vectors that others published, read from pickles with every check before anything is allocated."""

from __future__ import annotations

import io
import pickletools
import zipfile
from pathlib import Path

import torch
from torch import Tensor

from ..files import names_damage
from .direction import Direction, Family

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
def load_published(path: Path, concept: str) -> Direction:
    """One of the h-space vectors that Li et al. 2024 (InterpretDiffusion) published for SD 1.4.

    A pickle of one matrix (1280 * 8 * 8, 8), read with weights_only: no code in it can run. Constant over time; meant
    for the conditional half. Raises ValueError for any other file.
    """
    largest = 16 * 2**20
    if path.stat().st_size > largest:
        raise ValueError(
            f"file: {path.name} has {path.stat().st_size} bytes; the published vectors have 2.6 million. Only those are read "
            "from .pth files."
        )
    try:
        state = torch.load(checked_archive(path, largest), map_location="cpu", weights_only=True)
    except Exception as error:  # the unpickler raises whatever the bytes lead it to
        raise ValueError(f"file: {path.name} cannot be read as published h-space vectors ({type(error).__name__}: {error}).") from error
    matrix = state.get(PUBLISHED) if isinstance(state, dict) else None
    if not isinstance(matrix, Tensor) or tuple(matrix.shape) != (1280 * 64, len(PUBLISHED_CONCEPTS)) or not matrix.is_floating_point():
        raise ValueError(f"file: {path.name} does not hold the published h-space vectors ({PUBLISHED} of shape (81920, 8)).")
    if not torch.isfinite(matrix).all():
        raise ValueError(f"file: {path.name} is damaged: its vectors contain NaN or Inf.")
    if concept not in PUBLISHED_CONCEPTS:
        raise ValueError(f"concept: got {concept!r}; choose one of {', '.join(PUBLISHED_CONCEPTS)}.")
    shift = matrix[:, PUBLISHED_CONCEPTS.index(concept)].float().reshape(1, 1280, 8, 8)
    notes = {"target": concept, "source": "InterpretDiffusion (Li et al. 2024), for SD 1.4", "branch": "conditional"}
    return Direction(shift.contiguous(), (1.0,), Family("SD15", "EPS", 1280), "published", notes)
