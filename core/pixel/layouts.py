"""The layouts of public pixel-space checkpoints, and where each weight of the network lies in them.

All are brought to the names of guided diffusion (Dhariwal & Nichol 2021), `input_blocks.1.0.in_layers.0.weight` and so on, which are
those of improved diffusion (Nichol & Dhariwal 2021) too. DDPM's (Ho et al. 2020, in its PyTorch ports) count levels, `down.0.block.0`;
diffusers' UNet2DModel has `down_blocks.0.resnets.0`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from ..files import Shapes

LayoutName = Literal["DDPM", "guided diffusion", "diffusers"]
MARKS: dict[LayoutName, str] = {
    "DDPM": "temb.dense.0.weight",
    "guided diffusion": "time_embed.0.weight",
    "diffusers": "time_embedding.linear_1.weight",
}
BOTH = ("weight", "bias")
# The last part of names by the canonical one, for each kind of block.
RES_BLOCK = ("in_layers.0", "in_layers.2", "emb_layers.1", "out_layers.0", "out_layers.3", "skip_connection")
ATTENTION = ("norm", "qkv", "proj_out")
NAMES: dict[LayoutName, dict[str, tuple[str, ...]]] = {
    "DDPM": {
        **dict(zip(RES_BLOCK, (("norm1",), ("conv1",), ("temb_proj",), ("norm2",), ("conv2",), ("nin_shortcut",)), strict=True)),
        **dict(zip(ATTENTION, (("norm",), ("q", "k", "v"), ("proj_out",)), strict=True)),
    },
    "diffusers": {
        **dict(zip(RES_BLOCK, (("norm1",), ("conv1",), ("time_emb_proj",), ("norm2",), ("conv2",), ("conv_shortcut",)), strict=True)),
        **dict(zip(ATTENTION, (("group_norm",), ("to_q", "to_k", "to_v"), ("to_out.0",)), strict=True)),
    },
}
OLDER = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}  # diffusers before 0.15


@dataclass(frozen=True)
class Layout:
    """Which keys of a file make each weight of the network.

    parts: by the canonical key the file's keys, of which there are three for q, k and v that lie by themselves.
    """

    name: LayoutName
    parts: dict[str, tuple[str, ...]]

    @property
    def joint(self) -> bool:
        """Whether q, k and v of an attention are one weight, in which the order of the heads is open."""
        return self.name == "guided diffusion"

    def shapes(self, shapes: Shapes) -> Shapes:
        """The canonical shapes of the weights that a file of these shapes has; q, k, v and the projection as convolutions of length."""
        found = {key: [shapes[part] for part in parts] for key, parts in self.parts.items() if all(part in shapes for part in parts)}
        return {key: canonical_shape(key, some) for key, some in found.items()}

    def surplus(self, shapes: Shapes) -> list[str]:
        """The keys of a file that are no part of the network."""
        known = {part for parts in self.parts.values() for part in parts}
        return [key for key in shapes if key not in known]

    def in_file(self, key: str) -> str:
        """A canonical key by its name in the file."""
        return ", ".join(self.parts.get(key, (key,)))


def canonical_shape(key: str, parts: list[tuple[int, ...]]) -> tuple[int, ...]:
    """The shape of what parts of these shapes make; the shape (0,) where they do not fit each other."""
    if len(set(parts)) > 1 or not parts[0]:
        return (0,)
    shape = (len(parts) * parts[0][0], *parts[0][1:])
    if is_projection(key) and (len(shape) == 2 or shape[2:] == (1, 1)):
        return (*shape[:2], 1)
    return shape


def is_projection(key: str) -> bool:
    """Whether this is the matrix of an attention's q, k and v or of its output."""
    return key.endswith((".qkv.weight", ".proj_out.weight"))


def layout_of(shapes: Shapes) -> Layout:
    """The layout of a file whose tensors have these shapes. Raises ValueError for one of no known layout."""
    names = [name for name, mark in MARKS.items() if mark in shapes]
    if any(".transformer_blocks." in key for key in shapes):
        raise ValueError("it is a network that reads prompts; Load Checkpoint or Load Diffusion Model loads those")
    if len(names) != 1:
        some = ", ".join(list(shapes)[:3]) or "none"
        raise ValueError(
            f"its tensors ({some}, ...) are those of no pixel-space UNet that is known here: one of {', '.join(MARKS.values())} has to be "
            "among them"
        )
    (name,) = names
    if name == "guided diffusion":
        return Layout(name, {key: (key,) for key in shapes if is_canonical(key)})
    heads = {".".join(key.split(".")[: i + 1]) for key in shapes for i in range(key.count("."))}
    walk = _ddpm if name == "DDPM" else _diffusers
    parts = dict(walk(heads))
    if name == "diffusers" and any(key.endswith(".query.weight") for key in shapes):
        parts = {key: tuple(_older(part) for part in some) for key, some in parts.items()}
    return Layout(name, parts)


