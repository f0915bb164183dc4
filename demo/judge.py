"""The judge of the portrait models: labels, numbers and identity, read off a picture of a face."""

from __future__ import annotations

import os
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from . import network, runs, vae
from .data import Store
from .faces import CATEGORICAL, CONTINUOUS, IDENTITY

FILE = "portrait_judge.safetensors"
SIDE = 128  # of the pictures that the network sees


class Block(torch.nn.Module):
    def __init__(self, width_in: int, width: int, stride: int):
        super().__init__()
        self.body = torch.nn.Sequential(
            torch.nn.Conv2d(width_in, width, 3, stride, 1, bias=False),
            torch.nn.GroupNorm(8, width),
            torch.nn.SiLU(),
            torch.nn.Conv2d(width, width, 3, 1, 1, bias=False),
            torch.nn.GroupNorm(8, width),
        )
        self.skip = torch.nn.Identity() if stride == 1 and width_in == width else torch.nn.Conv2d(width_in, width, 1, stride, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.silu(self.body(x) + self.skip(x))


class Judge(torch.nn.Module):
    """A residual network over 128-pixel pictures: one head an attribute, one for all numbers, one for identity.

    `features` (b, 192) also measure distances.
    """

    def __init__(self, widths: tuple[int, ...] = (24, 48, 96, 128, 128)):
        super().__init__()
        self.stem = torch.nn.Conv2d(3, widths[0], 3, 2, 1)
        self.blocks = torch.nn.Sequential(
            *[
                block
                for i, width in enumerate(widths)
                for block in (Block(widths[max(i - 1, 0)], width, 2 if i else 1), Block(width, width, 1))
            ]
        )
        self.features = torch.nn.Sequential(torch.nn.Linear(widths[-1] * (SIDE // 32) ** 2, 192), torch.nn.SiLU())
        self.labels = torch.nn.ModuleDict({name: torch.nn.Linear(192, len(values)) for name, values in CATEGORICAL.items()})
        self.numbers = torch.nn.Linear(192, len(CONTINUOUS))
        self.identity = torch.nn.Linear(192, len(IDENTITY))

    def forward(self, images: torch.Tensor) -> tuple[dict[str, torch.Tensor], torch.Tensor, torch.Tensor]:
        """images: (b, 3, h, w) in [-1, 1], of 128 or 256 pixels; logits by label, numbers (b, n), identity (b, m)."""
        if images.shape[-1] != SIDE:
            images = F.interpolate(images, (SIDE, SIDE), mode="area")
        features = self.features(self.blocks(self.stem(images)).flatten(1))
        return {name: head(features) for name, head in self.labels.items()}, self.numbers(features), self.identity(features)

    @torch.no_grad()
    def read(self, images: torch.Tensor, batch: int = 256) -> dict[str, torch.Tensor]:
        """By name: the index (b,) of a label's likeliest value, or a number (b,); and "identity" (b, parts)."""
        kind, parts = self.stem.weight.dtype, []
        for some in images.split(batch):
            logits, numbers, identity = self(some.to(kind))
            parts.append(
                {name: values.argmax(1) for name, values in logits.items()}
                | {name: numbers[:, i].float() for i, name in enumerate(CONTINUOUS)}
                | {"identity": identity.float()}
            )
        return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def disturbed(images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Slight noise, blur and change of colour, so that generated pictures are read as well as drawn ones."""
    b, device = len(images), images.device

    def amount(high: float, channels: int = 1) -> torch.Tensor:
        return high * torch.rand(b, channels, 1, 1, device=device, generator=generator)

    soft = F.avg_pool2d(F.pad(images, (2, 2, 2, 2), mode="replicate"), 5, 1)
    images = torch.lerp(images, soft, amount(0.7))
    shift = 0.02 * torch.randn(b, 3, 1, 1, device=device, generator=generator)
    return images + shift + amount(0.06) * torch.randn(images.shape, device=device, generator=generator)


class Faces(runs.Pictures):
    """Pictures at the judge's size with all that is known of them."""

    FIELDS = ("labels", "shown", "numbers", "identity", "tokens")

    def __init__(self, store: Store, device: str, limit: int, at_least: int = 2_000):
        self.small = torch.empty(min(limit, store.count), 3, SIDE, SIDE, device=device, dtype=torch.uint8)
        super().__init__(store, device, limit, self.FIELDS, at_least)
        self.grow(4_000)

    def grow(self, most: int = 4_000) -> None:
        first = self.count
        super().grow(most)
        for start in range(first, self.count, 500):
            end = min(start + 500, self.count)
            pixels = torch.from_numpy(np.array(self.store.pixels[start:end])).to(self.device).movedim(-1, 1).float()
            self.small[start:end] = F.interpolate(pixels, (SIDE, SIDE), mode="area").round().to(torch.uint8)

    def images(self, chosen: torch.Tensor) -> torch.Tensor:
        return self.small[chosen].float() / 127.5 - 1


def round_trips(store: Store, folder: Path, device: str, count: int, batch: int = 100) -> torch.Tensor:
    """Faces 0 to `count` through the folder's VAE, at the judge's size, uint8 (count, 3, 128, 128); the folder keeps them."""
    path, out = folder / "tripped.npy", [torch.empty(0, 3, SIDE, SIDE, dtype=torch.uint8, device=device)]
    if path.exists() and len(known := np.load(path, mmap_mode="r")) >= count:
        return torch.from_numpy(np.array(known[:count])).to(device)
    model = vae.load(folder, device)
    for start in range(0, count, batch):
        images = runs.as_images(torch.from_numpy(np.array(store.pixels[start : min(start + batch, count)])).to(device))
        with torch.autocast(device, torch.bfloat16, enabled=network.QUICK_BFLOAT16):
            back = vae.decode(model, vae.encode(model, images))
        out.append((F.interpolate(back, (SIDE, SIDE), mode="area") * 127.5 + 127.5).round().to(torch.uint8))
    tripped = torch.cat(out)
    partial = folder / f".tripped.{os.getpid()}.npy"
    np.save(partial, tripped.cpu().numpy())
    partial.replace(path)
    return tripped


def loss_of(judge: Judge, images, labels, shown, numbers, identity) -> torch.Tensor:
    """Cross-entropy of labels and squared errors of numbers and identity, where the picture can show them."""
    logits, guessed, parts = judge(images)
    seen = shown.float()
    named = sum(
        (F.cross_entropy(logits[name].float(), labels[:, i].long(), reduction="none") * seen[:, i]).mean()
        for i, name in enumerate(CATEGORICAL)
    )
    errors = torch.cat([6 * (guessed.float() - numbers).square(), 2 * (parts.float() - identity).square()], 1)
    return named + (errors * seen[:, len(CATEGORICAL) :]).mean(0).sum()


def train(
    store: Store,
    folder: Path,
    plan: runs.Plan,
    device: str,
    batch: int = 256,
    rate: float = 3e-3,
    limit: int = 150_000,
    tripped: int = 12_000,
    begin: Path | None = None,
) -> Path:
    """Train until the plan's end on drawn faces, a third of them as the VAE gives them back; write fp16 weights.

    tripped: how many faces go through the VAE for that; with 0 all are as drawn. begin: a folder with the weights to go on from, if
    any. A run that was stopped goes on from its last state.
    """
    torch.manual_seed(2)
    faces, model = Faces(store, device, limit), (Judge() if begin is None else load(begin).requires_grad_(True).train()).to(device)
    back = round_trips(store, folder, device, min(tripped, faces.count))
    optimiser = torch.optim.AdamW(model.parameters(), rate, weight_decay=0.02, fused=device == "cuda")
    seen = runs.restored(folder / "judge.state", model, optimiser)
    step = seen // batch
    told = time.time()
    while plan.done(seen) < 1:
        generator = runs.generator_for(device, 2, step)
        chosen = faces.choose(generator, batch)
        third = batch // 3 if len(back) else 0
        chosen[:third] %= max(1, len(back))
        images = torch.cat([back[chosen[:third]].float() / 127.5 - 1, faces.images(chosen[third:])])
        with torch.autocast(device, torch.bfloat16, enabled=network.QUICK_BFLOAT16):
            loss = loss_of(model, disturbed(images, generator), *(faces.arrays[name][chosen] for name in faces.FIELDS[:4]))
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 2.0)
        for group in optimiser.param_groups:
            group["lr"] = plan.rate(seen, step, rate)
        optimiser.step()
        step, seen = step + 1, seen + batch
        if step % 20 == 0:
            faces.grow(800)
        if step % 500 == 0:
            runs.keep_state(folder / "judge.state", seen, model, optimiser)
        if time.time() - told > 10 or step == 1:
            told = time.time()
            runs.log(
                folder / "judge.csv",
                step=step,
                seen=seen,
                loss=f"{loss.item():.4f}",
                faces=faces.count,
                seconds=f"{time.time() - plan.start:.0f}",
            )
    print(f"judge: {seen} faces, {seen / (time.time() - plan.start):.0f} a second", flush=True)
    runs.write(folder / FILE, runs.half(model.state_dict()), steps=step)
    return folder / FILE


def load(folder: Path, device: str = "cpu") -> Judge:
    model = Judge()
    tensors, _ = runs.read(folder / FILE)
    model.load_state_dict({name: value.float() for name, value in tensors.items()})
    return model.requires_grad_(False).eval().to(device)


def figures(judge: Judge, store: Store, images: torch.Tensor) -> dict[str, float]:
    """Accuracy of labels and R^2 of numbers and identity on the store's first faces, pictured by `images`, where they show."""
    read, count = judge.read(images), len(images)
    labels, shown, numbers, identity = (torch.from_numpy(np.array(getattr(store, name)[:count])) for name in Faces.FIELDS[:4])
    out = {}
    for i, name in enumerate(CATEGORICAL):
        out[name] = (read[name].cpu() == labels[:, i])[shown[:, i]].float().mean().item()
    for i, name in enumerate(CONTINUOUS):
        seen = shown[:, len(CATEGORICAL) + i]
        out[name] = r_squared(read[name].cpu()[seen], numbers[seen, i])
    for i, name in enumerate(IDENTITY):
        seen = shown[:, len(CATEGORICAL) + len(CONTINUOUS) + i]
        out[f"identity.{name}"] = r_squared(read["identity"][:, i].cpu()[seen], identity[seen, i])
    return out


def r_squared(guessed: torch.Tensor, true: torch.Tensor) -> float:
    return 1 - ((guessed - true).square().mean() / true.var(correction=0)).item()
