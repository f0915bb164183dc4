"""Train the demo model: its UNet and text encoder on drawn faces, the attribute classifier that judges them, and the scorer.

`make demo-model` runs it; it goes on from its last checkpoint (`demo/.cache`) when it was stopped, and ends with the
weights in `demo/weights` and `demo/judges`, the log in `demo/training.csv`. On a GPU it uses the GPU. `--out` chooses
another folder than `demo`, `--smallest` goes through all of it in seconds.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import json
import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from tqdm import tqdm

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [os.environ["COMFYUI"], str(ROOT)]
from bench.sizes import parsed, size  # noqa: E402

PARSER = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
PARSER.add_argument("part", choices=["all", "diffusion", "classifier", "scorer"], nargs="?", default="all")
PARSER.add_argument("--seconds-between-saves", type=float, default=120.0)
OPTIONS = parsed(PARSER, ROOT / "demo")  # before the host, which parses the command line when it is imported
from comfy.cli_args import args as host_args  # noqa: E402

host_args.cpu = not torch.cuda.is_available()
import comfy.ldm.modules.attention  # noqa: E402
import comfy.ops  # noqa: E402
from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel  # noqa: E402

from demo import classifier, faces, prompts, scorer  # noqa: E402
from demo.family import MAX_TOKENS, TEXT_CONFIG, UNET_CONFIG, DemoFaces, PixelLatents, TextModel  # noqa: E402

CACHE, WEIGHTS, JUDGES, LOG = (OPTIONS.out / name for name in (".cache", "weights", "judges", "training.csv"))


@dataclass(frozen=True)
class Stage:
    """A span of training at one picture size; `samples` counts pictures seen."""

    size: int
    samples: int
    batch: int
    rate: float


@dataclass(frozen=True)
class Recipe:
    stages: tuple[Stage, ...] = (Stage(faces.SIZE, size(200_000, 8), size(32, 4), 5e-3),)
    faces: int = size(60_000, 8)
    seed: int = 1
    text_steps: int = size(1_000, 1)
    empty_prompts: float = 0.1
    cooldown: float = 0.4  # the last part of the last stage, over which the learning rate falls to zero
    ema: float = 0.999
    high_noise: float = 0.65  # share of pictures drawn from the noisier half of the schedule, beside the uniform rest
    face_weight: float = 2.0  # of the loss over the face, in units of the corners'
    mouth_weight: float = 8.0  # added to it over the mouth

    @property
    def total(self) -> int:
        return sum(stage.samples for stage in self.stages)

    def stage_at(self, seen: int) -> Stage:
        for stage in self.stages:
            if seen < stage.samples:
                return stage
            seen -= stage.samples
        return self.stages[-1]

    def rate_at(self, seen: int) -> float:
        last = self.stages[-1].samples * self.cooldown
        return self.stage_at(seen).rate * min(1.0, seen / 4_000, max(0.0, (self.total - seen) / last))


class DemoNetwork(torch.nn.Module):
    """The UNet and the text encoder, in the host's own classes, named by the checkpoint's key prefixes."""

    def __init__(self):
        super().__init__()
        operations = comfy.ops.disable_weight_init
        self.unet = UNetModel(**UNET_CONFIG, operations=operations)
        self.text = TextModel(TEXT_CONFIG, torch.float32, "cpu", operations)
        self.apply(_initialise)
        for name, parameter in self.unet.named_parameters():  # residual branches start at zero
            if name.startswith("out.2") or ".out_layers.3." in name or ".proj_out." in name:
                torch.nn.init.zeros_(parameter)
        torch.nn.init.eye_(self.text.text_projection.weight)
        self.text.requires_grad_(False)

    def encode(self, captions: list[str]) -> tuple[torch.Tensor, torch.Tensor]:
        """Context (b, tokens, width) and pooled (b, width): the host's text transformer, without its in-place sums."""
        ids, ends = zip(*(padded_ids(caption) for caption in captions))
        text, device = self.text.text_model, next(self.parameters()).device
        x = text.embeddings(torch.tensor(ids, device=device))
        causal = torch.full((MAX_TOKENS, MAX_TOKENS), -torch.finfo(x.dtype).max, device=device).triu_(1)
        attention = comfy.ldm.modules.attention.attention_basic
        for layer in text.encoder.layers:
            x = x + layer.self_attn(layer.layer_norm1(x), causal, attention)
            x = x + layer.mlp(layer.layer_norm2(x))
        x = text.final_layer_norm(x)
        return x, x[torch.arange(len(ends), device=device), list(ends)]

    def checkpoint(self) -> dict[str, torch.Tensor]:
        """Weights in Stable Diffusion's key layout, fp16, with the mark of the host's pixel-space VAE."""
        prefixes = {"unet.": "model.diffusion_model.", "text.": "cond_stage_model.transformer."}
        weights = {prefixes[k[:5]] + k[5:]: v for k, v in self.state_dict().items()}
        weights["first_stage_model.pixel_space_vae"] = torch.tensor(1.0)
        return {k: v.half().contiguous() for k, v in weights.items()}


