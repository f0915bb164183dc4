"""The demo model's image-text scorer: a small vision transformer in the host's own CLIP class, beside the demo's text encoder.

Trained like CLIP (Radford et al. 2021): a picture's embedding is drawn to the text encoder's pooled embedding of its
caption, away from those of other captions; meanwhile linear heads, dropped afterwards, name its attributes. The text
encoder is the demo model's own and stays as it is.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from tqdm import tqdm

from . import prompts
from .classifier import disturbed, targets_of
from .faces import ATTRIBUTES, SIZE

FILE, CONFIG = "semantic_latents_demo_scorer.safetensors", "semantic_latents_demo_scorer.json"


def load(folder: Path):
    """The host's CLIP_VISION object of the scorer."""
    import comfy.clip_vision
    import comfy.utils

    scorer = comfy.clip_vision.ClipVisionModel(str(folder / CONFIG))
    scorer.load_sd(comfy.utils.load_torch_file(str(folder / FILE), safe_load=True))
    return scorer


def text_tower(weights: Path):
    """The host's CLIP object of the text encoder in the demo checkpoint, a file in this folder."""
    import comfy.sd

    (checkpoint,) = weights.glob("*.safetensors")
    return comfy.sd.load_checkpoint_guess_config(str(checkpoint), output_vae=False, output_model=False)[1]


def augmented(images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """As the classifier's pictures, and half of them blurred as predictions from much noise are."""
    blurred = images
    for _ in range(3):
        blurred = F.avg_pool2d(F.pad(blurred, (1, 1, 1, 1), mode="replicate"), 3, 1)
    amount = torch.rand(len(images), 1, 1, 1, generator=generator) * (torch.rand(len(images), 1, 1, 1, generator=generator) < 0.5)
    return disturbed(torch.lerp(images, blurred, amount), generator)


def contrast(images: torch.Tensor, texts: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """Symmetric InfoNCE loss of embeddings (b, d) that belong together row by row."""
    logits = scale.exp() * F.normalize(images, dim=1) @ F.normalize(texts, dim=1).T
    own = torch.arange(len(images), device=images.device)
    return (F.cross_entropy(logits, own) + F.cross_entropy(logits.T, own)) / 2


def train(pictures, encode, folder: Path, device: str, steps: int = 700, batch: int = 96, rate: float = 4e-3) -> None:
    """Train on `pictures` (a `Pictures`) and encode(captions) -> pooled (b, width); write fp16 weights to `folder`."""
    import comfy.clip_model
    import comfy.ops
    import numpy as np

    torch.manual_seed(3)
    config = json.loads((Path(__file__).parent / "judges" / CONFIG).read_text())
    model = comfy.clip_model.CLIPVisionModelProjection(config, torch.float32, device, comfy.ops.disable_weight_init)
    for name, weight in model.named_parameters():
        torch.nn.init.normal_(weight, std=0.02) if weight.ndim > 1 else torch.nn.init.constant_(
            weight, float("norm" in name and "weight" in name)
        )
    for module in model.modules():
        if isinstance(module, torch.nn.LayerNorm):  # the host's layers add to their input in place
            module.register_forward_pre_hook(lambda module, args: (args[0].clone(),))
    scale, generator = torch.nn.Parameter(torch.tensor(2.0, device=device)), torch.Generator().manual_seed(3)
    heads = torch.nn.ModuleDict({name: torch.nn.Linear(config["projection_dim"], len(v)) for name, v in ATTRIBUTES.items()}).to(device)
    matrices = [weight for name, weight in model.named_parameters() if weight.ndim == 2 and "embedding" not in name]
    others = [weight for name, weight in model.named_parameters() if weight.ndim != 2 or "embedding" in name]
    optimisers = [
        torch.optim.Muon(matrices, rate, weight_decay=0.02, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW([*others, *heads.parameters(), scale], rate, weight_decay=0.0),
    ]
    schedules = [torch.optim.lr_scheduler.LambdaLR(o, lambda i: min(1.0, (i + 1) / 50, 1.6 * (1 - i / steps))) for o in optimisers]
    bar = tqdm(range(steps), "scorer", mininterval=5)
    for step in bar:
        rng = np.random.default_rng([3, step])
        images, shown = pictures.batch(rng, batch, SIZE)
        with torch.no_grad():
            texts = encode([prompts.caption(face, rng) for face in shown])
        embeddings = model(augmented(images, generator).to(device))[2]
        targets = targets_of(shown)
        named = sum(F.cross_entropy(head(embeddings), targets[name].to(device), ignore_index=-1) for name, head in heads.items())
        loss = contrast(embeddings, texts, scale)
        (loss + named / len(heads)).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for part in (*optimisers, *schedules):
            part.step()
        for part in optimisers:
            part.zero_grad()
        if step % 25 == 0:
            bar.set_postfix(loss=f"{loss.item():.3f}", named=f"{named.item() / len(heads):.3f}")
    save_file(
        {key: value.half().contiguous() for key, value in model.state_dict().items()}, folder / FILE, {"format": "pt", "steps": str(steps)}
    )
