"""Files of pixel-space checkpoints: safetensors and torch's pickles, checked by keys, shapes and sizes before a weight is read."""

from __future__ import annotations

import hashlib
import pickle
import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from ..files import FLOATS, Shapes, names_damage
from .configuration import Configuration, configuration_of, named
from .layouts import Layout, is_projection, layout_of

SAFETENSORS = (".safetensors", ".sft")
LONGEST_PICKLE = 2**26  # bytes; a training run's with its optimiser has some 2^20
DEEPEST = 4  # mappings and lists in each other
# Where training runs keep weights, the average over the run first.
NESTED = ("ema", "ema_state_dict", "model_ema", "state_dict", "model_state_dict", "model", "network", "net", "module", "unet", "generator")
PREFIXES = ("module.", "model.diffusion_model.", "diffusion_model.", "unet.", "model.", "denoise_fn.")
TYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
IDENTIFYING = ("input_blocks.0.0.weight", "middle_block.0.out_layers.3.bias", "out.0.weight", "out.2.weight")


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """A pixel-space network with its weights by canonical key, all of one type; of a network that predicts the variance, too, the
    weights of the noise alone. identity: twelve characters that tell it from others of its shape, whatever layout it is in."""

    layout: Layout
    configuration: Configuration
    weights: dict[str, Tensor]

    @property
    def identity(self) -> str:
        digest = hashlib.sha256()
        for key in IDENTIFYING:
            digest.update(self.weights[key].half().contiguous().view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()[:12]


@names_damage
def load_checkpoint(path: Path) -> Checkpoint:
    """The checkpoint in a file.

    Raises ValueError that names the file, and what is wrong, for one that is damaged, has code in it, or holds something else;
    nothing of the size of its weights is allocated before.
    """
    return _from_safetensors(path) if path.suffix.lower() in SAFETENSORS else _from_pickle(path)


def _from_safetensors(path: Path) -> Checkpoint:
    with safe_open(path, "pt") as file:
        slices = {key: file.get_slice(key) for key in file.keys()}
        names = stripped(slices)
        other = [key for key, part in slices.items() if part.get_dtype() not in FLOATS]
        shapes = {name: tuple(slices[key].get_shape()) for name, key in names.items()}
        layout, configuration = _known(path, shapes, other)
        return _checkpoint(path, layout, configuration, {name: file.get_tensor(key) for name, key in names.items()})


def _from_pickle(path: Path) -> Checkpoint:
    is_archive = zipfile.is_zipfile(path)
    if is_archive:
        check_archive(path)
    described = weights_in(_unpickled(path, mmap=False, device="meta"))
    other = [key for key, value in described.items() if value.dtype not in TYPES.values()]
    layout, configuration = _known(path, {key: tuple(value.shape) for key, value in described.items()}, other)
    if sum(value.numel() * value.element_size() for value in described.values()) > path.stat().st_size:
        raise ValueError(f"file: {path.name} claims tensors that are larger than the file.")
    return _checkpoint(path, layout, configuration, weights_in(_unpickled(path, mmap=is_archive, device="cpu")))


def check_archive(path: Path) -> None:
    """Raise ValueError for a file of torch.save that grows when it is unpacked."""
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
    except (zipfile.BadZipFile, NotImplementedError, UnicodeDecodeError) as error:
        raise ValueError(f"file: {path.name} cannot be read as a checkpoint ({type(error).__name__}: {str(error)[:150]}).") from error
    if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries) or sum(e.file_size for e in entries) > path.stat().st_size:
        raise ValueError(f"file: {path.name} is packed, or larger than it looks.")
    if any(entry.filename.endswith(".pkl") and entry.file_size > LONGEST_PICKLE for entry in entries):
        raise ValueError(f"file: {path.name} has a pickle that is longer than any network's.")


