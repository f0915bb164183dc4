"""Public pixel-space checkpoints are known by their keys and shapes, and others are refused by name."""

import pytest

from pack.core.pixel.configuration import configuration_of, default_reading, expected_shapes
from pack.core.pixel.layouts import layout_of
from pack.tests.pixel import CHECKPOINTS, READ, shapes_of

SMALL = dict(width=32, multipliers=(1, 2), blocks=1, attention=(1,))
EACH = [
    dict(SMALL, layout="DDPM"),
    dict(SMALL, layout="diffusers"),
    dict(SMALL, layout="guided diffusion"),
    dict(SMALL, layout="guided diffusion", scale_shift=True, resamples=True, outputs=6, classes=7),
]


def read(shapes):
    layout = layout_of(shapes)
    return layout, configuration_of(layout, shapes)


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_public_checkpoints_are_known_by_their_shapes(name):
    settings = CHECKPOINTS[name]
    layout, found = read(shapes_of(**settings))
    blocks, levels = settings["blocks"], range(len(settings["multipliers"]))
    assert layout.name == settings["layout"]
    assert (found.width, found.multipliers) == (settings["width"], settings["multipliers"])
    assert all(isinstance(m, int) for m in found.multipliers if m != 0.5)
    assert [level.encoder for level in found.levels] == [(i in settings["attention"],) * blocks for i in levels]
    assert [level.decoder for level in found.levels] == [(i in settings["attention"],) * (blocks + 1) for i in levels]
    assert found.middle_attention
    options = found.scale_shift, found.resamples, found.outputs, found.classes
    assert options == tuple(
        settings.get(key, other) for key, other in dict(scale_shift=False, resamples=False, outputs=3, classes=None).items()
    )


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_public_checkpoints_are_read_as_their_authors_do(name):
    layout, found = read(shapes_of(**CHECKPOINTS[name]))
    reading = default_reading(found, layout)
    heads, order, schedule, steps = READ.get(name, (1, "by kind", "linear", 1000))
    channels = found.levels[-1].channels
    assert (reading.heads_of(channels), reading.order, reading.schedule, reading.steps) == (heads, order, schedule, steps)
    assert reading.conventions == ("guided diffusion" if layout.joint else "DDPM")


@pytest.mark.parametrize("settings", EACH)
def test_every_weight_of_a_network_is_expected_with_its_shape(settings):
    shapes = shapes_of(**settings)
    layout, found = read(shapes)
    assert dict(expected_shapes(found)) == layout.shapes(shapes)


def test_attention_of_older_diffusers_is_known():
    new = shapes_of(layout="diffusers", **SMALL)
    names = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}

    def older(key):
        return next((key.replace(f".{name}.", f".{old}.") for name, old in names.items() if f".{name}." in key), key)

    assert read({older(key): shape for key, shape in new.items()})[1] == read(new)[1]


@pytest.mark.parametrize("settings", EACH)
def test_each_missing_weight_is_named(settings):
    shapes = shapes_of(**settings)
    for key in shapes.keys() - {"label_emb.weight"}:  # without labels it is another network, and whole
        with pytest.raises(ValueError, match=r"lacks tensors of .*|no pixel-space UNet") as error:
            read({other: shape for other, shape in shapes.items() if other != key})
        assert key in str(error.value)


@pytest.mark.parametrize("settings", EACH)
@pytest.mark.parametrize("key", ["alpha", "input_blocks.1.0.other.weight", "down.0.block.9.conv1.weight", "down.9.block.0.conv1.weight"])
def test_surplus_weights_are_named(settings, key):
    with pytest.raises(ValueError, match=f"no part of .*{key}"):
        read({**shapes_of(**settings), key: (1,)})


@pytest.mark.parametrize("settings", EACH)
def test_each_weight_of_another_shape_is_refused(settings):
    shapes = shapes_of(**settings)
    for key, shape in shapes.items():
        for other in () if key == "label_emb.weight" else ((), (shape[0] + 1, *shape[1:]), (*shape, 2), (0, *shape[1:])):
            with pytest.raises(ValueError, match="it|its"):
                read({**shapes, key: other})


def test_what_is_no_pixel_network_is_named():
    shapes = shapes_of(**EACH[2])
    with pytest.raises(ValueError, match="none of|no pixel-space UNet"):
        read({"lora_unet.weight": (1, 2)})
    with pytest.raises(ValueError, match="reads prompts"):
        read({**shapes, "input_blocks.1.1.transformer_blocks.0.norm1.weight": (32,)})
    with pytest.raises(ValueError, match="decoder"):
        read({key: shape for key, shape in shapes.items() if not key.startswith("output_blocks")})
    with pytest.raises(ValueError, match="takes 6 channels"):
        read({**shapes, "input_blocks.0.0.weight": (32, 6, 3, 3)})


def test_channels_that_group_norms_cannot_divide_are_named():
    whole = shapes_of(layout="guided diffusion", width=64, multipliers=(1, 1), blocks=1)  # of 48 a reference cannot be made
    shapes = {key: tuple(48 * (side // 64) if side % 64 == 0 else side for side in shape) for key, shape in whole.items()}
    with pytest.raises(ValueError, match=r"input_blocks\.1\.0\.in_layers\.0\.weight has 48 channels, which are no multiple of 32"):
        read(shapes)


def test_heads_that_do_not_divide_the_channels_are_refused():
    layout, found = read(shapes_of(**EACH[0]))
    from dataclasses import replace

    reading = default_reading(found, layout)
    with pytest.raises(ValueError, match="heads: got 3, but .* 64 channels"):
        replace(reading, heads=3).heads_of(64)
    with pytest.raises(ValueError, match="heads: got 128 channels each"):
        replace(reading, heads=None, head_channels=128).heads_of(64)
    assert replace(reading, heads=None, head_channels=16).heads_of(64) == 4