def _initialise(module: torch.nn.Module) -> None:
    if isinstance(module, (torch.nn.Linear, torch.nn.Conv2d)):
        torch.nn.init.kaiming_uniform_(module.weight, a=5**0.5)
        if module.bias is not None:
            torch.nn.init.zeros_(module.bias)
    elif isinstance(module, torch.nn.Embedding):
        torch.nn.init.normal_(module.weight, std=0.1)
    elif isinstance(module, (torch.nn.GroupNorm, torch.nn.LayerNorm)):
        torch.nn.init.ones_(module.weight)
        torch.nn.init.zeros_(module.bias)


def padded_ids(caption: str) -> tuple[list[int], int]:
    """Token ids padded as the host pads them, and the position of the end token."""
    ids = [prompts.START, *prompts.words_to_ids(caption)[: MAX_TOKENS - 2], prompts.END]
    return ids + [prompts.END] * (MAX_TOKENS - len(ids)), len(ids) - 1


class Pictures:
    """All training faces, drawn once and kept in the cache; a batch is picked by the step's own random numbers."""

    def __init__(self, count: int, seed: int):
        rng = np.random.default_rng(seed)
        self.faces = [faces.sample_face(rng) for _ in range(count)]
        drawing = hashlib.sha256(Path(faces.__file__).read_bytes()).hexdigest()[:12]
        path = CACHE / f"faces-{count}-{seed}-{drawing}.npy"
        if not path.exists():
            CACHE.mkdir(exist_ok=True)
            drawn = np.stack([faces.render(face) for face in tqdm(self.faces, "drawing faces", leave=False)])
            np.save(path.with_suffix(".partial.npy"), drawn)
            path.with_suffix(".partial.npy").replace(path)
        self.pixels = np.load(path, mmap_mode="r")

    def batch(self, rng: np.random.Generator, count: int, size: int) -> tuple[torch.Tensor, list[faces.Face]]:
        """Pictures (b, 3, size, size) in [-1, 1] and their faces, half of them mirrored."""
        chosen, flips = rng.integers(len(self.faces), size=count), rng.random(count) < 0.5
        pixels = np.stack([self.pixels[i][:, ::-1] if flip else self.pixels[i] for i, flip in zip(chosen, flips)])
        shown = [faces.mirrored(self.faces[i]) if flip else self.faces[i] for i, flip in zip(chosen, flips)]
        images = torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 127.5 - 1
        return F.interpolate(images, size, mode="area") if size != images.shape[-1] else images, shown


def noise_schedule() -> torch.Tensor:
    """alpha-bar (1000,) of the schedule that the host builds from the family's sampling settings."""
    end = DemoFaces.sampling_settings["linear_end"]
    betas = torch.linspace(0.00085**0.5, end**0.5, 1000, dtype=torch.float64) ** 2
    return (1 - betas).cumprod(0).float()


def face_weights(size: int, recipe: Recipe) -> torch.Tensor:
    """Loss weights (size, size) of mean 1, higher over the face and highest over the mouth, few pixels that say much.

    The minimiser of a squared error does not depend on them; how soon it is reached for small parts does.
    """
    y, x = torch.meshgrid(*[(torch.arange(size) + 0.5) * 2 / size - 1] * 2, indexing="ij")
    face, mouth = torch.exp(-((x / 0.5) ** 2) - ((y - 0.22) / 0.5) ** 2), torch.exp(-((x / 0.4) ** 2) - ((y - 0.48) / 0.22) ** 2)
    weights = 1 + (recipe.face_weight - 1) * face + recipe.mouth_weight * mouth
    return weights / weights.mean()


def loss_of(network: DemoNetwork, images, captions, alpha_bar, generator, recipe: Recipe) -> torch.Tensor:
    """v-prediction loss (Salimans & Ho 2022), all noise levels weighted alike.

    Prompts decide at high noise, where min-SNR weights (Hang et al. 2023) vanish: with them the model did not listen.
    """
    x0 = images * PixelLatents.scale_factor
    lowest = 500 * (torch.rand(len(x0), generator=generator) < recipe.high_noise)
    t = (lowest + (1000 - lowest) * torch.rand(len(x0), generator=generator)).long()
    noise = torch.randn(x0.shape, generator=generator)
    x0, noise, t = (v.to(alpha_bar.device) for v in (x0, noise, t))
    a = alpha_bar[t].view(-1, 1, 1, 1)
    context, _ = network.encode(captions)
    with torch.autocast(alpha_bar.device.type, torch.bfloat16):
        v = network.unet(a.sqrt() * x0 + (1 - a).sqrt() * noise, t.float(), context=context)
    error = v.float() - (a.sqrt() * noise - (1 - a).sqrt() * x0)
    return (error.square() * face_weights(images.shape[-1], recipe).to(error.device)).mean()