def _unpickled(path: Path, *, mmap: bool, device: str) -> Any:
    """What torch.load makes of a file without running code in it; on the device meta without the tensors' values."""
    try:
        return torch.load(path, map_location=device, weights_only=True, mmap=mmap)
    except pickle.UnpicklingError as error:
        asked = str(error).partition("WeightsUnpickler error: ")[2].partition("\n")[0] or "it is none of torch.save"
        raise ValueError(
            f"file: {path.name} is no file of weights alone ({asked[:150]}). No code in it was run. If you trust it, save its weights as "
            "safetensors elsewhere."
        ) from error
    except Exception as error:  # the unpickler raises whatever the bytes lead it to
        raise ValueError(f"file: {path.name} cannot be read as a checkpoint ({type(error).__name__}: {str(error)[:150]}).") from error


def weights_in(value: Any) -> dict[str, Tensor]:
    """The weights that a training run saved, without the prefixes of wrappers around the network.

    Of several the average over the run is taken (`ema`), and of a list the last. Raises ValueError where there are none.
    """
    found = _weights_in(value, DEEPEST, set())
    if found is None:
        keys = [str(key) for key in value] if isinstance(value, Mapping) else [type(value).__name__]
        raise ValueError(f"it holds no network's weights where they are looked for ({named(keys)})")
    return {name: found[key] for name, key in stripped(found).items()}


def _weights_in(value: Any, depth: int, seen: set[int]) -> dict[str, Tensor] | None:
    """The first mapping of tensors alone. seen: what was looked into before, by its id, as lists may hold each other many times."""
    if depth == 0 or id(value) in seen:
        return None
    seen.add(id(value))
    if isinstance(value, Mapping):
        if value and all(isinstance(key, str) and isinstance(part, Tensor) for key, part in value.items()):
            return dict(value)
        inner = [value[key] for key in NESTED if key in value]
    else:
        inner = list(reversed(value)) if isinstance(value, (list, tuple)) else []
    return next((found for one in inner if (found := _weights_in(one, depth - 1, seen))), None)


def stripped(keys: Iterable[str]) -> dict[str, str]:
    """Keys by their names without the prefixes that all of them have."""
    names = {key: key for key in keys}
    while prefix := next((one for one in PREFIXES if names and all(name.startswith(one) for name in names)), None):
        names = {name.removeprefix(prefix): key for name, key in names.items()}
    return names


def _known(path: Path, shapes: Shapes, other: list[str]) -> tuple[Layout, Configuration]:
    """The network of these shapes. Raises ValueError if it is none, or if some tensors have other types than a network's."""
    try:
        layout = layout_of(shapes)
        configuration = configuration_of(layout, shapes)
    except ValueError as error:
        raise ValueError(f"file: {path.name} cannot be loaded as a pixel-space diffusion model: {error}.") from error
    if other:
        raise ValueError(f"file: {path.name} holds weights that are no real numbers of 16 bits or more: {named(other)}.")
    return layout, configuration


def _checkpoint(path: Path, layout: Layout, configuration: Configuration, tensors: dict[str, Tensor]) -> Checkpoint:
    spoilt = [key for key, value in tensors.items() if not torch.isfinite(value).all()]
    if spoilt:
        raise ValueError(f"file: {path.name} is damaged: {named(spoilt)} contain NaN or Inf.")
    dtypes = [value.dtype for value in tensors.values()]
    dtype = max(set(dtypes), key=dtypes.count)
    weights = {key: _joined(key, [tensors[part] for part in parts]) for key, parts in layout.parts.items() if parts[0] in tensors}
    for key in ("out.2.weight", "out.2.bias"):
        weights[key] = weights[key][:3]
    return Checkpoint(
        layout, configuration, {key: value.to(dtype if dtype != torch.float64 else torch.float32) for key, value in weights.items()}
    )


def _joined(key: str, parts: list[Tensor]) -> Tensor:
    """A weight of the network from its parts in the file."""
    whole = torch.cat(parts) if len(parts) > 1 else parts[0]
    return whole.reshape(*whole.shape[:2], 1) if is_projection(key) else whole
