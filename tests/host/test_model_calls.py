"""Edits, and nodes that look at h, where other nodes call the model on tiles, on several at once, or on some of the latents."""

import uuid

import pytest
import torch

from pack.core.hspace.direction import Direction
from pack.host.model_calls import RunPrompts
from pack.tests.edits import with_direction
from pack.tests.host.calls_on_parts import CUTS, tiled, windowed
from pack.tests.rounding import close
from pack.tests.wiring import node, random

UPPER = torch.zeros(1, 16, 16)
UPPER[:, :8] = 1
LAST = torch.cat([torch.zeros(1, 16, 16), torch.ones(1, 16, 16)])
EDITS = {
    "both": {},
    "conditional": dict(branch="conditional"),
    "unconditional": dict(branch="unconditional"),
    "mask": dict(mask=UPPER),
    "a mask for each": dict(mask=LAST),
    "mask, one half": dict(mask=UPPER, branch="conditional"),
    "asymmetric, one half": dict(asymmetric=True, branch="conditional"),
    "asymmetric, masks": dict(asymmetric=True, mask=LAST),
}


@pytest.fixture
def world(shaped):
    return shaped("SD15")


@pytest.fixture
def moved(run, world):
    """`moved(branch="conditional")`: the model with an edit that is not the same everywhere."""
    from pack.host.families import family_of

    direction = Direction(3.0 * random(0, 2, 64, 2, 2), (10.0, 1.0), family_of(world.model), "random")

    def call(model=None, **changes):
        return with_direction(run, model or world.model, direction, **changes)

    return call


@pytest.fixture
def draw(world, sampler_of):
    import comfy.sample

    def call(model, noise, positive=None):
        sigmas = node("custom_sampler.BasicScheduler", model=model, scheduler="normal", steps=2, denoise=1.0)
        return comfy.sample.sample_custom(
            model,
            noise,
            2.0,
            sampler_of("euler"),
            sigmas,
            positive or world.encode("a"),
            world.encode("b"),
            torch.zeros_like(noise),
            disable_pbar=True,
        )

    return call


NOISE = random(3, 2, 4, 16, 16)


def tiles_of(x):
    return [x[:, :, top : top + 8, left : left + 8] for top in (0, 8) for left in (0, 8)]


@pytest.mark.parametrize("cut", CUTS)
@pytest.mark.parametrize("edit", [name for name in EDITS if "mask" not in name])
def test_tiles_are_edited_as_pictures_of_their_own(world, moved, draw, cut, edit):
    whole, model = draw(tiled(moved(**EDITS[edit]), cut), NOISE), moved(**EDITS[edit])
    assert (whole - draw(tiled(world.model, cut), NOISE)).abs().amax((1, 2, 3)).min() > 1e-2
    for got, alone in zip(tiles_of(whole), tiles_of(NOISE), strict=True):
        close(got, draw(model, alone))


@pytest.mark.parametrize("cut", CUTS)
@pytest.mark.parametrize("edit", [name for name in EDITS if "mask" in name])
def test_a_mask_is_cut_with_the_tiles(world, moved, draw, cut, edit):
    """The mask is white over the upper tiles, or over the second latent.

    There the edit is that without a mask. The rest is as it was, bit for bit.
    """
    got, plain = draw(tiled(moved(**EDITS[edit]), cut), NOISE), draw(tiled(world.model, cut), NOISE)
    full = draw(tiled(moved(**{**EDITS[edit], "mask": None}), cut), NOISE)
    white = EDITS[edit]["mask"][:, None].expand(2, 4, 16, 16) > 0
    close(got[white], full[white])
    if "asymmetric" in edit:
        close(got[~white], plain[~white])
    else:
        assert torch.equal(got[~white], plain[~white])
    assert (got - plain)[white].abs().max() > 1e-2


@pytest.mark.parametrize("cut", ["one tile a call", "all tiles in one call"])
def test_a_mask_is_cut_with_tiles_over_the_edge(moved, draw, world, cut):
    """Tiles of columns 4 to 11, and of 12 to 15 and 0 to 3."""
    right = torch.zeros(1, 16, 16)
    right[..., 4:12] = 1
    got, plain, full = (draw(tiled(model, cut, roll=-4), NOISE) for model in (moved(mask=right), world.model, moved()))
    assert torch.equal(got[..., 12:], plain[..., 12:])
    assert torch.equal(got[..., :4], plain[..., :4])
    close(got[..., 4:12], full[..., 4:12])


