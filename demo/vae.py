"""The VAE: TAESD's layout, trained on crops of drawn faces, with latents of mean 0 and deviation 1 in every channel."""

from __future__ import annotations

import math
import time
from pathlib import Path

import torch
import torch.nn.functional as F

from . import config, network, runs
from .optimiser import Optimiser

FILE = "vae.safetensors"
PLAIN = ("taesd_encoder.0.", "taesd_encoder.14.", "taesd_decoder.1.", "taesd_decoder.19.")  # first and last layers: AdamW's


class Scaled(torch.nn.Module):
    """Standardises latents by running means and deviations, which `fold` moves into the encoder's last layer."""

    def __init__(self, channels: int):
        super().__init__()
        self.norm = torch.nn.BatchNorm2d(channels, affine=False, momentum=0.05)

    def forward(self, latents: torch.Tensor) -> torch.Tensor:
        return self.norm(latents.float())

    @torch.no_grad()
    def fold(self, last: torch.nn.Conv2d) -> None:
        deviation = (self.norm.running_var + self.norm.eps).sqrt().to(last.weight)
        last.weight.div_(deviation.view(-1, 1, 1, 1))
        last.bias.sub_(self.norm.running_mean.to(last.bias)).div_(deviation)


def edges(images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    return images.diff(dim=-1), images.diff(dim=-2)


def loss_of(back: torch.Tensor, images: torch.Tensor) -> torch.Tensor:
    """Absolute and squared errors, and absolute errors of the differences between neighbours (0 to 1 units)."""
    error = back - images
    return error.abs().mean() + 4 * error.square().mean() + sum(e.abs().mean() for e in edges(error))


def psnr(back: torch.Tensor, images: torch.Tensor) -> torch.Tensor:
    """Decibels (b,) between pictures in [-1, 1]."""
    return -10 * ((back.clamp(-1, 1) - images) / 2).square().mean(dim=(1, 2, 3)).log10()


def train(
    store,
    folder: Path,
    plan: runs.Plan,
    device: str,
    batch: int = 128,
    sizes: tuple[int, int] = (64, 128),
    rate: float = 2e-3,
    noise: float = 0.1,
    limit: int = 24_000,
    state_every: float = 30.0,
) -> Path:
    """Train until the plan's end, half of it on crops of the first size and half on fewer of the second; write fp16 weights.

    Latents carry a little noise on their way to the decoder, so that it reads what a diffusion model draws.
    """
    torch.manual_seed(4)
    model, scaled = network.vae().to(device, memory_format=network.LAYOUT), Scaled(config.LATENT_CHANNELS).to(device)
    kind = network.PRECISION
    optimiser = Optimiser(model, PLAIN, kind, weight_decay=0.0)
    pictures = runs.Pictures(store, device, limit)
    step = seen = 0
    saved = told = time.time()
    while (done := plan.done(seen)) < 1:
        generator = runs.generator_for(device, 4, step)
        size = sizes[done > 0.5]
        count = max(1, batch // (size // sizes[0]) ** 2)
        images = pictures.crops(generator, count, size) * 0.5 + 0.5
        scaled.train(done < 0.8)  # steady for the last part, so that folding it in changes nothing
        latents = scaled(model.taesd_encoder(images.to(kind, memory_format=network.LAYOUT)))
        amount = noise * torch.rand(count, 1, 1, 1, device=device, generator=generator)
        disturbed = latents + amount * torch.randn(latents.shape, device=device, generator=generator)
        back = model.taesd_decoder(disturbed.to(kind, memory_format=network.LAYOUT)).float()
        loss = loss_of(back, images) + 1e-3 * F.relu(latents.abs() - 3).mean()
        loss.backward()
        optimiser.step(plan.rate(seen, step, rate), clip=0.5)
        step, seen = step + 1, seen + count
        if step % 50 == 0:
            pictures.grow(250)
        if time.time() - told > 8 or step == 1:
            told, value = time.time(), loss.item()
            runs.log(
                folder / "vae.csv",
                step=step,
                seen=seen,
                size=size,
                loss=f"{value:.4f}",
                psnr=f"{psnr(back.detach() * 2 - 1, images * 2 - 1).mean().item():.2f}",
                pictures=pictures.count,
                seconds=f"{time.time() - plan.start:.0f}",
            )
            if not math.isfinite(value):
                raise FloatingPointError(f"vae: the loss is not a number at step {step}")
            if told - saved > state_every:
                saved = told
                save(folder / "vae_so_far.safetensors", optimiser, scaled, step)
    print(f"vae: {seen} crops, {seen / (time.time() - plan.start):.0f} a second", flush=True)
    save(folder / FILE, optimiser, scaled, step)
    return folder / FILE


def save(path: Path, optimiser: Optimiser, scaled: Scaled, step: int) -> None:
    whole = network.vae()
    whole.load_state_dict(optimiser.latest())
    copy = Scaled(config.LATENT_CHANNELS)
    copy.load_state_dict({name: value.cpu() for name, value in scaled.state_dict().items()})
    copy.fold(whole.taesd_encoder[-1])
    runs.write(path, runs.half(whole.state_dict()), steps=step)


def load(folder: Path, device: str = "cpu"):
    model = network.vae()
    tensors, _ = runs.read(folder / FILE)
    model.load_state_dict({name: value.float() for name, value in tensors.items()})
    return model.requires_grad_(False).eval().to(device, network.PRECISION, memory_format=network.LAYOUT)


@torch.no_grad()
def encode(model, images: torch.Tensor) -> torch.Tensor:
    """Latents (b, 4, h/8, w/8) of pictures (b, 3, h, w) in [-1, 1]."""
    return model.taesd_encoder((images * 0.5 + 0.5).to(network.PRECISION, memory_format=network.LAYOUT)).float()


@torch.no_grad()
def decode(model, latents: torch.Tensor) -> torch.Tensor:
    """Pictures (b, 3, h, w) in [-1, 1] of latents (b, 4, h/8, w/8)."""
    return (model.taesd_decoder(latents.to(network.PRECISION, memory_format=network.LAYOUT)).float() * 2 - 1).clamp(-1, 1)


def encode_store(store, folder: Path, device: str, end: float, batch: int = 128) -> None:
    """Fill the store's latents behind the drawing, until it is done or a time (seconds since the epoch) is reached."""
    model, start, first = load(folder, device), time.time(), int(store.encoded[0])
    while (done := int(store.encoded[0])) < store.count and time.time() < end:
        last = min(done + batch, store.ready())
        if last - done < min(batch, store.count - done):
            time.sleep(0.1)
            continue
        images = runs.as_images(torch.from_numpy(store.pixels[done:last]).to(device))
        store.latents[done:last] = encode(model, images).half().cpu().numpy()
        store.encoded[0] = last
        if last // 20_000 != done // 20_000:
            print(f"encoded {last}, {(last - first) / (time.time() - start):.0f} a second", flush=True)
    print(f"encoded {int(store.encoded[0])} in {time.time() - start:.0f} s", flush=True)
