"""Train the two models that draw: the latent diffusion UNet and the flow-matching transformer, on precomputed latents."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import torch

from . import config, network, runs, text
from .data import CAPTIONS, Store, padded
from .optimiser import Optimiser


@dataclass(frozen=True)
class Recipe:
    batch: int = 256
    rate: float = 5e-3
    seed: int = 1
    empty_prompts: float = 0.1
    high_noise: float = 0.3  # share of the UNet's pictures drawn from the noisier half of the schedule, beside the uniform rest
    ema: float = 0.999
    face_weight: float = 2.0  # of the loss over the face, in units of the corners'
    mouth_weight: float = 1.5  # added to it over the mouth, few cells that say much
    limit: int = 400_000  # latents on the device


RECIPES = {"unet": Recipe(), "dit": Recipe(rate=4e-3)}
FILES = {"unet": "portrait_unet.safetensors", "dit": "portrait_dit.safetensors"}


def face_weights(recipe: Recipe) -> torch.Tensor:
    """Loss weights (32, 32) of mean 1, higher over face and mouth. A squared error's minimiser does not depend on them."""
    y, x = torch.meshgrid(*[(torch.arange(config.LATENT_SIZE) + 0.5) * 2 / config.LATENT_SIZE - 1] * 2, indexing="ij")
    face, mouth = torch.exp(-((x / 0.5) ** 2) - ((y - 0.13) / 0.55) ** 2), torch.exp(-((x / 0.3) ** 2) - ((y - 0.4) / 0.2) ** 2)
    weights = 1 + (recipe.face_weight - 1) * face + recipe.mouth_weight * mouth
    return weights / weights.mean()


class UNet:
    """v-prediction (Salimans & Ho 2022), all noise levels weighted alike: prompts decide at high noise."""

    plain = ("input_blocks.0.", "out.2.", "time_embed.")

    def __init__(self, recipe: Recipe, device: str):
        self.recipe, self.alpha_bar = recipe, network.alpha_bar().to(device)
        self.network = network.unet().to(device)

    def predict(self, x, t, context, pooled) -> torch.Tensor:
        """t: (b,), steps of the schedule, 0 to 999."""
        kind = next(self.network.parameters()).dtype
        return self.network(x.to(kind), t.float(), context=context.to(kind)).float()

    def loss(self, latents, context, pooled, generator) -> torch.Tensor:
        """The loss (b, 4, 32, 32)."""
        b, device = len(latents), latents.device
        low = 500 * (torch.rand(b, generator=generator, device=device) < self.recipe.high_noise)
        t = (low + (1000 - low) * torch.rand(b, generator=generator, device=device)).long()
        noise = torch.randn(latents.shape, generator=generator, device=device)
        a = self.alpha_bar[t].view(-1, 1, 1, 1)
        v = self.predict(a.sqrt() * latents + (1 - a).sqrt() * noise, t, context, pooled)
        return (v - (a.sqrt() * noise - (1 - a).sqrt() * latents)).square()

    @torch.no_grad()
    def sample(self, noise, context, pooled, empty, steps: int = 20, cfg: float = 3.0) -> torch.Tensor:
        """DDIM without noise (Song et al. 2021); `empty` is the context and pooled embedding of no prompt."""
        times, x = torch.linspace(999, 0, steps, device=noise.device).round().long(), noise
        alphas = torch.cat([self.alpha_bar[times], self.alpha_bar.new_ones(1)])
        for t, a, b in zip(times, alphas, alphas[1:]):
            v = guided(self, x, t.expand(len(x)), context, pooled, empty, cfg)
            clean, eps = a.sqrt() * x - (1 - a).sqrt() * v, (1 - a).sqrt() * x + a.sqrt() * v
            x = b.sqrt() * clean + (1 - b).sqrt() * eps
        return x


class Transformer:
    """Flow matching with the host's shift of noise levels."""

    plain = ("img_in.", "txt_in.", "time_in.", "vector_in.", "final_layer.")

    def __init__(self, recipe: Recipe, device: str):
        self.recipe, self.network = recipe, network.transformer().to(device)

    def predict(self, x, sigma, context, pooled) -> torch.Tensor:
        """sigma: (b,), noise levels 0 to 1."""
        kind = next(self.network.parameters()).dtype
        with network.in_training():
            return self.network(x.to(kind), sigma.float(), context.to(kind), pooled.to(kind)).float()

    def loss(self, latents, context, pooled, generator) -> torch.Tensor:
        sigma = network.shifted(torch.rand(len(latents), generator=generator, device=latents.device))
        noise = torch.randn(latents.shape, generator=generator, device=latents.device)
        s = sigma.view(-1, 1, 1, 1)
        v = self.predict(torch.lerp(latents, noise, s), sigma, context, pooled)
        return (v - (noise - latents)).square()

    @torch.no_grad()
    def sample(self, noise, context, pooled, empty, steps: int = 20, cfg: float = 3.0) -> torch.Tensor:
        """Euler steps from noise to latents."""
        sigmas, x = network.shifted(torch.linspace(1, 0, steps + 1, device=noise.device)), noise
        for sigma, following in pairwise(sigmas):
            x = x + (following - sigma) * guided(self, x, sigma.expand(len(x)), context, pooled, empty, cfg)
        return x


