"""Prompts as users wire them, and the nodes that learn from prompts."""

from dataclasses import dataclass
from typing import Any

import torch

from pack.tests.attributes import RECIPE
from pack.tests.campaigns.lora import random_lora
from pack.tests.edits import with_attribute
from pack.tests.wiring import node, outputs, random

TEXTS = {"source": "a portrait", "positive": "a portrait", "target": "a portrait, blue hair", "negative": ""}
RUN = dict(batch_size=2, steps=3, cfg=2.0, seed=0)
TRAINING = dict(
    objective="prompt matching",
    images=2,
    batch_size=2,
    epochs=1,
    steps=3,
    end_percent=0.8,
    cfg=2.0,
    learning_rate=1e-3,
    keep_weight=0.0,
    seed=0,
    source_text="a portrait",
    target_text="a hat",
)
LEFT = torch.cat([torch.ones(1, 16, 8), torch.zeros(1, 16, 8)], 2)


@dataclass(frozen=True)
class Desk:
    """What a prompt is changed with, and a node of the pack is run on."""

    run: Any
    world: Any
    model: Any
    control_net: Any
    attribute: Any = None

    def beside(self):
        return self.world.encode("a hat")


def in_area(prompt):
    return node("ConditioningSetArea", conditioning=prompt, width=64, height=128, x=64, y=0, strength=1.0)


def masked(prompt, area="default"):
    return node("ConditioningSetMask", conditioning=prompt, mask=LEFT, strength=1.0, set_cond_area=area)


def timed(prompt, start, end):
    return node("ConditioningSetTimestepRange", conditioning=prompt, start=start, end=end)


def combined(one, two):
    return node("ConditioningCombine", conditioning_1=one, conditioning_2=two)


def with_lora(desk, prompt):
    """A LoRA on this prompt alone."""
    import comfy.hooks

    hooks = comfy.hooks.create_hook_lora(random_lora(desk.world.model), 1.0, 0.0)
    return node("hooks.ConditioningSetProperties", cond_NEW=prompt, strength=1.0, set_cond_area="default", hooks=hooks)


def lora_on(model):
    import comfy.sd

    return comfy.sd.load_lora_for_models(model, None, random_lora(model), 1.0, 0.0)[0]


def controlled(desk, prompt):
    hint = dict(control_net=desk.control_net, image=torch.rand(1, 128, 128, 3, generator=torch.Generator().manual_seed(0)), strength=1.0)
    return outputs("ControlNetApplyAdvanced", positive=prompt, negative=prompt, start_percent=0.0, end_percent=1.0, **hint)[0]


def controlled_throughout(desk, prompt):
    """By the older node, whose ControlNet is for the negative prompt too."""
    hint = dict(control_net=desk.control_net, image=torch.rand(1, 128, 128, 3, generator=torch.Generator().manual_seed(0)), strength=1.0)
    return node("ControlNetApply", conditioning=prompt, **hint)


# What is done to a prompt.
PROMPTS = {
    "area": lambda desk, prompt: in_area(prompt),
    "area and a whole": lambda desk, prompt: combined(prompt, in_area(desk.beside())),
    "mask": lambda desk, prompt: masked(prompt),
    "mask and a whole": lambda desk, prompt: combined(masked(prompt), desk.beside()),
    "mask bounds": lambda desk, prompt: masked(prompt, "mask bounds"),
    "mask bounds and a whole": lambda desk, prompt: combined(masked(prompt, "mask bounds"), desk.beside()),
    "first part": lambda desk, prompt: timed(prompt, 0.0, 0.4),
    "last part": lambda desk, prompt: timed(prompt, 0.4, 1.0),
    "two parts": lambda desk, prompt: combined(timed(desk.beside(), 0.0, 0.4), timed(prompt, 0.4, 1.0)),
    "combine": lambda desk, prompt: combined(prompt, desk.beside()),
    "concat": lambda desk, prompt: node("ConditioningConcat", conditioning_to=prompt, conditioning_from=desk.beside()),
    "average": lambda desk, prompt: node(
        "ConditioningAverage", conditioning_to=prompt, conditioning_from=desk.beside(), conditioning_to_strength=0.5
    ),
    "zeroed": lambda desk, prompt: node("ConditioningZeroOut", conditioning=prompt),
    "default": lambda desk, prompt: node("hooks.ConditioningSetDefaultAndCombine", cond=masked(prompt), cond_DEFAULT=desk.beside()),
    "LoRA (hook)": with_lora,
    "ControlNet": controlled,
    "ControlNet for both": controlled_throughout,
}


