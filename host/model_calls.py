"""What one call of the model holds: which of its rows belong to which prompt, and where in the picture they lie.

The host says which prompts a call is for, and other nodes' patches leave that as it is when they call the model on a tile, on several
tiles at once, or on some of the latents. Rows then tell by themselves: those of all prompts are cut from the same latents.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from ..core.hspace.injection import Place, places_of
from ..core.sampling.steering import Callback
from .options import ASKED, PARTS
from .types import CFGGuider, WrapperExecutor

Half = Literal["conditional", "unconditional"]
WHOLE = "semantic_latents_whole"  # in transformer options: the latents (b, c, h, w) that the sampler asked about
UNDIVIDED = (
    "model: it is called on a part of the picture, or of the batch (a tiled or splitting patch, context windows); what is "
    "seen there is of other "
    "places and sizes. Connect the model without that patch here."
)


class Prompt(NamedTuple):
    """What of a run a prompt is for: the half of the guided prediction, and its area in cells (height, width, top, left), if not all."""

    half: Half | None
    area: tuple[int, int, int, int] | None = None

    def place(self, size: tuple[int, int]) -> Place | None:
        """What the host cuts for it from latents of this height and width; None for all of them."""
        if self.area is None:
            return None
        height, width, top, left = self.area
        return Place(range(top, min(top + height, size[0])), range(left, min(left + width, size[1])), size)


# For callers other than the host's guiders: what an entry of cond_or_uncond is.
BY_POSITION = {0: Prompt("conditional"), 1: Prompt("unconditional")}


class Part(NamedTuple):
    """Rows of a model call that belong together, as many in each part, and what they are of."""

    half: Half | None
    place: Place | None = None  # in the picture; None for all of it
    latent: int | None = None  # the number of the one that they are of; None if they are of all in their order
    prompt: int | None = None  # its position in cond_or_uncond; None if it cannot be told


@dataclass(frozen=True, eq=False)
class ModelCall:
    """A call on x (rows, c, h, w) for these prompts, while the sampler asks about latents of this shape (b, c, h, w).

    whole: those latents, if they are known.
    """

    x: Tensor
    prompts: list[Prompt]
    shape: torch.Size
    whole: Tensor | None = None

    def parts(self, *, halves: bool, masks: int) -> list[Part]:
        """What it holds, in the order of its rows. halves: whether those of the guidance matter. masks: how many there are.

        Raises ValueError that names branch or mask if what matters cannot be told.
        """
        if (
            len(self.x) == len(self.prompts) * self.shape[0]
            and all(map(self._is_of_its_size, self.prompts))
            and not (masks and self._is_turned())
        ):
            return [Part(prompt.half, prompt.place(self.size), prompt=i) for i, prompt in enumerate(self.prompts)]
        if not halves and not masks:
            return [Part(None)]
        layout: tuple[Sequence[int | None], int] | None = self._layout()
        if layout is None and halves:
            raise ValueError(
                f"branch: the model is called on {len(self.x)} rows for {len(self.prompts)} prompts and {self.shape[0]} "
                "latents (a tiled or splitting "
                "patch of another node does so), and which rows are of which half cannot be told. Choose both, or disconnect that patch."
            )
        blocks, size = layout or ([None] * len(self.x), 1)
        if not masks:
            return [Part(self._half(prompt), prompt=prompt) for prompt in blocks]
        numbers = range(size) if size == self.shape[0] else [None] * size
        rows = [(prompt, number) for prompt in blocks for number in numbers]
        return [self._located(row, *found, masks) for row, found in zip(self.x, rows, strict=True)]

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the latents."""
        height, width = self.shape[-2:]
        return height, width

    def _is_of_its_size(self, prompt: Prompt) -> bool:
        place = prompt.place(self.size)
        return tuple(self.x.shape[-2:]) == (self.size if place is None else (len(place.rows), len(place.columns)))

    def _is_turned(self) -> bool:
        """Whether it is on all of the latents, but in another order: turned over the edge, or other latents first."""
        if (
            self.whole is None
            or self.x.shape[1:] != self.whole.shape[1:]
            or torch.equal(self.x[: len(self.whole)], self.whole.to(self.x.device))
        ):
            return False
        return all(self._places_of(row, range(len(self.whole))) for row in self.x)  # a patch may ask about other latents at the same places

    def _layout(self) -> tuple[list[int], int] | None:
        """Blocks of rows by their prompts' positions, and how many rows each block has; None if it cannot be told.

        Tiles come one after another, with a block for each prompt, of as many rows as there are latents; or there is one block for each
        prompt, of all tiles or of some latents. Either way what follows in turn is cut from the same latents.
        """
        count = len(self.prompts)
        for size in dict.fromkeys((self.shape[0], len(self.x) // count)):
            if not size or len(self.x) % (count * size):
                continue
            turns = self.x.reshape(-1, count, size, *self.x.shape[1:])
            if count == 1 or torch.equal(turns, turns[:, :1].expand_as(turns)):
                return list(range(count)) * len(turns), size
        return None

    def _half(self, prompt: int | None) -> Half | None:
        return None if prompt is None else self.prompts[prompt].half

    def _located(self, row: Tensor, prompt: int | None, latent: int | None, masks: int) -> Part:
        """A row with its place, and the number of its latent where it is known or must be found."""
        places = self._places_of(row, range(self.shape[0]) if latent is None else [latent])
        latents = {latent for latent, _ in places}
        if len({(tuple(place.rows), tuple(place.columns)) for _, place in places}) != 1 or (masks > 1 and len(latents) > 1):
            raise ValueError(
                f"mask: the model is called on a part of the picture or of the batch, {row.shape[-2]} x {row.shape[-1]} of "
                f"{self.size[0]} x {self.size[1]} "
                "cells (a tiled patch or context windows do so), and which part it is cannot be told. Disconnect the mask, or that patch."
            )
        return Part(self._half(prompt), places[0][1], places[0][0], prompt)

    def _places_of(self, row: Tensor, latents: Sequence[int]) -> list[tuple[int, Place]]:
        """Where a row may be cut from, by its values: a latent's number and a place in it."""
        if self.whole is None:
            return []
        whole = self.whole[list(latents)].to(row.device)
        return [(latents[i], place) for i, place in places_of(row, whole)]


class RunPrompts:
    """The prompts of a run, by their names in its model calls.

    latent: the shape (b, c, h, w) of what the run makes; none of its calls can be divided without.
    """

    def __init__(self, latent: torch.Size | None = None) -> None:
        self.latent = latent or torch.Size()
        self.by_name: dict[uuid.UUID, Prompt] = {}

    def name(self, prompts: dict[str, list[dict[str, Any]]]) -> None:
        """Remember a run's prepared prompts.

        For a prompt's area the host makes a part of every other prompt, under the name of the first. Each gets its own name here, and
        keeps it if the run is named again.
        """
        seen = set[uuid.UUID]()
        for role, entries in prompts.items():
            half: Half = "unconditional" if "negative" in role else "conditional"
            for entry in entries or ():
                if entry["uuid"] in seen:
                    entry["uuid"] = uuid.uuid4()
                seen.add(entry["uuid"])
                self.by_name[entry["uuid"]] = Prompt(half, entry.get("area"))

    def half_of(self, prompt: list[dict[str, Any]]) -> Half | None:
        """The half of the guided prediction that a prompt is for, as the host hands it to a call; None if it is none of the run's."""
        named = (self.by_name.get(entry["uuid"]) for entry in prompt if "uuid" in entry)
        return next((known.half for known in named if known), None)

    def of_call(self, options: dict[str, Any]) -> list[Prompt]:
        """The prompts of a model call with these transformer options."""
        guesses = [BY_POSITION.get(index, Prompt(None)) for index in options["cond_or_uncond"]]
        return [self.by_name.get(name, guess) for name, guess in zip(options.get("uuids", guesses), guesses, strict=True)]

    def parts_named(self, options: dict[str, Any]) -> list[Part]:
        """The parts of a call of the UNet as a wrapper around it has named them, or one for each prompt, as the host calls it."""
        return options.get(PARTS) or [Part(prompt.half, prompt=i) for i, prompt in enumerate(self.of_call(options))]

    def parts_in(self, x: Tensor, options: dict[str, Any], *, halves: bool, masks: int) -> list[Part]:
        """The parts of a model call on x (rows, c, h, w), as far as they matter. halves, masks: as for `ModelCall.parts`.

        Raises ValueError if what matters cannot be told.
        """
        whole = options.get(ASKED, options.get(WHOLE))
        shape = self.latent if whole is None else whole.shape
        if masks and (shape[-2:] != self.latent[-2:] or masks not in (1, shape[0])):
            raise ValueError(
                f"mask: the sampler asks the model about {shape[0]} latents of {shape[-2]} x {shape[-1]} cells, while the run makes "
                f"{self.latent[0]} of {self.latent[-2]} x {self.latent[-1]}, and where the mask lies in them cannot be told. "
                "Disconnect the mask, or choose another sampler."
            )
        return ModelCall(x, self.of_call(options), shape, whole).parts(halves=halves, masks=masks)


def naming_prompts(plan: str) -> Callable[..., Tensor]:
    """The SAMPLER_SAMPLE wrapper that tells a plan the guider's prompts, as the host has prepared them for this run.

    plan: its key in the transformer options; it holds the run's `prompts`.
    """

    def name_prompts(
        executor: WrapperExecutor,
        guider: CFGGuider,
        sigmas: Tensor,
        extra_args: dict[str, Any],
        callback: Callback | None,
        noise: Tensor,
        *args: Any,
        **kwargs: Any,
    ) -> Tensor:
        options = extra_args["model_options"]["transformer_options"]
        if plan in options:
            options[plan].prompts.name(guider.conds)
        return executor(guider, sigmas, extra_args, callback, noise, *args, **kwargs)

    return name_prompts


def told(model_options: dict[str, Any], further: dict[str, Any]) -> dict[str, Any]:
    """Model options with further transformer options."""
    return {**model_options, "transformer_options": {**model_options.get("transformer_options", {}), **further}}


def undivided(model_options: dict[str, Any], x: Tensor) -> dict[str, Any]:
    """Model options for a question about latents x whose calls must be on all of them.

    Raises ValueError where the host's context windows would cut them.
    """
    windows = model_options.get("context_handler")
    if windows is not None and x.shape[getattr(windows, "dim", 0)] > getattr(windows, "context_length", 0):
        raise ValueError(UNDIVIDED)
    return told(model_options, {WHOLE: x})


def check_undivided(x: Tensor, options: dict[str, Any]) -> None:
    """Raise ValueError for a call of the UNet on a part of what the sampler asked about, if its transformer options tell that."""
    whole = options.get(WHOLE)
    if whole is not None and (len(x) != len(options["cond_or_uncond"]) * len(whole) or x.shape[-2:] != whole.shape[-2:]):
        raise ValueError(UNDIVIDED)