def test_a_mask_follows_latents_that_are_turned_as_a_whole(moved, draw, world):
    """With h's cells of 4 latent cells, and a turn by 8."""
    left = torch.zeros(1, 16, 16)
    left[..., :8] = 1

    def turned(model):
        patched = model.clone()
        patched.set_model_unet_function_wrapper(
            lambda apply, args: apply(args["input"].roll(8, -1), args["timestep"], **args["c"]).roll(-8, -1)
        )
        return patched

    rolled = draw(moved(mask=left.roll(8, -1)), NOISE.roll(8, -1)).roll(-8, -1)
    close(draw(turned(moved(mask=left)), NOISE), rolled)
    assert (rolled - draw(turned(world.model), NOISE)).abs().max() > 1e-2


def test_a_mask_that_cannot_be_cut_is_refused_by_name(moved, draw):
    """Where a patch changes what it cuts; without a mask it is edited."""
    changed = dict(cut="one tile a call", change=lambda x: 1.01 * x)
    with pytest.raises(
        ValueError,
        match="^mask: the model is called on a part of the picture .*, 8 x 8 of 16 x 16 cells.* Disconnect the mask, or that patch",
    ):
        draw(tiled(moved(mask=UPPER), **changed), NOISE)
    draw(tiled(moved(), **changed), NOISE)


