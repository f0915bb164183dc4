"""What the shapes of a pixel-space UNet's weights say of it, and the defaults for what they leave open."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from ..files import Shapes
from .layouts import ATTENTION, Layout

Order = Literal["by head", "by kind"]
NoiseSchedule = Literal["linear", "cosine"]
Conventions = Literal["DDPM", "guided diffusion"]
STEPS = (1000, 4000)
NAMED = 4  # keys in a message
GROUPS = 32  # of the network's group norms


@dataclass(frozen=True)
class Level:
    """The blocks of one resolution. encoder, decoder: for each of their residual blocks, whether attention follows it."""

    channels: int
    encoder: tuple[bool, ...]
    decoder: tuple[bool, ...]


@dataclass(frozen=True)
class Configuration:
    """A UNet for RGB pictures, as its weights tell it.

    width: the channels that multipliers are of; the time embedding has four times as many. stem: those of the first convolution.
    levels: from the pictures' own resolution down, each half of the one before. resamples: whether residual blocks change the
    resolution, in place of convolutions. outputs: 3, or 6 where the network predicts the variance, too. classes: of its labels.
    """

    width: int
    stem: int
    levels: tuple[Level, ...]
    middle_attention: bool
    scale_shift: bool
    resamples: bool
    outputs: int
    classes: int | None

    @property
    def multipliers(self) -> tuple[float, ...]:
        """The channels of each level in units of width, whole numbers as int."""
        ratios = [level.channels / self.width for level in self.levels]
        return tuple(int(ratio) if ratio.is_integer() else ratio for ratio in ratios)

    @property
    def embedded(self) -> int:
        """Channels of the time embedding."""
        return 4 * self.width

    def encoder_widths(self) -> list[int]:
        """Channels after each input block."""
        widths = [self.stem]
        for i, level in enumerate(self.levels):
            widths += [level.channels] * (len(level.encoder) + (i < len(self.levels) - 1))
        return widths

    def attentions(self) -> set[int]:
        """The channels at which there is attention."""
        inside = {level.channels for level in self.levels if any(level.encoder + level.decoder)}
        return inside | ({self.levels[-1].channels} if self.middle_attention else set())


@dataclass(frozen=True)
class Reading:
    """What no weight says, and changes all that the network predicts.

    heads: how many of each attention, or None where head_channels tells how many channels each has. order: how the rows of a joint
    q, k and v lie: head by head, or all q, all k, all v. conventions: DDPM's group norms add 1e-6 to the variance, its time embedding is
    sine, then cosine, over frequencies that end at 1/10000, and its downsampling pads at the right and below only; guided
    diffusion's have 1e-5, cosine, then sine, over frequencies that end ahead of it, and padding at all sides.
    """

    heads: int | None
    head_channels: int | None
    order: Order
    schedule: NoiseSchedule
    steps: int
    conventions: Conventions

    def heads_of(self, channels: int) -> int:
        """The number of heads of an attention on so many channels. Raises ValueError if they cannot be divided so."""
        each = self.head_channels or channels // (self.heads or 1)
        if each < 1 or channels % each or (self.heads and each * self.heads != channels):
            told = f"{self.head_channels} channels each" if self.head_channels else f"{self.heads}"
            raise ValueError(f"heads: got {told}, but this network has an attention on {channels} channels, which they do not divide.")
        return channels // each


def default_reading(configuration: Configuration, layout: Layout) -> Reading:
    """How the public checkpoints of this layout and shape are to be read (Dhariwal & Nichol 2021; Nichol & Dhariwal 2021; Ho et al. 2020).

    Two networks of guided diffusion differ from their kin: that for ImageNet at 128 has 4 heads, that at 64 the newer order
    and the cosine schedule.
    """
    if not layout.joint:
        return Reading(1, None, "by kind", "linear", 1000, "DDPM")
    shape = configuration.width, configuration.multipliers, len(configuration.levels[0].encoder)
    if configuration.resamples:
        if shape == (256, (1, 1, 2, 3, 4), 2):
            return Reading(4, None, "by head", "linear", 1000, "guided diffusion")
        if shape == (192, (1, 2, 3, 4), 3):
            return Reading(None, 64, "by kind", "cosine", 1000, "guided diffusion")
        return Reading(None, 64, "by head", "linear", 1000, "guided diffusion")
    if configuration.scale_shift:
        return Reading(4, None, "by head", "cosine", 4000, "guided diffusion")
    return Reading(1, None, "by head", "linear", 1000, "guided diffusion")


def configuration_of(layout: Layout, shapes: Shapes) -> Configuration:
    """The network whose weights have the shapes of a file. Raises ValueError that names keys which are unknown, missing or misshapen."""
    found, surplus = layout.shapes(shapes), layout.surplus(shapes)
    if surplus:
        raise ValueError(f"it has tensors that are no part of a {layout.name} network: {named(surplus)}")
    configuration = _read(layout, found)
    expected = dict(expected_shapes(configuration))
    missing = [layout.in_file(key) for key in expected if key not in found]
    if missing:
        raise ValueError(f"it lacks tensors of its {layout.name} network: {named(missing)}")
    unknown = [layout.in_file(key) for key in found if key not in expected]
    if unknown:
        raise ValueError(f"it has tensors that are no part of its {layout.name} network: {named(unknown)}")
    other = [f"{layout.in_file(key)} is {found[key]}, not {shape}" for key, shape in expected.items() if found[key] != shape]
    if other:
        raise ValueError(f"its tensors do not fit each other: {named(other)}")
    uneven = [key for key, shape in expected.items() if key.endswith(("in_layers.0.weight", "out_layers.0.weight")) and shape[0] % GROUPS]
    if uneven:
        raise ValueError(f"its {layout.in_file(uneven[0])} has {expected[uneven[0]][0]} channels, which are no multiple of {GROUPS}")
    return configuration


def named(keys: list[str]) -> str:
    """The first of some keys, and how many more there are."""
    more = f", and {len(keys) - NAMED} more" if len(keys) > NAMED else ""
    return ", ".join(keys[:NAMED]) + more


def _read(layout: Layout, found: Shapes) -> Configuration:
    """The configuration by the parts that tell it; what does not fit shows when all shapes are compared."""

    def shape(key: str, dimensions: int) -> tuple[int, ...]:
        if key not in found:
            raise ValueError(f"it lacks tensors of its {layout.name} network: {layout.in_file(key)}")
        if len(found[key]) != dimensions or min(found[key]) < 1:
            raise ValueError(f"its {layout.in_file(key)} has the shape {found[key]}, which is none of a UNet for pictures")
        return found[key]

    width, (stem, inputs, *_) = shape("time_embed.0.weight", 2)[1], shape("input_blocks.0.0.weight", 4)
    outputs = shape("out.2.weight", 4)[0]
    if inputs != 3 or outputs not in (3, 6):
        raise ValueError(
            f"it takes {inputs} channels and gives {outputs}; a network is read that takes pictures of 3 channels and gives 3, or 6 with "
            "their variance"
        )
    heads = {".".join(key.split(".")[: i + 1]) for key in found for i in range(key.count("."))}

    def attends(block: str) -> bool:
        return any(f"{block}.1.{part}" in heads for part in ATTENTION)

    runs = _decoder(heads)
    levels, number, resamples = [], 1, False
    for i, run in enumerate(reversed(runs)):  # the decoder goes from the lowest resolution up
        count = len(run) - 1
        channels = shape(f"output_blocks.{run[0]}.0.out_layers.3.weight", 4)[0]
        encoder = tuple(attends(f"input_blocks.{n}") for n in range(number, number + count))
        levels.append(Level(channels, encoder, tuple(attends(f"output_blocks.{n}") for n in run)))
        number += count
        if i < len(runs) - 1:
            resamples = resamples or f"input_blocks.{number}.0.in_layers" in heads
            number += 1
    emb = shape("middle_block.0.emb_layers.1.weight", 2)[0]
    middle = shape("middle_block.0.out_layers.3.weight", 4)[0]
    return Configuration(
        width,
        stem,
        tuple(levels),
        attends("middle_block"),
        emb == 2 * middle,
        resamples,
        outputs,
        shape("label_emb.weight", 2)[0] if "label_emb.weight" in found else None,
    )


def _decoder(heads: set[str]) -> list[list[int]]:
    """The numbers of the output blocks, level by level from the lowest resolution; a level ends where a block also enlarges.

    heads: the dotted beginnings of all keys.
    """
    runs: list[list[int]] = [[]]
    number = 0
    while f"output_blocks.{number}.0" in heads:
        runs[-1].append(number)
        if any(f"output_blocks.{number}.{place}.{layer}" in heads for place in (1, 2) for layer in ("conv", "in_layers")):
            runs.append([])
        number += 1
    if not runs[0] or not runs[-1]:
        raise ValueError(
            "it lacks the decoder of a UNet (output_blocks, or what its layout calls them), or has a part of it; a classifier has none"
        )
    return runs


def expected_shapes(configuration: Configuration) -> Iterator[tuple[str, tuple[int, ...]]]:
    """The canonical key and the shape of each weight of a network."""
    c, embedded = configuration, configuration.embedded
    yield from _weight_and_bias("time_embed.0", (embedded, c.width))
    yield from _weight_and_bias("time_embed.2", (embedded, embedded))
    if c.classes is not None:
        yield "label_emb.weight", (c.classes, embedded)
    yield from _weight_and_bias("input_blocks.0.0", (c.stem, 3, 3, 3))
    channels, number = c.stem, 1
    for i, level in enumerate(c.levels):
        for attention in level.encoder:
            yield from _unit(c, f"input_blocks.{number}", channels, level.channels, attention)
            channels, number = level.channels, number + 1
        if i < len(c.levels) - 1:
            yield from _resampling(c, f"input_blocks.{number}.0", channels, "op")
            number += 1
    yield from _res_block(c, "middle_block.0", channels, channels)
    if c.middle_attention:
        yield from _attention("middle_block.1", channels)
    yield from _res_block(c, f"middle_block.{1 + c.middle_attention}", channels, channels)
    widths, number = c.encoder_widths(), 0
    for i, level in reversed(list(enumerate(c.levels))):
        for attention in level.decoder:
            yield from _unit(c, f"output_blocks.{number}", channels + widths.pop(), level.channels, attention)
            channels, number = level.channels, number + 1
        if i:
            yield from _resampling(c, f"output_blocks.{number - 1}.{1 + level.decoder[-1]}", channels, "conv")
    yield from _weight_and_bias("out.0", (channels,))
    yield from _weight_and_bias("out.2", (c.outputs, channels, 3, 3))


def _weight_and_bias(key: str, shape: tuple[int, ...]) -> Iterator[tuple[str, tuple[int, ...]]]:
    yield f"{key}.weight", shape
    yield f"{key}.bias", shape[:1]


def _res_block(c: Configuration, key: str, inputs: int, outputs: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    yield from _weight_and_bias(f"{key}.in_layers.0", (inputs,))
    yield from _weight_and_bias(f"{key}.in_layers.2", (outputs, inputs, 3, 3))
    yield from _weight_and_bias(f"{key}.emb_layers.1", ((1 + c.scale_shift) * outputs, c.embedded))
    yield from _weight_and_bias(f"{key}.out_layers.0", (outputs,))
    yield from _weight_and_bias(f"{key}.out_layers.3", (outputs, outputs, 3, 3))
    if inputs != outputs:
        yield from _weight_and_bias(f"{key}.skip_connection", (outputs, inputs, 1, 1))


def _attention(key: str, channels: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    yield from _weight_and_bias(f"{key}.norm", (channels,))
    yield from _weight_and_bias(f"{key}.qkv", (3 * channels, channels, 1))
    yield from _weight_and_bias(f"{key}.proj_out", (channels, channels, 1))


def _unit(c: Configuration, key: str, inputs: int, outputs: int, attention: bool) -> Iterator[tuple[str, tuple[int, ...]]]:
    yield from _res_block(c, f"{key}.0", inputs, outputs)
    if attention:
        yield from _attention(f"{key}.1", outputs)


def _resampling(c: Configuration, key: str, channels: int, convolution: str) -> Iterator[tuple[str, tuple[int, ...]]]:
    if c.resamples:
        yield from _res_block(c, key, channels, channels)
    else:
        yield from _weight_and_bias(f"{key}.{convolution}", (channels, channels, 3, 3))