class Optimiser:
    """Muon (Jordan et al. 2024) for the UNet's matrices and convolutions, AdamW for its biases, norms and last layer.

    Measured on two CPU cores at equal time, Muon reached in 5 minutes the loss that AdamW alone reached in 10.
    """

    def __init__(self, unet: UNetModel):
        matrices = {name: p for name, p in unet.named_parameters() if p.ndim > 1 and not name.startswith("out.2")}
        self.matrices = list(matrices.values())
        self.flat = [torch.nn.Parameter(p.data.flatten(1)) for p in self.matrices]  # the same memory; Muon takes matrices only
        others = [p for name, p in unet.named_parameters() if name not in matrices]
        self.parts = {
            "muon": torch.optim.Muon(self.flat, weight_decay=0.01, adjust_lr_fn="match_rms_adamw"),
            "adamw": torch.optim.AdamW(others, weight_decay=0.01),
        }

    def step(self, rate: float) -> None:
        for flat, matrix in zip(self.flat, self.matrices, strict=True):
            flat.grad = matrix.grad.flatten(1)
        for part in self.parts.values():
            for group in part.param_groups:
                group["lr"] = rate
            part.step()

    def state(self) -> dict[str, torch.Tensor]:
        """Every state tensor, named part.parameter.what."""
        return {
            f"{name}.{i}.{key}": value
            for name, part in self.parts.items()
            for i, state in part.state_dict()["state"].items()
            for key, value in state.items()
        }

    def restore(self, tensors: dict[str, torch.Tensor]) -> None:
        for name, part in self.parts.items():
            state: dict[int, dict[str, torch.Tensor]] = {}
            for key in (key for key in tensors if key.startswith(f"{name}.")):
                _, index, what = key.split(".")
                state.setdefault(int(index), {})[what] = tensors[key]
            part.load_state_dict({**part.state_dict(), "state": state})


class Training:
    """The state of a run: network, average, optimiser and count; saved and restored whole."""

    def __init__(self, recipe: Recipe, device: str):
        torch.manual_seed(recipe.seed)
        self.recipe, self.device = recipe, device
        self.network, self.average = DemoNetwork().to(device), DemoNetwork().to(device)
        self.average.load_state_dict(self.network.state_dict())
        self.trained = [p for p in self.network.parameters() if p.requires_grad]
        self.optimiser = Optimiser(self.network.unet)
        self.alpha_bar = noise_schedule().to(device)
        self.seen = self.step = 0

    def advance(self, pictures: Pictures) -> float:
        """One optimiser step; its randomness depends on the seed and the step alone, so that a resumed run is the same."""
        recipe, stage = self.recipe, self.recipe.stage_at(self.seen)
        rng = np.random.default_rng([recipe.seed, self.step])
        images, shown = pictures.batch(rng, stage.batch, stage.size)
        captions = ["" if rng.random() < recipe.empty_prompts else prompts.caption(face, rng) for face in shown]
        generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
        loss = loss_of(self.network, images, captions, self.alpha_bar, generator, recipe)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.trained, 1.0)
        self.optimiser.step(recipe.rate_at(self.seen))
        self.network.zero_grad()
        self.step, self.seen = self.step + 1, self.seen + stage.batch
        self._update_average()
        return loss.item()

    @torch.no_grad()
    def _update_average(self) -> None:
        decay = min(self.recipe.ema, (1 + self.step) / (10 + self.step))
        torch._foreach_lerp_(list(self.average.parameters()), list(self.network.parameters()), 1 - decay)

    def teach_text(self, pictures: Pictures, batch: int = 128) -> None:
        """Train the text encoder by itself, before the UNet: from its pooled embedding, linear heads name what a caption says.

        It is frozen afterwards. Trained through the UNet instead, it learns nothing in 55 000 faces, and what it was
        taught drifts away: the gradients that reach it are mostly noise.
        """
        heads = torch.nn.ModuleDict({k: torch.nn.Linear(TEXT_CONFIG["hidden_size"], len(v) + 1) for k, v in faces.ATTRIBUTES.items()})
        heads.to(self.device)
        self.network.text.text_model.requires_grad_(True)
        optimiser = torch.optim.AdamW([*self.network.text.text_model.parameters(), *heads.parameters()], lr=1e-3)
        bar = tqdm(range(self.recipe.text_steps), "text encoder", mininterval=5)
        for step in bar:
            rng = np.random.default_rng([self.recipe.seed, 7, step])
            shown = [pictures.faces[i] for i in rng.integers(len(pictures.faces), size=batch)]
            captions = [prompts.caption(face, rng) for face in shown]
            _, pooled = self.network.encode(captions)
            said = prompts.said_in(captions)
            loss = sum(F.cross_entropy(head(pooled), said[name].to(self.device)) for name, head in heads.items())
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            bar.set_postfix(loss=f"{loss.item():.3f}")
        self.network.text.requires_grad_(False)
        self.average.load_state_dict(self.network.state_dict())

    def save(self, path: Path) -> None:
        tensors = {f"network.{k}": v for k, v in self.network.state_dict().items()}
        tensors |= {f"average.{k}": v for k, v in self.average.state_dict().items()}
        tensors |= {f"optimiser.{k}": v for k, v in self.optimiser.state().items()}
        partial = path.with_suffix(".partial")
        save_file({k: v.contiguous() for k, v in tensors.items()}, partial, {"seen": str(self.seen), "step": str(self.step)})
        partial.replace(path)

    def restore(self, path: Path) -> None:
        with safe_open(path, "pt") as file:
            tensors = {k: file.get_tensor(k) for k in file.keys()}
            self.seen, self.step = (int(file.metadata()[k]) for k in ("seen", "step"))
        for name in ("network", "average"):
            getattr(self, name).load_state_dict({k[8:]: v for k, v in tensors.items() if k.startswith(name)})
        self.optimiser.restore({k[10:]: v for k, v in tensors.items() if k.startswith("optimiser.")})


