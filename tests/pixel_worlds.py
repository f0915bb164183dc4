"""Small pixel-space networks as Load Pixel Diffusion Model gives them, to sample and to edit."""

import math

import torch
from safetensors.torch import save_file

from pack.tests.models import World
from pack.tests.pixel import Reference, betas, filled
from pack.tests.wiring import node

SMALL = dict(width=32, multipliers=(1, 2, 2), blocks=1, attention=(1, 2))
GUIDED = dict(SMALL, layout="guided diffusion", scale_shift=True, outputs=6)
NETWORKS = {  # with what Load Pixel Diffusion Model takes them for: schedule, steps
    "DDPM": (dict(SMALL, layout="DDPM"), "linear", 1000),
    "diffusers": (dict(SMALL, layout="diffusers"), "linear", 1000),
    "iDDPM": (dict(GUIDED, heads=4), "cosine", 4000),
    "ADM": (dict(GUIDED, resamples=True, heads=lambda c: c // 64, classes=5), "linear", 1000),
}
NARROW = {"attention at 32 channels": (dict(SMALL, layout="DDPM", attention=(0,)), "linear", 1000)}
SIZE = 16


class Pixel(World):
    """A small network of a layout, as Load Pixel Diffusion Model gives it."""

    sizes = {"square": (8, 8), "odd": (8, 12)}  # in the matrix: multiples of 4, which is as odd as it takes them

    def __init__(self, run, folder, name, seed=0, **changes):
        settings, self.schedule, self.steps = {**NETWORKS, **NARROW}[name]
        self.reference = filled(Reference(**settings), seed)
        if self.reference.labelled:
            self.reference.label_emb.weight *= 10  # classes that differ
        file = f"{name}_{seed}.safetensors"
        save_file(self.reference.state_dict(), folder / file)
        label = 3 if self.reference.labelled else 0
        self.model, self.vae, self.prompt, self.info = run("LoadPixelModel", **{"file": file, "label": label, **changes})
        self.clip = None
        self.label = torch.tensor([label]) if self.reference.labelled else None

    def encode(self, prompt):
        return self.prompt

    def empty(self, batch=1, size=SIZE, width=None):
        return {"samples": torch.zeros(batch, 3, size, width or size)}

    def draw(self, model=None, sampler="euler", cfg=3.0, steps=4, seed=1, prompt=None, denoise=1.0, latent=None):
        """KSampler's latent."""
        prompt = prompt or self.prompt
        return node(
            "KSampler",
            model=model or self.model,
            seed=seed,
            steps=steps,
            cfg=cfg,
            sampler_name=sampler,
            scheduler="normal",
            positive=prompt,
            negative=prompt,
            latent_image=latent or self.empty(),
            denoise=denoise,
        )["samples"]

    def kept(self):
        """The share of the picture's variance at each of the network's steps."""
        return torch.cumprod(1 - betas(self.schedule, self.steps), 0)

    def drawn_by_ddim(self, noise, places):
        """DDIM (Song et al. 2021, eq. 12) with eta 0 on the reference, at these of the network's steps, which fall."""
        x, kept = noise.double(), self.kept()
        after = [*(float(kept[t]) for t in places[1:]), 1.0]
        for t, a_after in zip(places, after, strict=True):
            a, time = float(kept[t]), torch.tensor([t * 1000 / self.steps])
            eps = self.reference(x.float(), time, self.label)[:, :3].double()
            x0 = (x - math.sqrt(1 - a) * eps) / math.sqrt(a)
            x = math.sqrt(a_after) * x0 + math.sqrt(1 - a_after) * eps
        return x.float()


def relative(one, other):
    return float((one - other).norm() / other.norm())
