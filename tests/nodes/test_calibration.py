"""Apply Slider and Calibrate Slider in the real host."""

import dataclasses

import pytest
import torch
from safetensors.torch import save_file

from pack.core.dial import Dial
from pack.tests.campaigns.lora import random_lora

DIAL = Dial(((-1.0, -2.0), (0.0, 0.0), (0.5, 0.25), (1.0, 1.5)))
SMILE = dict(without="a portrait", wanted="a portrait, big smile")


def made(run, world, strength=0.0, **changes):
    """Make Slider's outputs."""
    return run("MakeSlider", model=world.model, clip=world.clip, strength=strength, **{**SMILE, **changes})


def calibrated(run, world, slider, **changes):
    """Calibrate Slider's outputs, with as little work as shows something."""
    prompts = dict(positive=world.encode("a portrait"), negative=world.encode(""))
    numbers = dict(latent=world.empty(), seed=3, seeds=2, steps=4, cfg=3.0)
    return run("CalibrateSlider", **{**dict(model=world.model, slider=slider, vae=world.vae), **prompts, **numbers, **changes})


def applied(run, world, slider, strength, *, model=None, **more):
    return run("ApplySlider", model=model or world.model, slider=slider, strength=strength, **more)[0]


def drawn(world, sampler_of, model=None):
    return world.sample(sampler_of("euler"), steps=4, model=model)


@pytest.fixture(scope="module")
def smile(sd3, run, tmp_path_factory):
    """A smile, and what Calibrate Slider makes of it."""
    import folder_paths

    folder_paths.set_temp_directory(str(tmp_path_factory.mktemp("temp")))
    with torch.inference_mode():
        plain = made(run, sd3)[1]
        return plain, calibrated(run, sd3, plain)


def under(dial, slider):
    from pack.host.sliders import CalibratedSlider

    return CalibratedSlider(slider, dial)


def test_the_unit_rises_from_end_to_end_through_0(sd3, smile):
    plain, (unit, _, info) = smile
    shown = [i / 20 for i in range(-20, 21)]
    strengths = [unit.dial.strength(x) for x in shown]
    assert strengths == sorted(set(strengths))
    assert unit.dial.strength(0.0) == 0
    assert unit.slider is plain
    assert unit.name == plain.name
    assert f"-1 is strength {strengths[0]:.2f}, 1 is strength {strengths[-1]:.2f}" in info


def test_its_ends_are_the_strongest_that_was_tried_where_the_pictures_go_no_farther(sd3, run, smile, monkeypatch):
    import pack.host.calibration as calibration

    unit, _, info = smile[1]
    assert -3 < unit.dial.strength(-1.0) < 0 < unit.dial.strength(1.0) < 3
    assert "there the pictures have gone 35.0% and 35.0% of the way" in info
    assert "nothing was tried" not in info
    monkeypatch.setattr(calibration, "FARTHEST", 99.0)
    farther, _, info = calibrated(run, sd3, smile[0])
    assert (farther.dial.strength(-1.0), farther.dial.strength(1.0)) == (-3.0, 3.0)
    assert "Beyond 3 nothing was tried." in info


def test_the_largest_step_is_smaller_than_before(smile):
    *_, last = smile[1][2].splitlines()
    before, after = (float(part.split("%")[0]) for part in last.removeprefix("Largest of 8 steps: ").split(" of the whole way before, "))
    assert after < before


def test_the_steps_are_the_pictures_own(sd3, run, smile):
    """The same distances from Slider Strip's pictures, and the dial that follows from them."""
    from pack.host.calibration import TRIED, Way

    strengths = [-x for x in reversed(TRIED)] + [0.0, *TRIED]
    prompts = dict(positive=sd3.encode("a portrait"), negative=sd3.encode(""))
    how = dict(latent=sd3.empty(), vae=sd3.vae, seed=3, seeds=2, steps=4, cfg=3.0, strengths=", ".join(map(str, strengths)))
    images = run("SliderStrip", model=sd3.model, slider=smile[0], **prompts, **how)[1]
    assert Way.of(strengths, images.movedim(-1, 1).unflatten(0, (2, 15)) * 2 - 1).dial() == smile[1][0].dial


