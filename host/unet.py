"""Two passes through a UNet that differ after the middle block only: the encoder runs once, the decoder twice.

The first pass records what the encoder's blocks put out. The second pass replays it; patches, control residuals and wrappers
act there as in any pass. Nothing on the model is replaced: a shallow twin of it holds the other lists of blocks.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass
from typing import Any

import torch
from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel
from comfy.patcher_extension import WrapperExecutor
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

from .options import NETWORK
from .other_patches import why_not_reached

Layer = Callable[..., Tensor]
DECODER = ("time_embed", "label_emb", "output_blocks", "out")  # the UNet's parts that take part after the middle block
BLOCKS = ("input_blocks", "middle_block", "output_blocks", "_forward")  # what a pass in two parts is made of


class Skipped(Exception):
    """A wrapper gave an output, and the UNet was not called for it."""


class OtherWalk(ValueError):
    """The UNet was called, and did not go through its blocks as this pack knows it."""

    def __init__(self) -> None:
        from comfyui_version import __version__

        super().__init__(
            f"model: ComfyUI {__version__}, or a pack that changes it, runs the blocks of a UNet in another way than this version of "
            "Semantic Latents knows. Update Semantic Latents."
        )


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
    """The arguments of one call of the host's UNet, for a batch of n parts, (n b, ...)."""

    x: Tensor
    timesteps: Tensor | None
    context: Tensor | None
    y: Tensor | None
    control: dict[str, list[Any]] | None
    options: dict[str, Any]
    rest: dict[str, Any]

    def selected(self, prompts: list[int | None], select: Callable[[Any], Any], further: dict[str, Any]) -> UNetCall:
        """The same call for some of its rows, with further transformer options.

        prompts: positions in cond_or_uncond, of parts of as many rows each. The names stay if one of them is not known.
        """
        names = () if None in prompts else ("cond_or_uncond", "uuids")
        lists = {key: [self.options[key][i] for i in prompts] for key in names if key in self.options}
        return UNetCall(
            select(self.x),
            select(self.timesteps),
            select(self.context),
            select(self.y),
            select(self.control),
            {**self.options, **further, **lists},
            select(self.rest),
        )

    def run(self, executor: WrapperExecutor, unet: UNetModel, on_entry: Callable[[], None] = lambda: None) -> Tensor:
        """The output of the host's remaining wrappers around the given UNet. on_entry is called where they call the UNet."""

        def forward(*args: Any, **kwargs: Any) -> Tensor:
            on_entry()
            return type(unet)._forward(unet, *args, **kwargs)

        control = self.control and {key: list(value) for key, value in self.control.items()}  # the UNet empties the lists
        options = {**self.options, NETWORK: unet} if NETWORK in self.options else self.options  # a patch is in this UNet's layers now
        rest = WrapperExecutor.new_class_executor(forward, unet, executor.wrappers, executor.idx + 1)
        with saved_from_patches(self.options):
            return rest.execute(self.x, self.timesteps, self.context, self.y, control, options, **self.rest)

    def recorded(self, executor: WrapperExecutor, *further: Layer) -> tuple[Tensor, list[Tensor]]:
        """The output of the executor's UNet, and what each of its blocks before the decoder put out.

        further: layers after the middle block. Raises as `Recorder` does.
        """
        recorder = Recorder(executor.class_obj)
        output = self.run(executor, recorder.twin(*further), recorder.enter)
        return output, recorder.finished()

    def encoded(self, executor: WrapperExecutor) -> list[Tensor]:
        """What each of the blocks before the decoder puts out; the call ends there. Raises as `Recorder` does."""
        recorder = Recorder(executor.class_obj)
        with suppress(Reached):
            self.run(executor, recorder.stopping_twin(), recorder.enter)
        return recorder.finished()


class Recorder:
    """Records what the blocks of a UNet before its decoder put out in one pass.

    Raises OtherWalk, a ValueError, if the UNet has no such blocks, or does not go through them. Raises Skipped if it is not called.
    """

    def __init__(self, unet: UNetModel) -> None:
        if not all(hasattr(unet, name) for name in BLOCKS):
            raise OtherWalk
        self.unet, self.entered = unet, False
        self.tape: list[Tensor] = []

    def twin(self, *further: Layer) -> UNetModel:
        """The UNet with blocks that record, and with further layers after its middle block.

        A UNet without a middle block (a distilled one) gets one that only records: h is what would have entered it.
        """
        return self._twin(Record(self.tape), *further)

    def stopping_twin(self) -> UNetModel:
        """The same, which raises Reached after the middle block."""
        return self._twin(Stop(self.tape))

    def _twin(self, *last: Layer) -> UNetModel:
        blocks = [[*block, Record(self.tape)] for block in self.unet.input_blocks]
        return twin_of(self.unet, blocks, [*(self.unet.middle_block or ()), *last])

    def enter(self) -> None:
        """Note that the UNet was called."""
        self.entered = True

    def finished(self) -> list[Tensor]:
        """The outputs of all input blocks and of the middle block, in order."""
        if len(self.tape) <= len(self.unet.input_blocks):
            raise OtherWalk if self.entered else Skipped
        return self.tape


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
    executor: WrapperExecutor, call: UNetCall, select: Selection, prompts: list[int | None], second: dict[str, Any]
) -> tuple[Tensor, Tensor]:
    """The UNet's output, and its output for some of the batch's rows, of these prompts, with further transformer options.

    Raises ValueError if a wrapper between skips the UNet, or if the UNet goes through its blocks in a way that is not known.
    """
    dice = Dice()
    try:
        plain, tape = call.recorded(executor, dice.keep)
        second_unet = twin_of(executor.class_obj, *replaying([select(h) for h in tape], dice.restore))
        return plain, call.selected(prompts, select, second).run(executor, second_unet)
    except Skipped as error:
        why = why_not_reached({"transformer_options": call.options})
        raise ValueError(
            f"model: {why}, inside an asymmetric edit. Connect it ahead of Apply Direction, or turn asymmetric off."
        ) from error
    except OtherWalk as error:
        raise ValueError(f"{error} Until then, turn asymmetric off.") from error


class Selection:
    """Selects the rows of some parts of a batch out of whatever has the batch's length, in lists and dictionaries too.

    positions: which of the parts. count: how many parts the batch of rows has, of as many rows each.
    """

    def __init__(self, positions: list[int], count: int, batch: int) -> None:
        size = batch // count
        self.rows = [row for i in positions for row in range(i * size, (i + 1) * size)]
        self.batch = batch

    def __call__(self, value: Any) -> Any:
        if isinstance(value, Tensor):
            return value[self.rows] if value.ndim and value.shape[0] == self.batch and len(self.rows) != self.batch else value
        if isinstance(value, dict):
            return {key: self(item) for key, item in value.items()}
        return [self(item) for item in value] if isinstance(value, list) else value


def replaying(tape: list[Tensor], *further: Layer) -> tuple[list[list[Layer]], list[Layer]]:
    """Blocks before the decoder that give back a tape, and further layers at their end."""
    *kept, h = tape
    return [[Replay(recorded)] for recorded in kept], [Replay(h), *further]


def twin_of(unet: UNetModel, input_blocks: Sequence[Iterable[Layer]], middle_block: Sequence[Layer]) -> UNetModel:
    """The same UNet, weights and all, with other blocks before the decoder."""
    twin = copy.copy(unet)
    vars(twin).update(input_blocks=input_blocks, middle_block=middle_block)  # found before the registered modules
    return twin
