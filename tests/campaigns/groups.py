"""What each group of nodes does in a cell of the matrix."""

import torch

from pack.tests.attributes import train
from pack.tests.edits import with_attribute, with_attribute_on
from pack.tests.rounding import close

GROUPS = {}


def group(name, *masks):
    """Registers what a group of nodes does in a cell, and the kinds of masks that it can be given."""

    def register(act):
        GROUPS[name] = act, ("no mask", *masks)
        return act

    return register


def check_picture(picture):
    assert picture.ndim == 4, f"picture {tuple(picture.shape)}"
    assert len(picture) == 1, f"picture {tuple(picture.shape)}"
    assert picture.shape[-1] == 3, f"picture {tuple(picture.shape)}"
    assert torch.isfinite(picture).all(), f"picture {tuple(picture.shape)}"


@group("spectrum between samplers", "inpainting")
def spectrum(place):
    settings = dict(mode="gain", first=1, last=2, gain=1.5, exponent=0.9, threshold=1.0, keep_energy=True, strength=1.0)
    sigmas, run = place.sigmas(), place.run
    half = {**place.latent, "samples": place.drawn(sigmas=sigmas[:2])}
    svd = run("Decompose", samples=half, layout="channel")[0]
    rescaled = run("RescaleSingularValues", svd=svd, **settings)[0]
    edited, exchanged = (
        run("Compose", svd=one)[0]
        for one in (rescaled, run("ExchangeSingularVectors", svd=svd, other=rescaled, take="values", leading=0)[0])
    )
    assert torch.equal(edited["samples"], exchanged["samples"])
    close(run("SpectrumOperation", layout="channel", **settings)[0](latent=half["samples"]), edited["samples"], 1e-4)
    plain, result = (place.drawn(sigmas=sigmas[1:], latent=latent, noise=False) for latent in (half, edited))
    place.check_latent(result)
    assert (result - plain).abs().max() > 1e-3 * plain.abs().max()