def drawn(desk, sampler, positive, negative=None, steps=2):
    sigmas = node("custom_sampler.BasicScheduler", model=desk.model, scheduler="simple", steps=steps, denoise=1.0)
    negative = negative or desk.world.encode("")
    return node(
        "custom_sampler.SamplerCustom",
        model=desk.model,
        add_noise=True,
        noise_seed=1,
        cfg=2.0,
        positive=positive,
        negative=negative,
        sampler=sampler,
        sigmas=sigmas,
        latent_image=desk.world.empty(),
    )["samples"]


def euler():
    import comfy.samplers

    return comfy.samplers.sampler_object("euler")


def three_steps(desk):
    return node("custom_sampler.BasicScheduler", model=desk.model, scheduler="simple", steps=3, denoise=1.0)


def learned_attribute(desk):
    return trained_attribute(desk, **{name: desk.world.encode(TEXTS[name]) for name in ("source", "target", "negative")})


def trained_attribute(desk, **prompts):
    settings = dict(model=desk.model, vae=desk.world.vae, sampler=euler(), sigmas=three_steps(desk), latent=desk.world.empty())
    return desk.run("TrainAttribute", **settings, **{**RECIPE, "percent": 0.3, "steps": 1}, **prompts)[0]


def applied_attribute(desk, positive, target, negative):
    sampler = with_attribute(desk.run, euler(), desk.attribute, target=target)
    return drawn(desk, sampler, positive, negative)


def discovered(method):
    def found(desk, **prompts):
        settings = dict(model=desk.model, latent=desk.world.empty(), method=method, images=2, count=1, percent=0.4, iterations=1, **RUN)
        return desk.run("DiscoverDirections", **settings, **prompts)[0][0].shifts

    return found


def trained(desk, **prompts):
    settings = dict(model=desk.model, vae=desk.world.vae, latent=desk.world.empty(), **{**TRAINING, **prompts})
    return desk.run("TrainDirection", **{name: [value] for name, value in settings.items()})


def inverted(desk, positive):
    settings = dict(
        model=desk.model, latent={"samples": 0.4 * random(8, 1, 4, 16, 16)}, sigmas=three_steps(desk), refinements=1, tolerance=1e-4
    )
    return desk.run("Invert", positive=positive, **settings)[1]["samples"]


def scheduled(desk, **prompts):
    settings = dict(
        model=desk.model,
        vae=desk.world.vae,
        latent=desk.world.empty(),
        distance="RMS",
        images=1,
        steps=4,
        cfg=2.0,
        seed=0,
        edit_threshold=0.1,
        boost_threshold=0.1,
        source_text="",
        target_text="",
    )
    return torch.tensor(desk.run("EditingSchedule", **settings, **prompts)[:3])


# What is learned, and the prompts that it is learned from.
LEARNERS = {
    "Direction From Prompts": (
        lambda desk, **prompts: (
            desk.run("DirectionFromPrompts", model=desk.model, latent=desk.world.empty(), images=1, **RUN, **prompts)[0].shifts
        ),
        ("source", "target", "negative"),
    ),
    "PCA": (discovered("PCA"), ("positive", "negative")),
    "Jacobian": (discovered("Jacobian"), ("positive", "negative")),
    "pullback": (discovered("pullback"), ("positive", "negative")),
    "Train Direction": (lambda desk, **prompts: trained(desk, **prompts)[0].means.shifts, ("source", "target", "negative")),
    "Train Attribute": (lambda desk, **prompts: trained_attribute(desk, **prompts).parts[0][0].stored.S, ("source", "target", "negative")),
    "Apply Attribute": (applied_attribute, ("positive", "target", "negative")),
    "Invert": (inverted, ("positive",)),
    "Editing Schedule": (scheduled, ("positive", "negative")),
}
