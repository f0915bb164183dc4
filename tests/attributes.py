"""Attributes learned from a pair of prompts."""

TARGET, SOURCE, STEPS = "a portrait, blue hair", "a portrait", 6
RECIPE = dict(
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
)


def train(run, world, sampler, *, target=TARGET, sigmas=None, **changes):
    return run(
        "TrainAttribute",
        model=world.model,
        source=world.encode(SOURCE),
        target=world.encode(target),
        negative=world.encode(""),
        sampler=sampler,
        sigmas=world.sigmas(STEPS) if sigmas is None else sigmas,
        **{**RECIPE, "vae": world.vae, "latent": world.empty(), **changes},
    )


def draw(world, sampler, **more):
    return world.sample(sampler, steps=STEPS, prompt=SOURCE, **more)
