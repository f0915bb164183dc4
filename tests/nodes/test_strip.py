"""Slider Strip in the real host: each of its pictures is KSampler's, and its sheet says which is which."""

import numpy as np
import pytest
import torch

from pack.nodes.strip import strengths_in
from pack.tests.rounding import close
from pack.tests.wiring import node

pytestmark = pytest.mark.usefixtures("inference")
STEPS, SEED = 3, 7


@pytest.fixture
def world(request, demo, shaped):
    name = getattr(request, "param", "demo")
    return demo if name == "demo" else shaped(name)


def slider_of(run, world, wanted="a portrait, blue hair", **changes):
    words = dict(strength=0.0, without="a portrait", wanted=wanted, start_percent=0.0, end_percent=1.0, **changes)
    return run("MakeSlider", model=world.model, clip=world.clip, **words)[1]


def settings(world, **changes):
    """The inputs of KSampler."""
    prompts = dict(positive=world.encode("a portrait, red hair"), negative=world.encode(""))
    numbers = dict(seed=SEED, steps=STEPS, cfg=2.0, sampler_name="euler", scheduler="normal", denoise=1.0)
    return {**dict(model=world.model, latent=world.empty()), **prompts, **numbers, **changes}


def strip(run, world, strengths="-1, 0, 1", *, slider=None, **changes):
    return run("SliderStrip", **settings(world), slider=slider or slider_of(run, world), vae=world.vae, strengths=strengths, **changes)


def changed(run, world, **changes):
    """A strip whose settings of KSampler are others."""
    more = {key: changes.pop(key) for key in changes.keys() - settings(world).keys()}
    slider = more.pop("slider", None) or slider_of(run, world)
    return run("SliderStrip", **settings(world, **changes), slider=slider, vae=world.vae, **{"strengths": "-1, 0, 1", **more})


def stock(world, **changes):
    """KSampler and VAE Decode: pictures (b, h, w, 3), of a video its first frame."""
    given = settings(world, **changes)
    latent = node("KSampler", latent_image=given.pop("latent"), **given)["samples"]
    pictures = world.vae.decode(latent)
    return pictures[:, 0] if pictures.ndim == 5 else pictures


@pytest.mark.parametrize("world", ["demo", "SDXL", "Flux", "WAN21_T2V"], indirect=True)
def test_each_picture_is_the_stock_sampler_s_bit_for_bit(world, run):
    slider = slider_of(run, world)
    _, images, table = strip(run, world, "-0.5, 0, 1", slider=slider)
    for picture, strength in zip(images.split(1), (-0.5, 0.0, 1.0), strict=True):
        assert torch.equal(picture, stock(world, model=slider.on(world.model, strength)))
    assert torch.equal(images[1:2], stock(world))
    assert not torch.equal(images[0], images[1])
    assert not torch.equal(images[2], images[1])
    assert table == ""


@pytest.mark.parametrize(
    "sampler",
    ["euler", "euler_ancestral", "dpmpp_2m_sde", "dpmpp_2m", "uni_pc", "ddim", "lcm", pytest.param("dpm_adaptive", marks=pytest.mark.slow)],
)
@pytest.mark.parametrize("scheduler", ["karras", pytest.param("beta", marks=pytest.mark.slow)])
@pytest.mark.parametrize("world", ["SD3", pytest.param("demo", marks=pytest.mark.slow)], indirect=True)
def test_rows_of_seeds_are_what_each_seed_draws_by_itself(world, run, sampler, scheduler):
    """Bit for bit one at a time; up to rounding as the host has room."""
    how = dict(sampler_name=sampler, scheduler=scheduler)
    slider = slider_of(run, world, hold_rest=sampler != "dpm_adaptive")
    expected = torch.cat([stock(world, model=slider.on(world.model, s), seed=SEED + i, **how) for i in range(3) for s in (0.0, 1.0)])
    alone, together = (changed(run, world, slider=slider, strengths="0, 1", seeds=3, batch_size=size, **how)[1] for size in (1, 0))
    assert torch.equal(alone, expected)
    close(together, expected, 2e-3)
    assert (expected[0] - expected[2]).abs().max() > 0.1