def test_halves_that_cannot_be_told_apart_are_refused_by_name(world, moved, draw):
    """A patch that calls the model for one prompt at a time and leaves both names."""

    def apart(model):
        def wrapper(apply, args):
            count, rows = len(args["cond_or_uncond"]), len(args["input"])
            parts = [
                {key: v[i * rows // count : (i + 1) * rows // count] if isinstance(v, torch.Tensor) else v for key, v in args["c"].items()}
                for i in range(count)
            ]
            return torch.cat([apply(x, t, **c) for x, t, c in zip(args["input"].chunk(count), args["timestep"].chunk(count), parts)])

        patched = model.clone()
        patched.set_model_unet_function_wrapper(wrapper)
        return patched

    for batch in (1, 2):
        with pytest.raises(
            ValueError,
            match=f"^branch: the model is called on {batch} rows for 2 prompts and {batch} latents.* Choose both, or disconnect that patch",
        ):
            draw(apart(moved(branch="conditional")), NOISE[:batch])
        for edit in ({}, dict(mask=UPPER), dict(asymmetric=True)):
            close(draw(apart(moved(**edit)), NOISE[:batch]), draw(moved(**edit), NOISE[:batch]))


@pytest.mark.parametrize("length", [1, 2, 3])
@pytest.mark.parametrize("edit", ["conditional", "a mask for each", "asymmetric, masks", "asymmetric, one half"])
def test_windows_over_the_batch_change_nothing(moved, draw, length, edit):
    """The latents of a UNet for pictures do not see each other."""
    noise, settings = torch.cat([NOISE, random(4, 2, 4, 16, 16)]), dict(EDITS[edit])
    if "mask" in settings:
        settings["mask"] = torch.cat([settings["mask"], 0.5 * UPPER, 1 - UPPER])
    close(draw(windowed(moved(**settings), context_length=length), noise), draw(moved(**settings), noise))


@pytest.mark.parametrize("dim", [2, 3])
@pytest.mark.parametrize("asymmetric", [False, True])
def test_a_mask_is_cut_with_windows_along_an_axis(world, moved, draw, dim, asymmetric):
    """White where only the second of two windows looks: what the first one alone draws stays as it was."""
    mask = torch.zeros(1, 16, 16)
    mask.narrow(dim - 1, 8, 8).fill_(1)
    models = [
        windowed(model, dim=dim)
        for model in (world.model, moved(mask=mask, asymmetric=asymmetric), moved(mask=1 - mask, asymmetric=asymmetric))
    ]
    plain, second, first = (draw(model, NOISE[:1]) for model in models)
    close(second.narrow(dim, 0, 8), plain.narrow(dim, 0, 8), 1e-5)
    assert (second - plain).narrow(dim, 8, 8).abs().max() > 1e-2
    assert (first - plain).narrow(dim, 0, 8).abs().max() > 1e-2


@pytest.mark.parametrize("edit", [{}, dict(branch="conditional"), dict(asymmetric=True, branch="conditional")])
def test_windows_over_the_edge_take_a_mask_of_ones_as_none(moved, draw, edit):
    around = dict(dim=3, context_schedule="looped_uniform", closed_loop=True, context_length=12, context_overlap=2)
    some, white = (
        draw(windowed(moved(**edit), **around), NOISE[:1]),
        draw(windowed(moved(**edit, mask=torch.ones(1, 16, 16)), **around), NOISE[:1]),
    )
    close(white, some)


def test_windows_that_leave_out_columns_are_refused_under_a_mask(moved, draw):
    some = dict(dim=3, context_schedule="standard_uniform", context_stride=2, context_length=6)
    with pytest.raises(ValueError, match="^mask: the model is called on a part"):
        draw(windowed(moved(mask=UPPER), **some), NOISE[:1])
    draw(windowed(moved(branch="conditional"), **some), NOISE[:1])


def test_prompts_for_areas_keep_their_halves_and_masks_in_tiles(moved, draw, world):
    def area(text, x):
        return node("ConditioningSetArea", conditioning=world.encode(text), width=64, height=128, x=x, y=0, strength=1.0)

    positive = area("a", 0) + area("c", 64)
    wrapped = moved(mask=UPPER).clone()
    wrapped.set_model_unet_function_wrapper(lambda apply, args: apply(args["input"], args["timestep"], **args["c"]))
    assert torch.equal(draw(wrapped, NOISE, positive), draw(moved(mask=UPPER), NOISE, positive))
    got, plain = (
        draw(tiled(moved(mask=UPPER), "one tile a call"), NOISE, positive),
        draw(tiled(world.model, "one tile a call"), NOISE, positive),
    )
    assert torch.equal(got[:, :, 8:], plain[:, :, 8:])
    assert (got - plain)[:, :, :8].abs().max() > 1e-2


def asking_at(share):
    """A sampler of one step that asks the model about the latent at this share of its size."""
    import comfy.samplers

    def sampler(model, x, sigmas, extra_args=None, callback=None, disable=None):
        asked = torch.nn.functional.interpolate(x, scale_factor=share)
        denoised = model(asked, sigmas[0] * x.new_ones(len(x)), **extra_args)
        return torch.nn.functional.interpolate(denoised, x.shape[-2:])

    return comfy.samplers.KSAMPLER(sampler)


def test_a_sampler_that_asks_about_another_size_is_refused_under_a_mask(world, moved):
    """The whole picture in small, or a tile of it: which of them is not told. One half is edited there."""
    with pytest.raises(
        ValueError, match="^mask: the sampler asks the model about 1 latents of 8 x 8 cells, while the run makes 1 of 16 x 16"
    ):
        world.sample(asking_at(0.5), steps=1, model=moved(mask=UPPER))
    for share, edit in ((0.5, dict(branch="conditional")), (1.0, dict(mask=UPPER))):
        assert (world.sample(asking_at(share), steps=1, model=moved(**edit)) - world.sample(asking_at(share), steps=1)).abs().max() > 1e-2


def learned(run, world, model, name):
    prompts, latent = dict(negative=world.encode("")), world.empty(size=16)
    runs = dict(latent=latent, images=4, batch_size=4, steps=2, cfg=2.0, seed=0)
    if name == "Direction From Prompts":
        return run("DirectionFromPrompts", model=model, source=world.encode("a"), target=world.encode("b"), **prompts, **runs)[0].shifts
    if name == "Train Direction":
        settings = dict(
            source=world.encode("a"),
            target=world.encode("b"),
            vae=world.vae,
            objective="prompt matching",
            epochs=1,
            end_percent=0.8,
            learning_rate=1e-3,
            keep_weight=0.0,
            source_text="",
            target_text="",
        )
        return run("TrainDirection", **{key: [value] for key, value in {**prompts, **runs, **settings, "model": model}.items()})[
            0
        ].means.shifts
    return run(
        "DiscoverDirections", model=model, positive=world.encode("a"), **prompts, **runs, method=name, count=2, percent=0.3, iterations=2
    )[0][0].shifts


PARTLY = {
    **{cut: lambda model, cut=cut: tiled(model, cut) for cut in CUTS},
    "windows over the batch": lambda model: windowed(model, context_length=2),
    "windows along an axis": lambda model: windowed(model, dim=3),
}


@pytest.mark.parametrize("name", ["Direction From Prompts", "PCA", "Jacobian", "pullback", "Train Direction"])
@pytest.mark.parametrize("patch", PARTLY)
def test_nodes_that_look_at_h_refuse_calls_on_parts(run, world, patch, name):
    model = PARTLY[patch](world.model)
    if patch == "windows over the batch" and name in ("Jacobian", "pullback"):  # they draw one picture
        assert torch.equal(learned(run, world, model, name), learned(run, world, world.model, name))
        return
    with pytest.raises(ValueError, match="^model: it is called on a part of the picture, or of the batch"):
        learned(run, world, model, name)


def test_prompts_that_are_named_again_keep_their_names():
    """As in the second of two runs, when another plan has named them already."""
    shared = uuid.uuid4()
    prompts = {"positive": [{"uuid": shared}], "negative": [{"uuid": shared, "area": (1, 1, 0, 0)}, {"uuid": uuid.uuid4()}]}
    first, second = RunPrompts(), RunPrompts()
    first.name(prompts)
    names = [entry["uuid"] for entries in prompts.values() for entry in entries]
    assert len(set(names)) == 3
    second.name(prompts)
    first.name(prompts)
    assert [entry["uuid"] for entries in prompts.values() for entry in entries] == names
    for plan in (first, second):
        assert plan.half_of(prompts["positive"]) == "conditional"
        assert plan.half_of(prompts["negative"]) == "unconditional"
