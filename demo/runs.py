"""What the trainers share: how far a run is, files that are whole or absent, batches of pictures and latents."""

from __future__ import annotations

import csv
import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from .data import Store


@dataclass
class Plan:
    """How far a run is, by the wall clock (`end`, seconds since the epoch) or, without a clock, by samples (`total`)."""

    end: float | None = None
    total: int = 0
    warm_up: int = 100  # steps
    cooldown: float = 0.4  # the last part of the run, over which the learning rate falls to zero
    start: float = field(default_factory=time.time)

    def done(self, seen: int) -> float:
        """The share of the run that is over, 0 to 1."""
        if self.end is not None:
            return min(1.0, (time.time() - self.start) / max(1e-3, self.end - self.start))
        return min(1.0, seen / self.total)

    def rate(self, seen: int, step: int, highest: float) -> float:
        return highest * min(1.0, (step + 1) / self.warm_up, max(0.0, 1 - self.done(seen)) / self.cooldown)


def half(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: value.detach().to("cpu", torch.float16).contiguous() for name, value in tensors.items()}


def write(path: Path, tensors: dict[str, torch.Tensor], **metadata: object) -> None:
    """Write a safetensors file; it appears when it is whole."""
    partial = path.with_name(f".{path.name}.partial")
    save_file(
        {name: value.detach().cpu().contiguous() for name, value in tensors.items()},
        partial,
        {"format": "pt"} | {name: str(value) for name, value in metadata.items()},
    )
    partial.replace(path)


def read(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    with safe_open(path, "pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}, dict(file.metadata() or {})


def keep_state(path: Path, seen: int, *parts: object) -> None:
    """Write the states of modules and optimisers, and how many samples they have seen; the file appears when it is whole."""
    partial = path.with_name(f".{path.name}.partial")
    torch.save({"seen": seen, "parts": [part.state_dict() for part in parts]}, partial)
    partial.replace(path)


def restored(path: Path, *parts: object) -> int:
    """Put states that `keep_state` wrote back into the parts; the number of samples they have seen, 0 without such a file."""
    if not path.exists():
        return 0
    state = torch.load(path, weights_only=True)
    for part, own in zip(parts, state["parts"]):
        part.load_state_dict(own)
    return state["seen"]


def log(path: Path, **row: object) -> None:
    """Append a row to a CSV file and print it."""
    fresh = not path.exists()
    with path.open("a", newline="") as file:
        rows = csv.writer(file)
        if fresh:
            rows.writerow(row)
        rows.writerow(row.values())
    print("  ".join(f"{name} {value}" for name, value in row.items()), flush=True)


def as_images(pixels: torch.Tensor) -> torch.Tensor:
    """uint8 (b, h, w, 3) to (b, 3, h, w) in [-1, 1]."""
    return pixels.movedim(-1, 1).float() / 127.5 - 1


class Pictures:
    """Drawn faces on the device, with the arrays named in `fields`; grows as more are drawn, up to `limit`."""

    def __init__(self, store: Store, device: str, limit: int, fields: tuple[str, ...] = ("pixels",), at_least: int = 2_000):
        self.store, self.device, self.limit, self.fields = store, device, min(limit, store.count), fields
        self.count = 0
        self.arrays = {
            name: torch.empty((self.limit, *getattr(store, name).shape[1:]), dtype=self._kind(name), device=device) for name in fields
        }
        store.wait(min(at_least, self.limit))
        self.grow(8_000)

    def _kind(self, name: str) -> torch.dtype:
        return torch.from_numpy(np.empty(0, getattr(self.store, name).dtype)).dtype

    def grow(self, most: int = 4_000) -> None:
        """Take in at most so many of the faces that were drawn meanwhile."""
        last = min(self.limit, self.available(), self.count + most)
        for name, array in self.arrays.items():
            array[self.count : last] = torch.from_numpy(np.array(getattr(self.store, name)[self.count : last])).to(self.device)
        self.count = last

    def available(self) -> int:
        return self.store.ready()

    def choose(self, generator: torch.Generator, batch: int) -> torch.Tensor:
        return torch.randint(self.count, (batch,), generator=generator, device=self.device)

    def images(self, chosen: torch.Tensor) -> torch.Tensor:
        return as_images(self.arrays["pixels"][chosen])

    def crops(self, generator: torch.Generator, batch: int, size: int) -> torch.Tensor:
        """Random crops (b, 3, size, size) in [-1, 1]."""
        pixels = self.arrays["pixels"]
        chosen, span = self.choose(generator, batch), torch.arange(size, device=self.device)
        top, left = torch.randint(pixels.shape[1] - size + 1, (2, batch, 1), generator=generator, device=self.device)
        return as_images(pixels[chosen[:, None, None], (top + span)[:, :, None], (left + span)[:, None, :]])


class Latents(Pictures):
    """Latents and captions' tokens on the device; those available are the encoded ones."""

    def __init__(self, store: Store, device: str, limit: int, at_least: int = 10_000):
        while store.encoded[0] < min(at_least, limit, store.count):
            time.sleep(0.2)
        super().__init__(store, device, limit, ("latents", "tokens"), 0)
        while self.count < self.available():
            self.grow(20_000)

    def available(self) -> int:
        return min(self.limit, int(self.store.encoded[0]))


def generator_for(device: str, *seeds: int) -> torch.Generator:
    """Random numbers that depend on the seeds alone."""
    return torch.Generator(device).manual_seed(int(np.random.SeedSequence(seeds).generate_state(1, np.uint64)[0] >> 1))