KINDS = {"unet": UNet, "dit": Transformer}


def guided(model, x, t, context, pooled, empty, cfg: float) -> torch.Tensor:
    """Classifier-free guidance in one pass of twice the batch."""
    both = torch.cat([context, empty[0].expand_as(context)]), torch.cat([pooled, empty[1].expand_as(pooled)])
    with_prompt, without = model.predict(torch.cat([x, x]), torch.cat([t, t]), *both).chunk(2)
    return without + cfg * (with_prompt - without)


def empty_prompt(encoder, device: str) -> tuple[torch.Tensor, torch.Tensor]:
    with torch.no_grad():
        return encoder.encode(torch.tensor([padded("")], device=device))


def train(
    kind: str,
    store: Store,
    folder: Path,
    plan: runs.Plan,
    device: str,
    recipe: Recipe | None = None,
    save_every: float = 45.0,
    state_every: float = 60.0,
    at_least: int = 20_000,
) -> Path:
    """Train until the plan's end; the averaged weights in fp16 are written every `save_every` seconds and at the end.

    Goes on from `<kind>_state.safetensors` in the folder when there is one.
    """
    recipe = recipe or RECIPES[kind]
    torch.manual_seed(recipe.seed)
    model, encoder = KINDS[kind](recipe, device), text.load(folder, device)
    optimiser = Optimiser(model.network, model.plain, network.PRECISION, ema=recipe.ema)
    state, step, seen = folder / f"{kind}_state.safetensors", 0, 0
    if state.exists():
        tensors, counts = runs.read(state)
        step, seen = int(counts["step"]), int(counts["seen"])
        optimiser.restore(tensors, step)
        print(f"{kind}: goes on from step {step}", flush=True)
    latents = runs.Latents(store, device, recipe.limit, at_least)
    weights, empty = face_weights(recipe).to(device), torch.tensor(padded(""), device=device)
    begun, told, since, losses = time.time(), time.time(), seen, []
    saved = kept = begun
    while plan.done(seen) < 1:
        generator = runs.generator_for(device, recipe.seed, step)
        chosen = latents.choose(generator, recipe.batch)
        which = torch.randint(CAPTIONS, (recipe.batch,), generator=generator, device=device)
        tokens = latents.arrays["tokens"][chosen, which].long()
        silent = torch.rand(recipe.batch, generator=generator, device=device) < recipe.empty_prompts
        with torch.no_grad():
            context, pooled = encoder.encode(torch.where(silent[:, None], empty, tokens))
        loss = (model.loss(latents.arrays["latents"][chosen].float(), context, pooled, generator) * weights).mean()
        loss.backward()
        optimiser.step(plan.rate(seen, step, recipe.rate))
        losses.append(loss.detach())
        step, seen = step + 1, seen + recipe.batch
        if step % 50 == 0:
            latents.grow(20_000)
        now = time.time()
        if now - told > 10 or step == 1:
            mean = torch.stack(losses).mean().item()
            runs.log(
                folder / f"{kind}.csv",
                step=step,
                seen=seen,
                loss=f"{mean:.4f}",
                rate=f"{plan.rate(seen, step, recipe.rate):.1e}",
                faces=latents.count,
                a_second=f"{(seen - since) / (now - told):.0f}",
                seconds=f"{now - plan.start:.0f}",
            )
            if not math.isfinite(mean):
                raise FloatingPointError(f"{kind}: the loss is not a number at step {step}")
            told, since, losses = now, seen, []
            if now - saved > save_every:
                saved = now
                save(kind, optimiser, folder, seen)
            if now - kept > state_every:
                kept = now
                runs.write(state, optimiser.state(), step=step, seen=seen)
    print(f"{kind}: {seen} samples, {seen / (time.time() - begun):.0f} a second", flush=True)
    save(kind, optimiser, folder, seen)
    runs.write(state, optimiser.state(), step=step, seen=seen)
    return folder / FILES[kind]


def save(kind: str, optimiser: Optimiser, folder: Path, seen: int) -> None:
    runs.write(folder / FILES[kind], runs.half(optimiser.averaged()), samples_seen=seen)


def load(kind: str, folder: Path, device: str):
    model = KINDS[kind](RECIPES[kind], device)
    tensors, _ = runs.read(folder / FILES[kind])
    model.network.load_state_dict({name: value.float() for name, value in tensors.items()})
    model.network.requires_grad_(False).eval()
    model.network.to(network.PRECISION)
    return model