def test_the_run_without_the_slider_is_made_once_for_all_strengths(demo, run, monkeypatch):
    """And once for each row; beside an attribute across, whose own run without the slider is another at each strength, for each."""
    from pack.host.unedited import UneditedRun

    kept, keep = [], UneditedRun.keep
    monkeypatch.setattr(UneditedRun, "keep", lambda self, *args: kept.append(self) or keep(self, *args))
    slider = slider_of(run, demo, focus=0.5)
    _, images, _ = strip(run, demo, "-1, 0.5, 1", slider=slider, seeds=2, batch_size=1)
    assert len(kept) == 2 * STEPS
    assert len(set(map(id, kept))) == 2
    expected = [stock(demo, model=slider.on(demo.model, s), seed=SEED + i) for i in range(2) for s in (-1.0, 0.5, 1.0)]
    assert torch.equal(images, torch.cat(expected))


def test_an_attribute_across_a_held_slider_keeps_a_run_for_each_strength(demo, run, attribute):
    from pack.host.sliders import AttributeSlider

    across, down = AttributeSlider("smile", attribute), slider_of(run, demo, focus=0.5)
    _, images, _ = strip(run, demo, "0, 1", slider=across, slider_2=down, strengths_2="1")
    expected = [stock(demo, model=across.on(down.on(demo.model, 1.0), s)) for s in (0.0, 1.0)]
    assert torch.equal(images, torch.cat(expected))


@pytest.fixture
def sizes(monkeypatch):
    """How many latents each run of a strip draws."""
    import pack.host.strips as strips

    seen, whole = [], strips.run_as_wired

    def counted(noise, guider, sampler, sigmas, latent, callback):
        seen.append(len(latent["samples"]))
        return whole(noise, guider, sampler, sigmas, latent, callback)

    monkeypatch.setattr(strips, "run_as_wired", counted)
    return seen


def test_seeds_are_drawn_together_where_the_host_has_room(demo, run, sizes, monkeypatch):
    strip(run, demo, "0, 1", seeds=3)
    assert sizes == [3, 3]
    sizes.clear()
    strip(run, demo, "0, 1", seeds=3, batch_size=2)
    assert sizes == [2, 2, 1, 1]
    sizes.clear()
    monkeypatch.setattr(type(demo.model), "get_free_memory", lambda self, device: 0)
    strip(run, demo, "0, 1", seeds=3)
    assert sizes == [1] * 6


@pytest.mark.parametrize(
    "changes",
    [
        dict(sampler_name="euler_ancestral"),
        dict(sampler_name="dpm_adaptive"),
        dict(latent={"samples": torch.ones(1, 4, 8, 8), "noise_mask": torch.ones(1, 8, 8)}),
        dict(latent={"samples": torch.zeros(2, 4, 8, 8)}),
    ],
    ids=["noise of its own", "steps in common", "noise mask", "batch"],
)
def test_seeds_that_would_not_be_the_same_together_are_drawn_alone(demo, run, sizes, changes):
    changed(run, demo, strengths="0", seeds=2, **changes)
    assert len(sizes) == 2


@pytest.mark.parametrize("sampler", ["euler", "ddim"])
def test_a_picture_a_mask_and_a_share_of_denoising_are_the_stock_sampler_s(demo, run, sampler):
    latent = {"samples": torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0)), "noise_mask": torch.zeros(1, 8, 8)}
    latent["noise_mask"][..., 4:] = 1
    how = dict(latent=latent, denoise=0.5, sampler_name=sampler)
    _, images, _ = changed(run, demo, strengths="0", seeds=2, **how)
    assert torch.equal(images, torch.cat([stock(demo, seed=SEED + i, **how) for i in range(2)]))
    nothing = changed(run, demo, strengths="0 1", **{**how, "denoise": 0.0})[1]
    assert torch.equal(nothing, stock(demo, **{**how, "denoise": 0.0}).repeat(2, 1, 1, 1))


@pytest.mark.parametrize("batch_index", [None, [1, 3]])
def test_each_latent_of_a_batch_has_its_row(demo, run, batch_index):
    latent = demo.empty(batch=2) | ({} if batch_index is None else {"batch_index": batch_index})
    slider = slider_of(run, demo)
    _, images, _ = changed(run, demo, slider=slider, latent=latent, strengths="0, 1", seeds=2)
    columns = [torch.cat([stock(demo, model=slider.on(demo.model, s), latent=latent, seed=SEED + i) for i in range(2)]) for s in (0.0, 1.0)]
    assert torch.equal(images[::2], columns[0])
    assert torch.equal(images[1::2], columns[1])


def test_one_latent_picked_from_a_batch_keeps_its_noise(demo, run):
    latent = demo.empty() | {"batch_index": [2]}
    images = changed(run, demo, latent=latent, strengths="0", seeds=2)[1]
    close(images, torch.cat([stock(demo, latent=latent, seed=SEED + i) for i in range(2)]), 2e-3)


