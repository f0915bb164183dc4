"""One run of the demo model, and the pack's edits of it."""

import comfy.samplers

from pack.core.hspace.direction import Direction
from pack.tests.edits import with_attribute, with_direction, with_gain, with_slider
from pack.tests.wiring import node, random

STEPS = 4


class Run:
    """One run of the demo model, and the pack's edits of it."""

    def __init__(self, run, demo, attribute):
        from pack.host.families import family_of

        self.run, self.demo, self.attribute = run, demo, attribute
        self.direction = Direction(10 * random(0, 1, 128, 2, 2), (1.0,), family_of(demo.model), "random")

    def sigmas(self, scheduler="normal", steps=STEPS):
        return self.demo.sigmas(steps, scheduler)

    def inputs(self, sampler="euler", **changes):
        """Those of SamplerCustomAdvanced."""
        sampler = comfy.samplers.sampler_object(sampler) if isinstance(sampler, str) else sampler
        return self.demo.wired(sampler, **{"steps": STEPS, **changes})

    def draw(self, sampler="euler", **inputs):
        return node("custom_sampler.SamplerCustomAdvanced", **self.inputs(sampler, **inputs))["samples"]

    def moved(self, strength=1.0, **changes):
        return with_direction(self.run, self.demo.model, self.direction, strength, **changes)

    def slid(self, strength=1.0, **changes):
        """The model with a slider that holds the rest."""
        return with_slider(self.run, self.demo.model, self.demo.clip, strength, **changes)

    def edited(self, sampler, target, strength=1.0, **changes):
        return with_gain(self.run, comfy.samplers.sampler_object(sampler), target, strength, **{"end_percent": 0.9, **changes})

    def attributed(self, sampler, strength=1.0, target=None):
        target = target and self.demo.encode(target)
        return with_attribute(self.run, comfy.samplers.sampler_object(sampler), self.attribute, strength, target=target)

    def explored(self, sampler="euler", gains="1", **inputs):
        return self.run("ExploreSingularVectors", **self.inputs(sampler, **inputs), percent=0.3, triplets="1-2", gains=gains, batch_size=0)[
            0
        ]["samples"]