def edited_during_sampling(place, target):
    """Under a mask at the last step only, where an edit of x0 cannot spread."""
    operation = place.run(
        "SpectrumOperation",
        layout="joint",
        mode="gain",
        first=1,
        last=1,
        gain=1.5,
        exponent=0.9,
        threshold=1.0,
        keep_energy=False,
        strength=1.0,
    )[0]
    start = 0.0 if place.mask is None else 0.7
    sampler = place.run(
        "EditDuringSampling",
        sampler=place.sampler_of("dpmpp_2m"),
        operation=operation,
        target=target,
        steps="all in range",
        start_percent=start,
        end_percent=1.0,
        mask=place.mask,
    )[0]
    edited, plain = place.drawn(sampler), place.drawn("dpmpp_2m")
    place.check(edited, plain)
    if place.mask is not None and target == "x0":
        outside = slice(0, place.size[1] // 2)
        assert torch.equal(edited[..., outside], plain[..., outside])


@group("Edit During Sampling, x_t", "mask", "inpainting")
def edited_x_t(place):
    edited_during_sampling(place, "x_t")


@group("Edit During Sampling, x0", "mask", "inpainting")
def edited_x0(place):
    edited_during_sampling(place, "x0")


@group("Train Attribute, Apply Attribute", "mask", "inpainting")
def attribute(place):
    more = dict(sigmas=place.sigmas(), latent=place.latent, steps=1)
    learned, _, picture = train(place.run, place.world, place.sampler_of("euler"), target="a portrait, hat", **more)
    check_picture(picture)
    plain = place.drawn()
    for target in (None, place.encode("a portrait, hat")):
        sampler = with_attribute(place.run, place.sampler_of("euler"), learned, target=target, mask=place.mask)
        edited = place.drawn(sampler)
        place.check(edited, plain)
        on_model = with_attribute_on(place.run, place.model, learned, target=target, mask=place.mask)
        assert torch.equal(place.drawn(model=on_model), edited)


@group("Make Slider", "mask", "inpainting")
def slider(place):
    """At its place of itself, and on what the model foresees."""
    plain, words = place.drawn(), dict(without="a portrait", wanted="a portrait, hat")
    for where in ("auto", "prediction"):
        slid = place.run("MakeSlider", model=place.model, clip=place.clip, strength=2.0, place=where, mask=place.mask, **words)[0]
        place.check(place.drawn(model=slid), plain)


@group("Train Slider LoRA", "mask", "inpainting")
def slider_lora(place):
    words = dict(neutral="a portrait", wanted="a portrait, hat", opposite="", keep="a dog")
    settings = dict(rank=2, steps=2, learning_rate=1e-2, scale=2.0, start_percent=0.2, end_percent=0.8, layers="attention", seed=0, cfg=2.0)
    wired = dict(model=place.model, clip=place.clip, vae=place.vae, latent=place.latent, mask=place.mask)
    weights, losses, picture, slider = place.run("TrainSliderLora", **wired, **words, **settings)
    check_picture(picture)
    assert len(losses["loss"]) == 2
    assert all(torch.isfinite(one).all() for one in weights.values())
    place.check(place.drawn(model=slider.on(place.model, 5.0)), place.drawn(), 1e-4)


@group("Image Guidance", "mask", "inpainting")
def image_guidance(place):
    settings = dict(strength=1.0, downsample=2, reference=place.picture(), mask=place.mask)
    place.check(place.drawn(model=place.run("ImageGuidance", model=place.model, **settings)[0]), place.drawn())


def contrast(place):
    return place.run(
        "DirectionFromPrompts",
        model=place.model,
        source=place.encode("a portrait"),
        target=place.encode("a portrait, hat"),
        negative=place.encode(""),
        latent=place.latent,
        images=2,
        batch_size=2,
        steps=2,
        cfg=2.0,
        seed=0,
    )[0]


@group("Direction From Prompts, Apply Direction", "mask", "inpainting")
def direction(place):
    place.check(place.drawn(model=place.applied(contrast(place), 2.0)), place.drawn())


@group("Direction From Prompts, Apply Direction, asymmetric", "mask", "inpainting")
def asymmetric_direction(place):
    place.check(place.drawn(model=place.applied(contrast(place), 2.0, asymmetric=True)), place.drawn())


def discovered(place, method, **changes):
    directions, labels, picture = place.run(
        "DiscoverDirections",
        model=place.model,
        positive=place.encode("a portrait"),
        negative=place.encode(""),
        method=method,
        latent=place.latent,
        **{**dict(images=3, batch_size=3, steps=2, cfg=2.0, seed=0, count=1, percent=0.0, iterations=2, mask=place.mask), **changes},
    )
    check_picture(picture)
    assert len(directions) == len(labels) == 1
    place.check(place.drawn(model=place.applied(directions[0], 2.0)), place.drawn())


@group("Discover Directions, PCA", "mask", "inpainting")
def principal(place):
    discovered(place, "PCA")


@group("Discover Directions, Jacobian", "mask", "inpainting")
def jacobian(place):
    discovered(place, "Jacobian")


@group("Discover Directions, pullback", "mask", "inpainting")
def pullback(place):
    discovered(place, "pullback")


@group("Train Direction, Apply Direction", "mask", "inpainting")
def trained(place):
    settings = dict(
        objective="prompt matching",
        images=2,
        batch_size=2,
        epochs=1,
        steps=2,
        end_percent=1.0,
        cfg=1.0,
        learning_rate=1e-2,
        keep_weight=0.0,
        seed=0,
        source_text="",
        target_text="",
        source=place.encode("a portrait"),
        target=place.encode("a portrait, hat"),
        negative=place.encode(""),
        vae=place.vae,
        latent=place.latent,
        model=place.model,
    )
    learned, losses, picture = place.run("TrainDirection", **{key: [value] for key, value in settings.items()})
    check_picture(picture)
    assert len(losses["loss"]) == 2
    place.check(place.drawn(model=place.applied(learned, 5.0)), place.drawn())


@group("Invert", "inpainting")
def inverted(place):
    """The exact sampler returns to the picture, from itself and from an empty latent; from another start nothing does."""
    from comfy_extras.nodes_custom_sampler import SamplerCustomAdvanced

    picture = {**place.latent, **place.picture()}
    noise, noisy, exact, error = place.run(
        "Invert",
        model=place.model,
        positive=place.encode("a portrait"),
        latent=picture,
        sigmas=place.sigmas(),
        refinements=1,
        tolerance=0.0,
    )
    place.check_latent(noisy["samples"])
    assert 0 <= error < float("inf")
    assert not torch.equal(noisy["samples"], picture["samples"])
    for start in (picture, place.empty):
        back = SamplerCustomAdvanced.execute(**place.advanced(exact, noise=noise, cfg=1.0, latent=start)).args[0]["samples"]
        place.check_latent(back)
        close(back, picture["samples"], 1e-5)
    assert not torch.allclose(place.drawn(exact), picture["samples"], atol=1e-2)


@group("DDIM Sampler", "inpainting")
def ddim(place):
    """Deterministic it is the host's euler."""
    sigmas = place.sigmas(4)
    plain, *others = (
        place.drawn(place.run("DDIMSampler", eta=eta, boost_percent=boost)[0], sigmas=sigmas)
        for eta, boost in ((0.0, 1.0), (1.0, 1.0), (0.0, 0.3))
    )
    close(plain, place.drawn(sigmas=sigmas), place.rounding)
    for other in others:
        place.check(other, plain)


@group("Editing Schedule", "inpainting")
def schedule(place):
    """Of a drawn picture, and in cells of batches of given ones."""
    given = place.picture()["samples"][:2]
    start, end, boost, picture = place.run(
        "EditingSchedule",
        model=place.model,
        positive=place.encode("a portrait"),
        negative=place.encode(""),
        vae=place.vae,
        latent=place.latent,
        distance="RMS",
        images=1,
        steps=4,
        cfg=2.0,
        seed=0,
        edit_threshold=0.1,
        boost_threshold=0.1,
        source_text="",
        target_text="",
        pictures={"samples": given} if len(given) > 1 else None,
    )
    check_picture(picture)
    assert start == 0 <= end <= boost <= 1
    assert boost > 0


@group("Sample Trajectory, Subspace Distance, Vector Mobility", "inpainting")
def trajectory(place):
    from comfy_extras.nodes_custom_sampler import SamplerCustomAdvanced

    inputs = place.advanced("euler")
    latent, seen = place.run("SampleTrajectory", **inputs)
    place.check_latent(latent["samples"])
    assert torch.equal(latent["samples"], SamplerCustomAdvanced.execute(**inputs).args[0]["samples"])
    picture, neighbours, mean, random = place.run("SubspaceDistance", trajectory=seen, rank=2, side="right", of="x_t")
    check_picture(picture)
    assert neighbours > 0
    assert 0 < mean < 1.5 * random
    picture, mobility = place.run("VectorMobility", trajectory=seen, triplets=3, channel=2, of="x0")
    check_picture(picture)
    assert 0 <= mobility < float("inf")


@group("Explore Singular Vectors", "inpainting")
def explored(place):
    from comfy_extras.nodes_custom_sampler import SamplerCustomAdvanced

    inputs = place.advanced("euler")
    variants = place.run("ExploreSingularVectors", **inputs, percent=0.3, triplets="1", gains="1, 3", batch_size=0)[0]["samples"]
    plain = SamplerCustomAdvanced.execute(**inputs).args[0]["samples"]
    close(variants[:1], plain, 5e-2)
    place.check(variants[1:], plain)


@group("Compare Edit", "inpainting")
def compared(place):
    from nodes import VAEDecode

    def decoded(sampler):
        latent = place.drawn(sampler)
        return VAEDecode().decode(place.vae, {"samples": latent / latent.abs().max() + 0.5})[0]

    edited = place.run(
        "EditDuringSampling",
        sampler=place.sampler_of("euler"),
        operation=lambda latent, **_: latent.flip(-2),
        target="x_t",
        steps="first in range",
        start_percent=0.0,
        end_percent=1.0,
        mask=None,
    )[0]
    picture, figures, ssim, psnr, *_ = place.run(
        "CompareEdit", before=decoded("euler"), after=decoded(edited), source_text="", target_text=""
    )
    check_picture(picture)
    assert -1 <= ssim < 1
    assert 0 < psnr < 120
    assert "SSIM" in figures