def test_a_second_slider_makes_the_rows(demo, run):
    first, second = slider_of(run, demo), slider_of(run, demo, "a portrait, sunglasses")
    _, images, _ = strip(run, demo, "0, 1", slider=first, slider_2=second, strengths_2="0, 2")
    models = [second.on(demo.model, 2.0 * down) for down in range(2)]
    expected = torch.cat([stock(demo, model=first.on(model, strength)) for model in models for strength in (0.0, 1.0)])
    assert torch.equal(images, expected)
    assert torch.equal(images[:1], stock(demo))
    assert len({picture.numpy().tobytes() for picture in images}) == 4


def test_prompts_make_the_rows(demo, run):
    _, images, _ = strip(run, demo, "0, 1", prompts="a portrait, hat\n\n  a portrait, bald ", prompts_clip=demo.clip)
    slider, words = slider_of(run, demo), ("a portrait, hat", "a portrait, bald")
    models = [slider.on(demo.model, strength) for strength in (0.0, 1.0)]
    assert torch.equal(images, torch.cat([stock(demo, model=model, positive=demo.encode(text)) for text in words for model in models]))


@pytest.mark.parametrize(
    "changes, message",
    [
        (dict(strengths=""), "^strengths: '' cannot be read; write strengths such as -1, 0, 1"),
        (dict(strengths="-1 to 1"), "^strengths: '-1 to 1' cannot be read"),
        (dict(strengths="-1 to 1 in 101"), "^strengths: got 101 strengths, 100 are the most"),
        (dict(seeds=2, prompts="a"), "^seeds, prompts: each asks for rows of its own"),
        (dict(prompts="a portrait"), "^prompts_clip: prompts are read by the model's CLIP"),
        (dict(latent={"samples": torch.zeros(1, 4, 8)}), "^latent: got shape"),
        (dict(seed=-1), "^seed: got -1"),
        (dict(cfg=float("nan")), "^cfg: got nan"),
    ],
)
def test_bad_input_is_refused_by_name_before_anything_is_drawn(demo, run, sizes, changes, message):
    with pytest.raises(ValueError, match=message):
        changed(run, demo, **changes)
    assert sizes == []


def test_a_bad_second_slider_or_half_a_scorer_is_refused_by_name_before_anything_is_drawn(demo, run, scorer, sizes):
    with pytest.raises(ValueError, match="^strengths_2: 'x' cannot be read"):
        strip(run, demo, slider_2=slider_of(run, demo), strengths_2="x")
    with pytest.raises(ValueError, match="^slider_2, seeds: each asks"):
        strip(run, demo, slider_2=slider_of(run, demo), seeds=2)
    with pytest.raises(ValueError, match="^clip: figures of a scorer need both"):
        strip(run, demo, clip_vision=scorer["clip_vision"])
    with pytest.raises(ValueError, match="^clip_vision: figures of a scorer need both"):
        strip(run, demo, clip=scorer["clip"])
    assert sizes == []


def test_a_slider_that_does_not_fit_is_refused_by_name_before_anything_is_drawn(demo, shaped, run, sizes):
    """One of a UNet, on a transformer."""
    flux = shaped("Flux")
    with pytest.raises(ValueError, match="^slider: 'a portrait, blue hair' was made on a model of the family Portrait"):
        changed(run, flux, slider=slider_of(run, demo), strengths="0")
    with pytest.raises(ValueError, match="^slider_2: 'a portrait, blue hair' was made on"):
        changed(run, flux, slider_2=slider_of(run, demo), strengths="0")
    assert sizes == []


@pytest.mark.parametrize(
    "text, expected",
    [
        ("-1, -0.5, 0, 0.5, 1", [-1, -0.5, 0, 0.5, 1]),
        ("-1 to 1 in 5", [-1, -0.5, 0, 0.5, 1]),
        (" 1  to -1 in 3 ", [1, 0, -1]),
        ("0 to 1 in 4", [0, 0.333333, 0.666667, 1]),
        ("2", [2]),
        ("0.5 to 2 in 1", [0.5]),
        ("1;2 3", [1, 2, 3]),
    ],
)
def test_strengths_are_read_from_lists_and_ranges(text, expected):
    assert strengths_in(text, "strengths") == expected


@pytest.mark.parametrize(
    "text", ["a", "1 to", "-1 to x in 3", "-1 to 1 in 0", "-1 to 1 in 2.5", "nan", "inf to 1 in 2", "1 to 2 in 3-4", " "]
)
def test_what_is_no_strength_is_refused_by_name(text):
    with pytest.raises(ValueError, match="^strengths_2: "):
        strengths_in(text, "strengths_2")


