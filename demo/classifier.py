"""The judge of the demo model: which attributes a picture of a face shows."""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from einops import rearrange
from safetensors.torch import load_file, save_file
from tqdm import tqdm

from .faces import ATTRIBUTES, SIZE, Face, hair_is_visible

FILE = "attribute_classifier.safetensors"


class AttributeClassifier(torch.nn.Module):
    """One convolutional trunk, one linear head an attribute; `features` (b, 128) also measure distances."""

    def __init__(self):
        super().__init__()
        layers, channels = [], 3
        for width, stride in ((32, 1), (32, 1), (64, 2), (64, 1), (96, 2), (96, 1), (96, 2)):
            layers += [torch.nn.Conv2d(channels, width, 3, stride, 1), torch.nn.GroupNorm(8, width), torch.nn.SiLU()]
            channels = width
        self.trunk = torch.nn.Sequential(*layers)
        self.features = torch.nn.Sequential(torch.nn.Linear(96 * 16, 128), torch.nn.SiLU())
        self.heads = torch.nn.ModuleDict({name: torch.nn.Linear(128, len(v)) for name, v in ATTRIBUTES.items()})

    def forward(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        """images: (b, 3, 32, 32) in [-1, 1]; logits (b, values) for each attribute."""
        features = self.features(rearrange(self.trunk(images), "b c h w -> b (c h w)"))
        return {name: head(features) for name, head in self.heads.items()}

    @torch.no_grad()
    def label(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        """The most likely value's index (b,) for each attribute."""
        return {name: logits.argmax(1) for name, logits in self(images.float()).items()}


def targets_of(shown: list[Face]) -> dict[str, torch.Tensor]:
    """Label indices (b,); -1 where the picture cannot tell (the hair colour of a bald, shaven head)."""
    out = {name: torch.tensor([v.index(face.labels[name]) for face in shown]) for name, v in ATTRIBUTES.items()}
    out["hair"][torch.tensor([not hair_is_visible(face.labels) for face in shown])] = -1
    return out


def disturbed(images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Slight noise, blur and brightness, so that the judge reads generated pictures as well as drawn ones."""
    b = len(images)
    strength = torch.rand(b, 1, 1, 1, generator=generator)
    soft = F.avg_pool2d(F.pad(images, (1, 1, 1, 1), mode="replicate"), 3, 1)
    images = torch.lerp(images, soft, 0.8 * torch.rand(b, 1, 1, 1, generator=generator))
    shift = 0.08 * torch.randn(b, 3, 1, 1, generator=generator)
    return images + shift + 0.12 * strength * torch.randn(images.shape, generator=generator)


def train(pictures, folder: Path, device: str, steps: int = 1000, batch: int = 128) -> None:
    """Train on `pictures` (a `Pictures`), write fp16 weights to `folder`."""
    import numpy as np

    torch.manual_seed(2)
    model, generator = AttributeClassifier().to(device), torch.Generator().manual_seed(2)
    optimiser = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=0.02)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 2e-3, steps)
    bar = tqdm(range(steps), "classifier", mininterval=5)
    for step in bar:
        images, shown = pictures.batch(np.random.default_rng([2, step]), batch, SIZE)
        targets = targets_of(shown)
        with torch.autocast(device, torch.bfloat16):
            logits = model(disturbed(images, generator).to(device))
        loss = sum(F.cross_entropy(logits[k].float(), targets[k].to(device), ignore_index=-1) for k in targets)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
        if step % 50 == 0:
            bar.set_postfix(loss=f"{loss.item():.3f}")
    folder.mkdir(exist_ok=True)
    save_file({k: v.half().contiguous() for k, v in model.state_dict().items()}, folder / FILE)


def load(folder: Path) -> AttributeClassifier:
    model = AttributeClassifier()
    model.load_state_dict({k: v.float() for k, v in load_file(folder / FILE).items()})
    return model.eval()
