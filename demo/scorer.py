"""The portraits' image-text scorer: a small vision transformer in the host's own CLIP class, beside their text encoder.

Trained like CLIP (Radford et al. 2021): a picture's embedding is drawn to the text encoder's pooled embedding of its
caption, away from those of other captions, and among the plain prompts for an attribute's values to the right one's; meanwhile heads,
dropped afterwards, name its attributes from the embedding, and foretell the judge's inner features, place by place (hints: FitNets,
Romero et al. 2015), as small things like a mouth are learned slowly from a picture's labels alone.
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


class Hints(torch.nn.Module):
    """Foretells the judge's inner features from a vision tower's patches (b, n, width) and pooled output (b, width)."""

    def __init__(self, teacher: judge.Judge, width: int):
        super().__init__()
        self._teacher = [teacher]  # in a list, so that it is no part of what is trained and kept
        fine, coarse, last = (self.targets(torch.zeros(1, 3, judge.SIDE, judge.SIDE))[i].shape[1] for i in range(3))
        self.fine, self.coarse, self.last = (
            torch.nn.Conv2d(width, fine, 1),
            torch.nn.Conv2d(width, coarse, 4, 4),
            torch.nn.Linear(width, last),
        )

    @torch.no_grad()
    def targets(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Features on 16 x 16 and on 4 x 4 places and of the whole picture, each place's of mean 0 and variance 1 over channels."""
        teacher = self._teacher[0]
        x, found = teacher.stem(images), []
        for i, block in enumerate(teacher.blocks):
            x = block(x)
            if i in (5, 9):
                found.append(x)
        found.append(teacher.features(x.flatten(1)))
        return tuple((f - f.mean(1, keepdim=True)) / f.std(1, keepdim=True).clamp(min=1e-3) for f in found)

    def loss(self, patches: torch.Tensor, pooled: torch.Tensor, images: torch.Tensor) -> torch.Tensor:
        """Sum of the three mean squared errors, about 1 each at the start."""
        side = int(patches.shape[1] ** 0.5)
        grid = patches.movedim(1, 2).unflatten(2, (side, side))
        guessed = (self.fine(grid), self.coarse(grid), self.last(pooled))
        return sum(F.mse_loss(guess, target) for guess, target in zip(guessed, self.targets(images)))


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
    """As the judge's pictures, and half of them blurred as predictions from much noise are."""
    blurred, device = images, images.device
    for _ in range(3):
        blurred = F.avg_pool2d(F.avg_pool2d(F.pad(blurred, (3, 3, 3, 3), mode="replicate"), (7, 1), 1), (1, 7), 1)
    amount, half = torch.rand(2, len(images), 1, 1, 1, device=device, generator=generator)
    return judge.disturbed(torch.lerp(images, blurred, amount * (half < 0.5)), generator)


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
    judged: Path | None = None,
) -> Path:
    """Train until the plan's end, a third of the pictures as the VAE gives them back; write fp16 weights.

    begin: a folder with the weights to go on from, if any; judged: the folder of the judge, if it is another. A run that was
    stopped goes on from its last state.
    """
    torch.manual_seed(3)
    faces = judge.Faces(store, device, limit)
    back = judge.round_trips(store, folder, device, min(tripped, faces.count))
    encoder = text.load(folder, device)
    model = (network.scorer() if begin is None else load(begin).requires_grad_(True).train()).to(device)
    width = config.SCORER_CONFIG["projection_dim"]
    heads = naming_heads(width).to(device)
    hints = Hints(judge.load(judged or folder, device), config.SCORER_CONFIG["hidden_size"]).to(device)
    scale = torch.nn.Parameter(torch.tensor(2.5, device=device))
    trained = [*model.parameters(), *heads.parameters(), *hints.parameters(), scale]
    optimiser = torch.optim.AdamW(trained, rate, (0.9, 0.98), weight_decay=0.02, fused=device == "cuda")
    questions = Questions(encoder, device)
    scales = torch.nn.Parameter(torch.full((len(questions.texts),), 4.6, device=device))
    optimiser.add_param_group({"params": [scales]})
    learned = torch.nn.ParameterDict({"scale": scale, "scales": scales})
    seen = runs.restored(folder / "scorer.state", model, heads, hints, learned, optimiser)
    step = seen // batch
    told = time.time()
    while plan.done(seen) < 1:
        generator = runs.generator_for(device, 3, step)
        chosen = faces.choose(generator, batch)
        third = batch // 3 if len(back) else 0
        chosen[:third] %= max(1, len(back))
        which = torch.randint(CAPTIONS, (batch,), generator=generator, device=device)
        images = torch.cat([back[chosen[:third]].float() / 127.5 - 1, faces.images(chosen[third:])])
        with torch.no_grad():
            texts = encoder.encode(faces.arrays["tokens"][chosen, which].long())[1]
        with torch.autocast(device, torch.bfloat16, enabled=network.QUICK_BFLOAT16):
            _, before_last, pooled = model.vision_model(augmented(images, generator), intermediate_output=-2)
            embeddings = model.visual_projection(pooled).float()
        known = [faces.arrays[name][chosen] for name in ("labels", "shown", "numbers")]
        named, hinted = naming_loss(heads, embeddings, *known), hints.loss(before_last[:, 1:].float(), pooled.float(), images)
        loss = contrast(embeddings, texts, scale.clamp(max=4.6))
        chosen_right = questions.loss(embeddings, scales, *known)
        optimiser.zero_grad(set_to_none=True)
        (0.5 * loss + named + hinted + 3 * chosen_right).backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        for group in optimiser.param_groups:
            group["lr"] = plan.rate(seen, step, rate)
        optimiser.step()
        step, seen = step + 1, seen + batch
        if step % 20 == 0:
            faces.grow(800)
        if step % 100 == 0:
            runs.keep_state(folder / "scorer.state", seen, model, heads, hints, learned, optimiser)
        if time.time() - told > 10 or step == 1:
            told = time.time()
            runs.log(
                folder / "scorer.csv",
                step=step,
                seen=seen,
                contrast=f"{loss.item():.3f}",
                named=f"{named.item():.3f}",
                hinted=f"{hinted.item():.3f}",
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
