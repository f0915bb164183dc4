"""Two passes through a UNet that differ after the middle block only: the encoder runs once, the decoder twice.

The encoder's modules are recorded on the way through and replayed for the second pass, where patches, control residuals
and wrappers act as in any pass. Nothing on the model is replaced: a shallow twin of it holds the other block lists.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel
from comfy.patcher_extension import WrapperExecutor
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

from .other_patches import why_not_reached

Layer = Callable[..., Tensor]
DECODER = ("time_embed", "label_emb", "output_blocks", "out")  # the UNet's parts that take part after the middle block


class Record:
    """The last layer of a block: keeps a copy of what passes through it, to which the host adds control residuals in place."""

    def __init__(self, tape: list[Tensor]) -> None:
        self.tape = tape

    def __call__(self, h: Tensor) -> Tensor:
        self.tape.append(h.clone())
        return h


class Reached(Exception):
    """Raised by the block after which a call needs nothing more."""


class Stop(Record):
    """The last layer of the last block that a call needs."""

    def __call__(self, h: Tensor) -> Tensor:
        super().__call__(h)
        raise Reached


class Replay:
    """The only layer of a block: gives back what was recorded."""

    def __init__(self, recorded: Tensor) -> None:
        self.recorded = recorded

    def __call__(self, h: Tensor) -> Tensor:
        return self.recorded


class Dice:
    """The state of the random numbers at one layer of a pass, so that patches after it draw the same in another pass."""

    def keep(self, h: Tensor) -> Tensor:
        self.state, self.on_device = torch.get_rng_state(), torch.cuda.get_rng_state(h.device) if h.is_cuda else None
        return h

    def restore(self, h: Tensor) -> Tensor:
        torch.set_rng_state(self.state)
        if self.on_device is not None:
            torch.cuda.set_rng_state(self.on_device, h.device)
        return h


@dataclass(frozen=True)
class UNetCall:
    """The arguments of one call of the host's UNet, for a batch of n chunks, (n b, ...)."""

    x: Tensor
    timesteps: Tensor | None
    context: Tensor | None
    y: Tensor | None
    control: dict[str, list[Any]] | None
    options: dict[str, Any]
    rest: dict[str, Any]

    def picked(self, prompts: list[int | None], take: Callable[[Any], Any], further: dict[str, Any]) -> UNetCall:
        """The same call for some of its rows, with further transformer options.

        prompts: positions in cond_or_uncond, of parts of as many rows each. The names stay if one of them is not known.
        """
        names = () if None in prompts else ("cond_or_uncond", "uuids")
        lists = {key: [self.options[key][i] for i in prompts] for key in names if key in self.options}
        return UNetCall(
            take(self.x),
            take(self.timesteps),
            take(self.context),
            take(self.y),
            take(self.control),
            {**self.options, **further, **lists},
            take(self.rest),
        )

    def run(self, executor: WrapperExecutor, unet: UNetModel) -> Tensor:
        """Through the host's remaining wrappers and the given UNet; the control lists, which it consumes, are copies."""
        control = self.control and {key: list(value) for key, value in self.control.items()}
        rest = WrapperExecutor.new_class_executor(type(unet)._forward.__get__(unet), unet, executor.wrappers, executor.idx + 1)
        with saved_from_patches(self.options):
            return rest.execute(self.x, self.timesteps, self.context, self.y, control, self.options, **self.rest)


def saved_from_patches(options: dict[str, Any]) -> AbstractContextManager[Any]:
    """Where patches may write in place into what a gradient needs later, as FreeU V2 does, that is copied."""
    patches = {*options.get("patches", {}), *options.get("patches_replace", {})} - {
        "middle_block_after_patch"
    }  # where the pack's own are, which do not
    return (
        saved_tensors_hooks(lambda value: value.clone() if value.requires_grad else value, lambda value: value)
        if patches
        else nullcontext()
    )


def run_decoder_twice(
    executor: WrapperExecutor, call: UNetCall, take: Chunks, prompts: list[int | None], second: dict[str, Any]
) -> tuple[Tensor, Tensor]:
    """The UNet's output, and its output for some of the batch's rows, of these prompts, with further transformer options.

    Raises ValueError if a wrapper between skips the UNet.
    """
    unet, dice = executor.class_obj, Dice()
    tape: list[Tensor] = []
    plain = call.run(executor, twin_of(unet, *recording(unet, tape, dice.keep)))
    if not tape:
        why = why_not_reached({"transformer_options": call.options})
        raise ValueError(f"model: {why}, inside an asymmetric edit. Connect it ahead of Apply Direction, or turn asymmetric off.")
    second_unet = twin_of(unet, *replaying(unet, [take(h) for h in tape], dice.restore))
    return plain, call.picked(prompts, take, second).run(executor, second_unet)


class Chunks:
    """Takes the rows of some chunks out of whatever has the batch's length, in lists and dictionaries too."""

    def __init__(self, chunks: list[int], count: int, batch: int) -> None:
        size = batch // count
        self.rows = [row for i in chunks for row in range(i * size, (i + 1) * size)]
        self.batch = batch

    def __call__(self, value: Any) -> Any:
        if isinstance(value, Tensor):
            return value[self.rows] if value.ndim and value.shape[0] == self.batch and len(self.rows) != self.batch else value
        if isinstance(value, dict):
            return {key: self(item) for key, item in value.items()}
        return [self(item) for item in value] if isinstance(value, list) else value


def recording(unet: UNetModel, tape: list[Tensor], *further: Layer) -> tuple[list[list[Layer]], list[Layer]]:
    """The blocks before the decoder, each of which puts its output on the tape, and further layers at their end.

    A UNet without a middle block (a distilled one) gets one that only records: h is what would have entered it.
    """
    blocks = [[*block, Record(tape)] for block in unet.input_blocks]
    return blocks, [*(unet.middle_block or ()), Record(tape), *further]


def replaying(unet: UNetModel, tape: list[Tensor], *further: Layer) -> tuple[list[list[Layer]], list[Layer]]:
    """Blocks before the decoder that give back a tape, and further layers at their end."""
    *kept, h = tape
    return [[Replay(recorded)] for recorded in kept], [Replay(h), *further]


def twin_of(unet: UNetModel, input_blocks: Sequence[Iterable[Layer]], middle_block: Sequence[Layer]) -> UNetModel:
    """The same UNet, weights and all, with other blocks before the decoder."""
    twin = copy.copy(unet)
    vars(twin).update(input_blocks=input_blocks, middle_block=middle_block)  # found before the registered modules
    return twin