def is_canonical(key: str) -> bool:
    """Whether the network has weights of this kind of name."""
    first, *rest = key.split(".")
    if first in ("time_embed", "out"):
        return len(rest) == 2 and rest[1] in BOTH
    if first == "label_emb":
        return rest == ["weight"]
    inner = rest[1:] if first in ("input_blocks", "output_blocks") else rest if first == "middle_block" else []
    name = ".".join(inner[1:-1])
    return bool(inner) and inner[-1] in BOTH and name in (*RES_BLOCK, *ATTENTION, "", "op", "conv")


def _older(key: str) -> str:
    return next((key.replace(f".{new}.", f".{old}.") for new, old in OLDER.items() if f".{new}." in key), key)


def _count(heads: Mapping[str, object] | set[str], prefix: str) -> int:
    """How many of prefix0, prefix1, ... there are, up to the first that is missing."""
    count = 0
    while f"{prefix}{count}" in heads:
        count += 1
    return count


def _plain(pairs: Iterable[tuple[str, str]]) -> Iterator[tuple[str, tuple[str, ...]]]:
    for key, part in pairs:
        for end in BOTH:
            yield f"{key}.{end}", (f"{part}.{end}",)


def _block(layout: LayoutName, kind: tuple[str, ...], key: str, part: str) -> Iterator[tuple[str, tuple[str, ...]]]:
    for name in kind:
        for end in BOTH:
            yield f"{key}.{name}.{end}", tuple(f"{part}.{own}.{end}" for own in NAMES[layout][name])


@dataclass(frozen=True)
class _Names:
    """How a layout that counts levels calls its parts, each with the level's and the block's number to be put in."""

    layout: LayoutName
    down: str
    up: str
    block: str
    attention: str
    downsampler: str
    upsampler: str
    middle: tuple[str, str, str]
    rest: tuple[tuple[str, str], ...]
    upwards: bool  # whether the decoder's levels are counted from the largest pictures

    def walk(self, heads: set[str]) -> Iterator[tuple[str, tuple[str, ...]]]:
        """Canonical keys with the file's, for the levels and blocks that the file has."""
        yield from _plain(self.rest)
        first, attention, last = self.middle
        middle = [(RES_BLOCK, first), *([(ATTENTION, attention)] if attention in heads else []), (RES_BLOCK, last)]
        for place, (kind, part) in enumerate(middle):
            yield from _block(self.layout, kind, f"middle_block.{place}", part)
        levels, number = _count(heads, self.down), 1
        for level in range(levels):
            for i in range(_count(heads, f"{self.down}{level}.{self.block}")):
                yield from self._unit(heads, f"input_blocks.{number}", f"{self.down}{level}.", i)
                number += 1
            if level < levels - 1:
                yield from _plain([(f"input_blocks.{number}.0.op", f"{self.down}{level}.{self.downsampler}")])
                number += 1
        number = 0
        for step in range(levels):
            own = f"{self.up}{levels - 1 - step if self.upwards else step}."
            count = _count(heads, f"{own}{self.block}")
            for i in range(count):
                yield from self._unit(heads, f"output_blocks.{number}", own, i)
                if i == count - 1 and step < levels - 1:
                    place = 2 if f"{own}{self.attention}{i}" in heads else 1
                    yield from _plain([(f"output_blocks.{number}.{place}.conv", f"{own}{self.upsampler}")])
                number += 1

    def _unit(self, heads: set[str], key: str, own: str, i: int) -> Iterator[tuple[str, tuple[str, ...]]]:
        yield from _block(self.layout, RES_BLOCK, f"{key}.0", f"{own}{self.block}{i}")
        if f"{own}{self.attention}{i}" in heads:
            yield from _block(self.layout, ATTENTION, f"{key}.1", f"{own}{self.attention}{i}")


def _ddpm(heads: set[str]) -> Iterator[tuple[str, tuple[str, ...]]]:
    return _Names(
        "DDPM",
        "down.",
        "up.",
        "block.",
        "attn.",
        "downsample.conv",
        "upsample.conv",
        ("mid.block_1", "mid.attn_1", "mid.block_2"),
        (
            ("time_embed.0", "temb.dense.0"),
            ("time_embed.2", "temb.dense.1"),
            ("input_blocks.0.0", "conv_in"),
            ("out.0", "norm_out"),
            ("out.2", "conv_out"),
        ),
        upwards=True,
    ).walk(heads)


def _diffusers(heads: set[str]) -> Iterator[tuple[str, tuple[str, ...]]]:
    yield from _Names(
        "diffusers",
        "down_blocks.",
        "up_blocks.",
        "resnets.",
        "attentions.",
        "downsamplers.0.conv",
        "upsamplers.0.conv",
        ("mid_block.resnets.0", "mid_block.attentions.0", "mid_block.resnets.1"),
        (
            ("time_embed.0", "time_embedding.linear_1"),
            ("time_embed.2", "time_embedding.linear_2"),
            ("input_blocks.0.0", "conv_in"),
            ("out.0", "conv_norm_out"),
            ("out.2", "conv_out"),
        ),
        upwards=False,
    ).walk(heads)
    if "class_embedding" in heads:
        yield "label_emb.weight", ("class_embedding.weight",)
