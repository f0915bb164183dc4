"""Directions trained on the demo model, and pictures edited by them."""

from pack.tests.edits import with_direction

SETTINGS = dict(
    objective="prompt matching",
    images=2,
    batch_size=2,
    epochs=2,
    steps=3,
    end_percent=0.8,
    cfg=2.0,
    learning_rate=1e-3,
    keep_weight=0.0,
    seed=0,
    source_text="a portrait",
    target_text="a portrait, blue hair",
)


def edited(world, run, sampler_of, direction, strength=1.0, sampler="euler", steps=4, **changes):
    options = {key: changes.pop(key) for key in ("latent", "prompt", "seed") if key in changes}
    model = with_direction(run, world.model, direction, strength, **{"end_percent": 0.9, **changes})
    return world.sample(
        sampler_of(sampler) if isinstance(sampler, str) else sampler, model=model, steps=steps, prompt="a portrait", **options
    )