def test_the_scores_are_cosines_of_picture_and_text(demo, run, scorer):
    from pack.host.scorer import text_embedding

    sheet, images, table = strip(run, demo, "0, 1", seeds=2, scorer_text="a portrait, hat", **scorer)
    text = text_embedding(scorer["clip"], "a portrait, hat").cpu()
    shown = scorer["clip_vision"].encode_image(images)["image_embeds"].float().cpu()
    cosines = torch.nn.functional.cosine_similarity(shown, text[None], dim=1)
    head, *rows = [line.split("\t") for line in table.splitlines()]
    assert head == ["", "0", "+1"]
    assert [row[0] for row in rows] == ["seed 7", "seed 8"]
    np.testing.assert_allclose([[float(cell) for cell in row[1:]] for row in rows], cosines.reshape(2, 2), atol=2e-3)
    plain, alike, _ = strip(run, demo, "0, 1", seeds=2)
    assert torch.equal(alike, images)
    assert sheet.shape[1] > plain.shape[1]  # room for the scores


def test_the_sheet_holds_every_picture_in_its_place_under_its_strength(demo, run):
    from pack.core.pictures.sheet import labelled_grid

    sheet, images, _ = strip(run, demo, "-1, 0.25", seeds=2)
    sides = ["seed 7", "seed 8"]
    assert torch.equal(sheet, labelled_grid(list(images), columns=2, title="a portrait, blue hair", heads=["-1", "+0.25"], sides=sides))
    sheet, images, _ = strip(run, demo, "-1, 0.25")
    assert torch.equal(sheet, labelled_grid(list(images), columns=2, title="a portrait, blue hair, seed 7", heads=["-1", "+0.25"]))
    second = slider_of(run, demo, "a portrait, hat")
    sheet, images, _ = strip(run, demo, "1", slider_2=second, strengths_2="0, 1")
    title = "across: a portrait, blue hair; down: a portrait, hat"
    assert torch.equal(sheet, labelled_grid(list(images), columns=1, title=title, heads=["+1"], sides=["0", "+1"]))


@pytest.mark.parametrize("world", ["demo", "WAN21_T2V"], indirect=True)
def test_a_second_run_equals_the_first_and_the_model_stays_as_it_was(world, run):
    before = stock(world)
    first, second = (strip(run, world, "-1, 0, 1", seeds=2)[:2] for _ in range(2))
    assert all(map(torch.equal, first, second))
    assert torch.equal(stock(world), before)


@pytest.fixture
def sent(monkeypatch):
    """What the host's progress bar was told: (value, total, preview)."""
    import comfy.utils

    seen = []
    monkeypatch.setattr(comfy.utils, "PROGRESS_BAR_HOOK", lambda value, total, preview, node_id=None: seen.append((value, total, preview)))
    return seen


@pytest.mark.parametrize("batch_size", [1, 0])
def test_one_progress_bar_runs_over_all_pictures_and_shows_them(demo, run, sent, batch_size):
    sheet, *_ = strip(run, demo, "-1, 0, 1", seeds=2, batch_size=batch_size)
    *ticks, last = sent
    runs, pictures = (6, 6) if batch_size == 1 else (3, 6)
    shown = [(value, preview[1].size) for value, _, preview in ticks if preview]
    assert shown == [(value, (24, 16)) for value in range(1, runs * STEPS + 1)]
    assert {total for _, total, _ in sent} == {runs * STEPS + pictures}  # a tick more for each picture to be decoded
    assert last[0] == runs * STEPS + pictures
    assert last[2][1].size == (sheet.shape[2], sheet.shape[1])


def test_cancel_ends_it_within_a_step_and_leaves_nothing_behind(demo, run, sent, monkeypatch):
    """Cancelled in the second picture's second step: no third step is sent, and the next strip is as ever."""
    import comfy.model_management as management

    from pack.host.progress import Bar

    expected, plain = strip(run, demo, "-1, 0, 1")[1], stock(demo)
    sent.clear()
    whole = Bar.tick

    def tick(self, *args):
        if self.done == STEPS + 1:
            management.interrupt_current_processing()
        whole(self, *args)

    with monkeypatch.context() as patched:
        patched.setattr(Bar, "tick", tick)
        with pytest.raises(management.InterruptProcessingException):
            strip(run, demo, "-1, 0, 1")
    assert len(sent) == STEPS + 1
    assert torch.equal(strip(run, demo, "-1, 0, 1")[1], expected)
    assert torch.equal(stock(demo), plain)