def test_the_picture_shows_the_way(smile):
    picture = smile[1][1]
    assert picture.shape[0] == 1
    assert picture.shape[-1] == 3
    assert float(picture.std()) > 0.05


def test_a_second_calibration_equals_the_first_and_the_model_stays_as_it_was(sd3, run, smile, sampler_of):
    plain = drawn(sd3, sampler_of)
    again, picture, info = calibrated(run, sd3, smile[0])
    first, shown, told = smile[1]
    assert again.dial == first.dial
    assert torch.equal(picture, shown)
    assert info == told
    assert torch.equal(drawn(sd3, sampler_of), plain)


def test_a_calibrated_slider_is_calibrated_from_the_plain_one(sd3, run, smile):
    """Not the unit of a unit."""
    other = under(DIAL, smile[0])
    again = calibrated(run, sd3, other)[0]
    assert again.slider is smile[0]
    assert again.dial == smile[1][0].dial


def test_strength_0_is_the_model_itself_and_others_are_those_of_the_dial(sd3, run, smile, sampler_of):
    plain, unit = smile[0], under(DIAL, smile[0])
    assert applied(run, sd3, unit, 0.0) is sd3.model
    for shown, strength in ((-1.0, -2.0), (0.25, 0.125), (0.75, 0.875), (1.0, 1.5), (2.0, 3.0)):
        found = drawn(sd3, sampler_of, applied(run, sd3, unit, shown))
        assert torch.equal(found, drawn(sd3, sampler_of, applied(run, sd3, plain, strength)))
        assert not torch.equal(found, drawn(sd3, sampler_of))


def test_words_that_change_nothing_to_be_seen_are_refused(sd3, run, smile):
    """The same words twice but for one that the model hardly knows."""
    ((embedding, extras),) = smile[0].minus
    moved = [[embedding + 1e-4 * torch.randn(embedding.shape, generator=torch.Generator().manual_seed(0)), extras]]
    nothing = dataclasses.replace(smile[0], plus=moved)
    with pytest.raises(ValueError, match="^slider: at strengths up to 3 the pictures change by 0.* which nobody sees"):
        calibrated(run, sd3, nothing)


def test_cancel_ends_a_calibration(sd3, run, smile, monkeypatch):
    import comfy.model_management as management

    calls = []

    def cancelled():
        calls.append(1)
        if len(calls) > 8:
            raise management.InterruptProcessingException

    monkeypatch.setattr(management, "throw_exception_if_processing_interrupted", cancelled)
    with pytest.raises(management.InterruptProcessingException):
        calibrated(run, sd3, smile[0])
    monkeypatch.undo()
    assert calibrated(run, sd3, smile[0])[0].dial == smile[1][0].dial


def test_of_a_batch_the_first_latent_counts(sd3, run, smile):
    """With its mask and its place in the batch that it was picked from."""
    batch = {"samples": torch.zeros(2, 16, 16, 16), "noise_mask": torch.ones(2, 16, 16), "batch_index": [1, 4]}
    alone = {"samples": batch["samples"][:1], "noise_mask": batch["noise_mask"][:1], "batch_index": [1]}
    assert calibrated(run, sd3, smile[0], latent=batch)[0].dial == calibrated(run, sd3, smile[0], latent=alone)[0].dial


@pytest.mark.parametrize(
    "changes, message",
    [
        (dict(latent={"samples": torch.zeros(1, 4, 8)}), "^latent: got shape"),
        (
            dict(latent={"samples": torch.zeros(1, 16, 16, 16), "noise_mask": torch.zeros(1, 16, 16)}),
            "^latent: all seeds draw the same picture",
        ),
        (dict(seeds=1), "^seeds: got 1"),
        (dict(cfg=float("nan")), "^cfg: got nan"),
    ],
)
def test_bad_input_is_refused_by_name(sd3, run, smile, changes, message):
    with pytest.raises(ValueError, match=message):
        calibrated(run, sd3, smile[0], **changes)


def test_a_slider_of_another_family_is_refused_by_name(sd3, shaped, run, smile):
    flux = shaped("Flux")
    for slider in (smile[0], smile[1][0]):
        with pytest.raises(ValueError, match="^slider: 'a portrait, big smile' was made on a model of the family SD3"):
            calibrated(run, flux, slider)
        with pytest.raises(ValueError, match="^slider: 'a portrait, big smile' was made on a model of the family SD3"):
            applied(run, flux, slider, 1.0)


