"""Attributes learned from a pair of prompts, and applied."""

TARGET, SOURCE, STEPS = "a face, blue hair", "a face", 6


def sigmas_of(world, steps=STEPS):
    from comfy_extras.nodes_custom_sampler import BasicScheduler

    return BasicScheduler.execute(world.model, "normal", steps, 1.0).args[0]


def train(run, world, sampler, *, target=TARGET, sigmas=None, **changes):
    settings = dict(
        cfg=2.0,
        seed=0,
        seeds=1,
        percent=0.5,
        ahead=0.0,
        branch=0.0,
        source_rank=0,
        target_rank=0,
        solver="exact",
        target_weight=1.0,
        source_weight=0.2,
        target_values_weight=0.0,
        source_values_weight=0.0,
        residual=True,
        steps=5,
        latent=world.empty(),
    )
    return run(
        "TrainAttribute",
        model=world.model,
        source=world.encode(SOURCE),
        target=world.encode(target),
        negative=world.encode(""),
        vae=world.vae,
        sampler=sampler,
        sigmas=sigmas_of(world) if sigmas is None else sigmas,
        **{**settings, **changes},
    )


def applied(run, sampler, attribute, strength=1.0, *, target=None, budget=0.0, mask=None):
    return run("ApplyAttribute", sampler=sampler, attribute=attribute, strength=strength, budget=budget, target=target, mask=mask)[0]


def draw(world, sampler, **more):
    return world.sample(sampler, steps=STEPS, prompt=SOURCE, **more)
