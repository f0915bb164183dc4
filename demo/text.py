"""The text encoder, taught before the models that read it: from its pooled embedding, linear heads name what a caption says.

It is frozen afterwards: through a diffusion model it would learn slowly, as most of what reaches it there is noise.
"""

from __future__ import annotations

import time
from pathlib import Path

import torch
import torch.nn.functional as F

from . import network, runs
from .data import Store
from .faces import CATEGORICAL, CONTINUOUS

FILE = "text.safetensors"


class Heads(torch.nn.Module):
    """What a caption says: a value or nothing for each label; whether a number is said, and which."""

    def __init__(self, width: int):
        super().__init__()
        self.labels = torch.nn.ModuleDict({name: torch.nn.Linear(width, len(values) + 1) for name, values in CATEGORICAL.items()})
        self.numbers = torch.nn.Linear(width, 2 * len(CONTINUOUS))

    def loss(self, pooled: torch.Tensor, said_labels: torch.Tensor, said_numbers: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        named = [F.cross_entropy(head(pooled), said_labels[:, i].long()) for i, head in enumerate(self.labels.values())]
        values, whether = self.numbers(pooled).chunk(2, 1)
        said = said_numbers.isfinite()
        error = (values - said_numbers.nan_to_num()).square()[said].mean()
        return sum(named) + F.binary_cross_entropy_with_logits(whether, said.float()) * len(CONTINUOUS), error * len(CONTINUOUS)

    @torch.no_grad()
    def accuracy(self, pooled: torch.Tensor, said_labels: torch.Tensor, said_numbers: torch.Tensor) -> tuple[float, float]:
        """The share of labels understood, and the mean absolute error of the numbers that were said."""
        right = torch.stack([head(pooled).argmax(1) == said_labels[:, i] for i, head in enumerate(self.labels.values())])
        error = (self.numbers(pooled).chunk(2, 1)[0] - said_numbers)[said_numbers.isfinite()].abs().mean()
        return right.float().mean().item(), error.item()


def train(
    store: Store, unseen: Store, folder: Path, plan: runs.Plan, device: str, batch: int = 512, rate: float = 2e-3, limit: int = 200_000
) -> Path:
    """Teach the encoder on each face's first caption until the plan's end; write fp16 weights and what it understands."""
    torch.manual_seed(5)
    model = network.text_model().to(device)
    heads = Heads(model.text_projection.weight.shape[0]).to(device)
    trained = [*model.text_model.parameters(), *heads.parameters()]
    optimiser = torch.optim.AdamW(trained, rate, (0.9, 0.98), weight_decay=0.01, fused=device == "cuda")
    captions = runs.Pictures(store, device, limit, ("tokens", "said_labels", "said_numbers"))
    step = seen = 0
    told = time.time()
    while plan.done(seen) < 1:
        chosen = captions.choose(runs.generator_for(device, 5, step), batch)
        tokens, labels, numbers = (captions.arrays[name][chosen] for name in captions.fields)
        named, error = heads.loss(model.encode(tokens[:, 0].long())[1], labels, numbers)
        optimiser.zero_grad(set_to_none=True)
        (named + error).backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        for group in optimiser.param_groups:
            group["lr"] = plan.rate(seen, step, rate)
        optimiser.step()
        step, seen = step + 1, seen + batch
        if step % 50 == 0:
            captions.grow(10_000)
        if time.time() - told > 5 or step == 1:
            told = time.time()
            runs.log(
                folder / "text.csv",
                step=step,
                seen=seen,
                named=f"{named.item():.4f}",
                numbers=f"{error.item():.4f}",
                captions=captions.count,
                seconds=f"{time.time() - plan.start:.0f}",
            )
    test = runs.Pictures(unseen, device, 2_000, captions.fields)
    tokens, labels, numbers = test.arrays.values()
    with torch.no_grad():
        right, off = heads.accuracy(model.encode(tokens[:, 0].long())[1], labels, numbers)
    print(
        f"text: {right:.2%} of labels understood in unseen captions, numbers off by {off:.3f}; "
        f"{seen / (time.time() - plan.start):.0f} a second",
        flush=True,
    )
    runs.write(folder / FILE, runs.half(model.state_dict()), steps=step, understood=right, numbers_off=off)
    return folder / FILE


def load(folder: Path, device: str = "cpu") -> network.TextModel:
    model = network.text_model()
    tensors, _ = runs.read(folder / FILE)
    model.load_state_dict({name: value.float() for name, value in tensors.items()})
    return model.requires_grad_(False).eval().to(device)
