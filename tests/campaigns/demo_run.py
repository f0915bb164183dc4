"""One run of the demo model, and the pack's edits of it."""

import comfy.samplers

from pack.core.hspace.direction import Direction
from pack.tests.wiring import node, random

STEPS = 4


class Run:
    """One run of the demo model, and the pack's edits of it."""

    def __init__(self, run, demo, attribute):
        from pack.host.families import family_of

        self.run, self.demo, self.attribute = run, demo, attribute
        self.direction = Direction(10 * random(0, 1, 128, 2, 2), (1.0,), family_of(demo.model), "random")

    def sigmas(self, scheduler="normal", steps=STEPS):
        return node("custom_sampler.BasicScheduler", model=self.demo.model, scheduler=scheduler, steps=steps, denoise=1.0)

    def inputs(self, sampler="euler", *, model=None, sigmas=None, latent=None, noise=None, cfg=2.0, prompt="a face"):
        """Those of SamplerCustomAdvanced."""
        guider = node(
            "custom_sampler.CFGGuider",
            model=model or self.demo.model,
            positive=self.demo.encode(prompt),
            negative=self.demo.encode(""),
            cfg=cfg,
        )
        sampler = comfy.samplers.sampler_object(sampler) if isinstance(sampler, str) else sampler
        return dict(
            noise=noise or node("custom_sampler.RandomNoise", noise_seed=1),
            guider=guider,
            sampler=sampler,
            sigmas=self.sigmas() if sigmas is None else sigmas,
            latent_image=latent or self.demo.empty(),
        )

    def draw(self, sampler="euler", **inputs):
        return node("custom_sampler.SamplerCustomAdvanced", **self.inputs(sampler, **inputs))["samples"]

    def moved(self, strength=1.0, **changes):
        settings = dict(start_percent=0.0, end_percent=1.0, ramp=0.0, branch="both", asymmetric=False, keep_norm=False)
        return self.run("ApplyDirection", model=self.demo.model, direction=self.direction, strength=strength, **{**settings, **changes})[0]

    def edited(self, sampler, target, strength=1.0, **changes):
        operation = self.run(
            "SpectrumOperation",
            mode="gain",
            first=1,
            last=2,
            gain=1.5,
            exponent=1.0,
            threshold=1.0,
            keep_energy=True,
            strength=strength,
            layout="channel",
        )[0]
        settings = dict(operation=operation, target=target, steps="all in range", start_percent=0.0, end_percent=0.9)
        return self.run("EditDuringSampling", sampler=comfy.samplers.sampler_object(sampler), **{**settings, **changes})[0]

    def attributed(self, sampler, strength=1.0, target=None):
        target = target and self.demo.encode(target)
        return self.run(
            "ApplyAttribute",
            sampler=comfy.samplers.sampler_object(sampler),
            attribute=self.attribute,
            strength=strength,
            budget=0.0,
            target=target,
        )[0]

    def explored(self, sampler="euler", gains="1", **inputs):
        return self.run("ExploreSingularVectors", **self.inputs(sampler, **inputs), percent=0.3, triplets="1-2", gains=gains, batch_size=0)[
            0
        ]["samples"]