def write_weights(training: Training) -> None:
    WEIGHTS.mkdir(exist_ok=True)
    card = {
        "format": "pt",
        "modelspec.title": "Semantic Latents demo faces",
        "samples_seen": str(training.seen),
        "recipe": json.dumps(training.recipe, default=vars),
    }
    save_file(training.average.checkpoint(), WEIGHTS / "semantic_latents_demo.safetensors", card)


def train_diffusion(recipe: Recipe, device: str, save_every: float = 120.0) -> None:
    training, path = Training(recipe, device), CACHE / "training.safetensors"
    CACHE.mkdir(exist_ok=True)
    pictures = Pictures(recipe.faces, recipe.seed)
    if path.exists():
        training.restore(path)
    else:
        training.teach_text(pictures)
    bar = tqdm(total=recipe.total, initial=training.seen, desc="training", unit="face", mininterval=5)
    losses, saved, started = [], time.time(), time.time()
    while training.seen < recipe.total:
        before = training.seen
        losses.append(training.advance(pictures))
        bar.update(training.seen - before)
        if time.time() - saved > save_every or training.seen >= recipe.total:
            training.save(path)
            write_weights(training)
            log_row(training, sum(losses) / len(losses), time.time() - saved)
            bar.set_postfix(loss=f"{sum(losses) / len(losses):.4f}")
            losses, saved = [], time.time()
    print(f"trained {training.seen} faces; this call took {(time.time() - started) / 60:.0f} minutes")


def log_row(training: Training, loss: float, seconds: float) -> None:
    fresh = not LOG.exists()
    with LOG.open("a", newline="") as file:
        rows = csv.writer(file)
        if fresh:
            rows.writerow(["step", "faces_seen", "size", "learning_rate", "loss", "seconds"])
        rate, size = training.recipe.rate_at(training.seen), training.recipe.stage_at(training.seen).size
        rows.writerow([training.step, training.seen, size, f"{rate:.2e}", f"{loss:.5f}", f"{seconds:.0f}"])


def main() -> None:
    recipe, device = Recipe(), "cuda" if torch.cuda.is_available() else "cpu"
    few = size({}, {"steps": 2, "batch": 4})
    if OPTIONS.part in ("all", "diffusion"):
        train_diffusion(recipe, device, OPTIONS.seconds_between_saves)
    if OPTIONS.part in ("all", "classifier"):
        classifier.train(Pictures(recipe.faces, recipe.seed), JUDGES, device, **few)
    if OPTIONS.part in ("all", "scorer"):
        scorer.train(Pictures(recipe.faces, recipe.seed), text_encoder(device), JUDGES, device, **few)


def text_encoder(device: str):
    """The written weights' text encoder: captions to pooled embeddings (b, width)."""
    network, prefix = DemoNetwork(), "cond_stage_model.transformer."
    weights = load_file(WEIGHTS / "semantic_latents_demo.safetensors")
    network.text.load_state_dict({key.removeprefix(prefix): value for key, value in weights.items() if key.startswith(prefix)})
    network.to(device)
    return lambda captions: network.encode(captions)[1]


if __name__ == "__main__":
    main()
