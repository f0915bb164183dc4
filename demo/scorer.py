"""The portraits' image-text scorer: a small vision transformer in the host's own CLIP class, beside their text encoder.

Trained like CLIP (Radford et al. 2021): a picture's embedding is drawn to the text encoder's pooled embedding of its
caption, away from those of other captions, and among the plain prompts for an attribute's values to the right one's; meanwhile heads,
dropped afterwards, name its attributes from the embedding. Small things like a mouth are learned only if the class token looks there:
it begins with one head for each region of the picture in every layer. From heads that look everywhere alike, smiles stayed at chance.
"""

from __future__ import annotations

import time
from pathlib import Path

import torch
import torch.nn.functional as F

from . import captions, config, judge, network, runs, text
from .data import CAPTIONS, Store, padded
from .faces import CATEGORICAL, CONTINUOUS

FILE = "portrait_scorer.safetensors"
REGIONS, SHARP = 4, 2.0  # a side of the grid of regions that heads look at, and how sharply


def contrast(images: torch.Tensor, texts: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """Symmetric InfoNCE loss of embeddings (b, d) that belong together row by row."""
    logits = scale.exp() * F.normalize(images, dim=1) @ F.normalize(texts, dim=1).T
    own = torch.arange(len(images), device=images.device)
    return (F.cross_entropy(logits, own) + F.cross_entropy(logits.T, own)) / 2


def asked(name: str) -> list[str]:
    """The plain prompts among which an attribute's is chosen: of each value, or of a number's low, middle and high third."""
    if name in CATEGORICAL:
        return [captions.prompt_for(**{name: value}) for value in CATEGORICAL[name]]
    low, high = CONTINUOUS[name]
    return [captions.prompt_for(**{name: low + share * (high - low)}) for share in (0.17, 0.5, 0.83)]


def fresh() -> torch.nn.Module:
    """A scorer to train: in each layer, each head of the class token looks at a region of its own, of 4 x 4 in all.

    The first 16 numbers of a place's embedding name its region, the next one the class token, two more where in the region it lies.
    """
    model, width = network.scorer(), config.SCORER_CONFIG["hidden_size"]
    heads, side = config.SCORER_CONFIG["num_attention_heads"], config.SCORER_CONFIG["image_size"] // config.SCORER_CONFIG["patch_size"]
    vision, known = model.vision_model, REGIONS**2 + 3
    for name, weight in model.named_parameters():
        if weight.ndim > 1 and "embed" not in name:
            torch.nn.init.normal_(weight, std=0.6 / weight.shape[-1] ** 0.5)
    per = side // REGIONS
    code = torch.zeros(side * side + 1, known)
    code[0, REGIONS**2] = 2.0
    for i in range(side * side):
        y, x = divmod(i, side)
        code[1 + i, y // per * REGIONS + x // per] = 1.0
        code[1 + i, -2:] = torch.tensor((y % per, x % per)) / per
    with torch.no_grad():
        vision.embeddings.position_embedding.weight[:, :known] = code
        vision.embeddings.class_embedding[:known] = 0
        vision.embeddings.patch_embedding.weight[:known] = 0
        for layer in vision.encoder.layers:
            attention, first = layer.self_attn, range(0, width, width // heads)
            for head, row in enumerate(first):
                for projection, looks_at in ((attention.q_proj, REGIONS**2), (attention.k_proj, head % REGIONS**2)):
                    projection.weight[row] = 0
                    projection.weight[row, looks_at] = SHARP
    return model


def naming_heads(width: int) -> torch.nn.ModuleDict:
    return torch.nn.ModuleDict(
        {name: torch.nn.Linear(width, len(values)) for name, values in CATEGORICAL.items()}
        | {"numbers": torch.nn.Linear(width, len(CONTINUOUS))}
    )


class Questions:
    """The prompts of each attribute as embeddings (n, d) of the text encoder, and the loss of choosing among them."""

    def __init__(self, encoder, device: str):
        self.texts = {}
        for name in (*CATEGORICAL, *CONTINUOUS):
            tokens = torch.tensor([padded(prompt) for prompt in asked(name)], device=device)
            with torch.no_grad():
                self.texts[name] = F.normalize(encoder.encode(tokens)[1], dim=1)

    def loss(self, embeddings: torch.Tensor, scales: torch.Tensor, labels, shown, numbers) -> torch.Tensor:
        """Mean cross-entropy over attributes, where the picture shows them; scales: the logarithm of each one's temperature."""
        images, losses = F.normalize(embeddings, dim=1), []
        for i, (name, texts) in enumerate(self.texts.items()):
            if name in CATEGORICAL:
                right = labels[:, i].long()
            else:
                low, high = CONTINUOUS[name]
                right = (3 * (numbers[:, i - len(CATEGORICAL)] - low) / (high - low)).long().clamp(0, 2)
            logits = scales[i].clamp(max=5.0).exp() * images @ texts.T
            losses.append((F.cross_entropy(logits, right, reduction="none") * shown[:, i].float()).mean())
        return torch.stack(losses).mean()


def augmented(images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """As the judge's pictures, the first fifth blurred as predictions from much noise are, and all moved by up to 3 pixels."""
    images, device = judge.disturbed(images, generator), images.device
    some, side, far = images[: len(images) // 5], images.shape[-1], 3
    block, dy, dx = (int(n) for n in torch.randint(0, 2 * far + 1, (3,), device=device, generator=generator))
    if len(some):
        coarse = F.interpolate(F.avg_pool2d(some, 4 if block < far else 8), (side, side), mode="bilinear")
        amount = torch.rand(len(some), 1, 1, 1, device=device, generator=generator)
        images = torch.cat([torch.lerp(some, coarse, amount), images[len(some) :]])
    return F.pad(images, (far, far, far, far), mode="replicate")[..., dy : dy + side, dx : dx + side]


def train(
    store: Store,
    folder: Path,
    plan: runs.Plan,
    device: str,
    batch: int = 256,
    rate: float = 2e-3,
    limit: int = 150_000,
    tripped: int = 12_000,
    begin: Path | None = None,
) -> Path:
    """Train until the plan's end, a third of the pictures as the VAE gives them back; write fp16 weights.

    begin: a folder with the weights to go on from, if any. A run that was stopped goes on from its last state.
    """
    torch.manual_seed(3)
    faces = judge.Faces(store, device, limit)
    back = judge.round_trips(store, folder, device, min(tripped, faces.count))
    encoder = text.load(folder, device)
    model = (fresh() if begin is None else load(begin).requires_grad_(True).train()).to(device)
    heads, questions = naming_heads(config.SCORER_CONFIG["projection_dim"]).to(device), Questions(encoder, device)
    learned = torch.nn.ParameterDict(
        {"scale": torch.nn.Parameter(torch.tensor(2.5)), "scales": torch.nn.Parameter(torch.full((len(questions.texts),), 3.0))}
    ).to(device)
    scale, scales = learned["scale"], learned["scales"]
    matrices = [weight for weight in model.parameters() if weight.ndim > 1]
    others = [weight for weight in model.parameters() if weight.ndim <= 1]
    optimiser = torch.optim.AdamW(
        [
            {"params": matrices, "weight_decay": 0.02},
            {"params": [*others, *heads.parameters(), *learned.parameters()], "weight_decay": 0.0},
        ],
        rate,
        (0.9, 0.98),
        fused=device == "cuda",
    )
    told_apart = torch.zeros(())
    seen = runs.restored(folder / "scorer.state", model, heads, learned, optimiser)
    step = seen // batch
    told = time.time()
    while plan.done(seen) < 1:
        generator = runs.generator_for(device, 3, step)
        chosen = faces.choose(generator, batch)
        third = batch // 3 if len(back) else 0
        chosen[:third] %= max(1, len(back))
        which = torch.randint(CAPTIONS, (batch,), generator=generator, device=device)
        images = torch.cat([back[chosen[:third]].float() / 127.5 - 1, faces.images(chosen[third:])])
        with torch.autocast(device, torch.bfloat16, enabled=network.QUICK_BFLOAT16):
            embeddings = model(augmented(images, generator))[2].float()
        known = [faces.arrays[name][chosen] for name in ("labels", "shown", "numbers")]
        named, chosen_right = naming_loss(heads, embeddings, *known), questions.loss(embeddings, scales, *known)
        loss = named + 3 * chosen_right
        if step % 2 == 0:
            with torch.no_grad():
                texts = encoder.encode(faces.arrays["tokens"][chosen, which].long())[1]
            told_apart = contrast(embeddings, texts, scale.clamp(max=4.6))
            loss = loss + 0.5 * told_apart
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for group in optimiser.param_groups:
            group["lr"] = plan.rate(seen, step, rate)
        optimiser.step()
        step, seen = step + 1, seen + batch
        if step % 20 == 0:
            faces.grow(800)
        if step % 100 == 0:
            runs.keep_state(folder / "scorer.state", seen, model, heads, learned, optimiser)
        if time.time() - told > 10 or step == 1:
            told = time.time()
            runs.log(
                folder / "scorer.csv",
                step=step,
                seen=seen,
                contrast=f"{told_apart.item():.3f}",
                named=f"{named.item():.3f}",
                asked=f"{chosen_right.item():.3f}",
                seconds=f"{time.time() - plan.start:.0f}",
            )
    print(f"scorer: {seen} faces, {seen / (time.time() - plan.start):.0f} a second", flush=True)
    runs.write(folder / FILE, runs.half(model.state_dict()), steps=step)
    return folder / FILE


def naming_loss(heads, embeddings, labels, shown, numbers) -> torch.Tensor:
    seen = shown.float()
    named = [
        (F.cross_entropy(heads[name](embeddings), labels[:, i].long(), reduction="none") * seen[:, i]).mean()
        for i, name in enumerate(CATEGORICAL)
    ]
    error = ((heads["numbers"](embeddings) - numbers).square() * seen[:, len(CATEGORICAL) : len(CATEGORICAL) + len(CONTINUOUS)]).mean()
    return sum(named) / len(named) + error


def load(folder: Path, device: str = "cpu"):
    model = network.scorer()
    tensors, _ = runs.read(folder / FILE)
    model.load_state_dict({name: value.float() for name, value in tensors.items()})
    return model.requires_grad_(False).eval().to(device)


@torch.no_grad()
def choices(model, encoder, images: torch.Tensor, prompts: list[str]) -> torch.Tensor:
    """For each picture (b, 3, h, w) in [-1, 1], the index of the prompt whose embedding is nearest."""
    tokens = torch.tensor([padded(prompt) for prompt in prompts], device=images.device)
    texts = F.normalize(encoder.encode(tokens)[1], dim=1)
    side = config.SCORER_CONFIG["image_size"]
    embeddings = torch.cat([model(F.interpolate(some, (side, side), mode="area"))[2] for some in images.split(256)])
    return (F.normalize(embeddings, dim=1) @ texts.T).argmax(1)
