"""A cell of the matrix: its model, its latents, and what all groups of nodes do with them."""

from typing import NamedTuple

import torch

from pack.tests.edits import with_direction
from pack.tests.rounding import close

SIZES = {"square": (6, 6), "odd": (5, 9)}
STEPS = 3


class Cell(NamedTuple):
    """A place of the matrix."""

    group: str
    family: str
    format: str
    batch: int
    size: str
    mask: str  # "no mask", "mask" (the node's), or "inpainting" (the LATENT's)


class Place:
    """A cell's model and latents, and what all groups do with them."""

    def __init__(self, cell, world, run, sampler_of):
        self.run, self.sampler_of, self.size = run, sampler_of, getattr(world, "sizes", SIZES)[cell.size]
        self.rounding = 5e-2 if cell.format == "bf16" else 1e-2  # of a run's steps, which another order of the same sums changes
        self.world, self.model, self.vae, self.clip, self.encode = world, world.model, world.vae, world.clip, world.encode
        self.empty = self.latent = world.empty(cell.batch, *self.size)
        right = torch.zeros(1, *self.size)
        right[..., self.size[1] // 2 :] = 1
        self.mask = right if cell.mask == "mask" else None
        if cell.mask == "inpainting":
            self.latent = {**self.picture(), "noise_mask": right[:, None]}

    def picture(self):
        """A smooth latent: what no noise is."""
        noise = torch.randn(self.empty["samples"].shape, generator=torch.Generator().manual_seed(8))
        flat = noise.reshape(-1, 1, *self.size)
        return {"samples": torch.nn.functional.avg_pool2d(flat, 3, 1, 1).reshape(noise.shape)}

    def sigmas(self, steps=STEPS):
        return self.world.sigmas(steps)

    def drawn(self, sampler="euler", model=None, *, sigmas=None, latent=None, noise=True):
        """SamplerCustom's latent."""
        from comfy_extras.nodes_custom_sampler import SamplerCustom

        sampler = self.sampler_of(sampler) if isinstance(sampler, str) else sampler
        return SamplerCustom.execute(
            model or self.model,
            noise,
            1,
            2.0,
            self.encode("a portrait"),
            self.encode(""),
            sampler,
            self.sigmas() if sigmas is None else sigmas,
            latent or self.latent,
        ).args[0]["samples"]

    def advanced(self, sampler, *, noise=None, cfg=2.0, latent=None):
        """The inputs of SamplerCustomAdvanced."""
        sampler = self.sampler_of(sampler) if isinstance(sampler, str) else sampler
        return self.world.wired(sampler, steps=STEPS, noise=noise, cfg=cfg, latent=latent or self.latent)

    def applied(self, direction, strength=1.0, **changes):
        """A model that carries a direction."""
        return with_direction(self.run, self.model, direction, strength, **{"mask": self.mask, **changes})

    def check(self, edited, plain, share=1e-3):
        """Finite, as the host wants a LATENT, another than the unedited one, and what came in where an inpainting run paints nothing."""
        self.check_latent(edited)
        assert float((edited - plain).abs().max() / plain.abs().max()) > share, "nothing changed"
        if "noise_mask" in self.latent:
            outside = slice(0, self.size[1] // 2)
            close(edited[..., outside], self.latent["samples"][..., outside], 1e-5)

    def check_latent(self, latent):
        import comfy.model_management

        assert latent.shape == self.empty["samples"].shape, f"shape {tuple(latent.shape)}"
        assert latent.dtype == torch.float32, f"{latent.dtype} on {latent.device}"
        assert latent.device == comfy.model_management.intermediate_device(), f"{latent.dtype} on {latent.device}"
        assert torch.isfinite(latent).all(), "not finite"