def test_a_calibrated_slider_saved_and_loaded_is_the_same_bit_for_bit(folders, sd3, run, smile, sampler_of):
    unit = smile[1][0]
    assert run("SaveSlider", slider=unit, filename_prefix="smile")[0] is unit
    for shown in (-0.6, 0.3):
        model, loaded = run("LoadSlider", model=sd3.model, file="smile_00001_.safetensors", strength=shown)
        expected = drawn(sd3, sampler_of, applied(run, sd3, unit, shown))
        assert torch.equal(drawn(sd3, sampler_of, model), expected)
        assert torch.equal(drawn(sd3, sampler_of, applied(run, sd3, loaded, shown)), expected)
        assert not torch.equal(expected, drawn(sd3, sampler_of))
    assert loaded.dial == unit.dial
    assert run("LoadSlider", model=sd3.model, file="smile_00001_.safetensors", strength=0.0)[0] is sd3.model


def test_a_unit_that_no_file_can_keep_is_refused_by_name(folders, sd3, run, random_direction, attribute):
    from pack.host.sliders import AttributeSlider, DirectionSlider, LoraSlider

    for slider in (
        DirectionSlider("turn", random_direction(1)),
        AttributeSlider("hair", attribute),
        LoraSlider("some", random_lora(sd3.model)),
    ):
        message = f"^slider: '{slider.name}' is not from words, and its kind of file has no place for the unit of Calibrate Slider"
        with pytest.raises(ValueError, match=message):
            run("SaveSlider", slider=under(DIAL, slider), filename_prefix="slider")
    assert not list((folders / "output").rglob("*.safetensors"))


def test_a_lora_gets_a_unit_too(sd3, run, folders, monkeypatch):
    """Of random weights, which change the whole picture; so its range ends early."""
    import folder_paths

    (folders / "loras").mkdir()
    monkeypatch.setitem(folder_paths.folder_names_and_paths, "loras", ([str(folders / "loras")], {".safetensors"}))
    save_file(random_lora(sd3.model), folders / "loras/some.safetensors")
    lora = run("LoadSlider", model=sd3.model, file="loras/some.safetensors", strength=0.0)[1]
    unit = calibrated(run, sd3, lora)[0]
    assert unit.slider is lora
    assert -3 <= unit.dial.strength(-1.0) < 0 < unit.dial.strength(1.0) <= 3


@pytest.mark.parametrize("changes", [{}, dict(focus=0.0), dict(place="cross-attention"), dict(opposite="a portrait, very sad")])
def test_apply_slider_is_make_slider_bit_for_bit(demo, run, sampler_of, changes):
    mask = torch.zeros(1, 32, 32)
    mask[..., :16] = 1
    slider = made(run, demo, **changes)[1]
    for strength, given in ((1.5, {}), (-0.5, {}), (1.5, dict(mask=mask))):
        expected = drawn(demo, sampler_of, made(run, demo, strength, **changes, **given)[0])
        assert torch.equal(drawn(demo, sampler_of, applied(run, demo, slider, strength, **given)), expected)
        assert not torch.equal(expected, drawn(demo, sampler_of))
    assert applied(run, demo, slider, 0.0) is demo.model
    assert applied(run, demo, slider, 1.0, mask=torch.zeros(1, 32, 32)) is demo.model


def test_sliders_chain_like_make_slider(sd3, run, sampler_of, smile):
    hat = made(run, sd3, wanted="a portrait, hat")[1]
    chained = applied(run, sd3, under(DIAL, smile[0]), 1.0, model=applied(run, sd3, hat, 0.8))
    first = made(run, sd3, 0.8, wanted="a portrait, hat")[0]
    expected = run("MakeSlider", model=first, clip=sd3.clip, strength=1.5, **SMILE)[0]
    assert torch.equal(drawn(sd3, sampler_of, chained), drawn(sd3, sampler_of, expected))
    assert not torch.equal(drawn(sd3, sampler_of, chained), drawn(sd3, sampler_of, first))
