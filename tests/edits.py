"""The pack's edits as the tests apply them: each node with settings that a test may change."""


def with_direction(run, model, direction, strength=1.0, **changes):
    """The model that Apply Direction gives."""
    settings = dict(start_percent=0.0, end_percent=1.0, ramp=0.0, branch="both", asymmetric=False, keep_norm=False)
    return run("ApplyDirection", model=model, direction=direction, strength=strength, **{**settings, **changes})[0]


def with_slider(run, model, clip, strength=1.0, **changes):
    """The model that Make Slider gives."""
    settings = dict(without="a portrait", wanted="a portrait, hat", start_percent=0.0, end_percent=1.0)
    return run("MakeSlider", model=model, clip=clip, strength=strength, **{**settings, **changes})[0]


def with_attribute(run, sampler, attribute, strength=1.0, **changes):
    """The sampler that Apply Attribute gives."""
    settings = dict(budget=0.0, target=None, mask=None)
    return run("ApplyAttribute", sampler=sampler, attribute=attribute, strength=strength, **{**settings, **changes})[0]


def with_attribute_on(run, model, attribute, strength=1.0, **changes):
    """The model that Apply Attribute to Model gives."""
    return run("ApplyAttributeToModel", model=model, attribute=attribute, strength=strength, **changes)[0]


def with_gain(run, sampler, target, strength=1.0, **changes):
    """The sampler that Edit During Sampling gives: it raises the first two singular values."""
    operation = run(
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
    settings = dict(operation=operation, target=target, steps="all in range", start_percent=0.0, end_percent=1.0)
    return run("EditDuringSampling", sampler=sampler, **{**settings, **changes})[0]
