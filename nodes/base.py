"""What all nodes of the pack share: its types on the wires between nodes, and the checks of what comes in over links."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from comfy_api.latest import io
from torch import Tensor

from ..core.svd.decomposition import LatentSVD
from ..host.seeds import COUNT
from ..host.strips import SAMPLERS, SCHEDULERS
from ..host.types import Latent

SVD = io.Custom("SEMANTIC_LATENTS_SVD")
DIRECTION = io.Custom("SEMANTIC_LATENTS_DIRECTION")
ATTRIBUTE = io.Custom("SEMANTIC_LATENTS_ATTRIBUTE")
SLIDER = io.Custom("SEMANTIC_LATENTS_SLIDER")
TRAJECTORY = io.Custom("SEMANTIC_LATENTS_TRAJECTORY")
CATEGORY = "semantic latents"


@dataclass(frozen=True)
class DecomposedLatent:
    """A latent's SVD beside what else its LATENT carried (noise mask, batch index), which Compose gives back."""

    svd: LatentSVD
    rest: Latent

    @classmethod
    def of(cls, svd: LatentSVD, latent: Latent) -> DecomposedLatent:
        return cls(svd, {key: value for key, value in latent.items() if key != "samples"})

    def latent(self, samples: Tensor) -> Latent:
        return {**self.rest, "samples": samples}


FAR = 100
Execute = Callable[..., io.NodeOutput]


def checked(execute: Execute) -> Execute:
    """A node's execute, called as it was written, after check_numbers has looked at its arguments."""
    signature = inspect.signature(execute)

    @functools.wraps(execute)
    def run(cls: type[io.ComfyNode], *args: Any, **inputs: Any) -> io.NodeOutput:
        check_numbers(cls.SCHEMA or cls.GET_SCHEMA(), signature.bind_partial(cls, *args, **inputs).arguments)
        return execute(cls, *args, **inputs)

    return run


def check_numbers(schema: io.Schema, values: Mapping[str, Any]) -> None:
    """Raise ValueError for a number out of its input's bounds. values: a value, or a list of values, by the input's name."""
    for port in schema.inputs:
        if isinstance(port, (io.Int.Input, io.Float.Input)) and port.id in values:
            given = values[port.id]
            for value in given if isinstance(given, list) else [given]:
                check_number(value, port)


def bounds(port: io.Int.Input | io.Float.Input) -> tuple[float, float]:
    """Least and most for an input. Counts and shares keep to their range; the ends of a slider's lie a hundred times as far from 0."""
    count, share = isinstance(port, io.Int.Input), port.min >= 0 and port.max <= 1
    return (port.min, port.max) if count or share else (min(port.min, FAR * port.min), FAR * port.max)


def check_number(value: float, port: io.Int.Input | io.Float.Input) -> None:
    """Raise ValueError for a number out of an input's bounds, naming its range and, where they are wider, the bounds."""
    low, high = bounds(port)
    if not low <= value <= high:  # a nan fails every comparison
        wider = "" if (low, high) == (port.min, port.max) else f" Over a link, {told(low)} to {told(high)} is taken."
        raise ValueError(f"{port.id}: got {told(value)}; choose {told(port.min)} to {told(port.max)}.{wider}")


def told(number: float) -> str:
    return f"{number:g}" if isinstance(number, float) else str(number)


def one_value_each(*, but: Sequence[str]) -> Callable[[Execute], Execute]:
    """For a node that the host gives lists: its execute gets one value for each input, and the list for the inputs named in but."""

    def decorated(execute: Execute) -> Execute:
        signature = inspect.signature(execute)

        @functools.wraps(execute)
        def run(cls: type[io.ComfyNode], *args: Any, **inputs: Any) -> io.NodeOutput:
            _, *given = signature.bind(cls, *args, **inputs).arguments.items()
            return execute(cls, **{name: values if name in but else only(name, values, but) for name, values in given})

        return run

    return decorated


def only(name: str, values: Sequence[Any], but: Sequence[str]) -> Any:
    """The value of a list that holds nothing else; ValueError that names the input for another list."""
    if not values or not all(same(values[0], value) for value in values[1:]):
        raise ValueError(
            f"{name}: got a list of {len(values)} values; connect one value. Of this node's inputs only {' and '.join(but)} may be a list."
        )
    return values[0]


def same(one: object, other: object) -> bool:
    """Whether two values of a list are equal, as those of a node that ran several times on equal inputs."""
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        return one.shape == other.shape and bool((one == other).all())
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, (list, tuple)) and isinstance(other, (list, tuple)):
        return len(one) == len(other) and all(map(same, one, other))
    return one is other or (isinstance(one, (int, float, str)) and one == other)


def strength_input(tooltip: str) -> io.Float.Input:
    """The input for the strength of a slider."""
    bounds: dict[str, float] = {"default": 1.0, "min": -3.0, "max": 3.0, "step": 0.05}
    return io.Float.Input("strength", **bounds, display_mode=io.NumberDisplay.slider, tooltip=tooltip)


def sampler_inputs() -> list[io.Combo.Input]:
    """The inputs for the sampler and the scheduler of a node that draws as KSampler does."""
    how: dict[str, bool] = {"optional": True, "advanced": True}
    return [
        io.Combo.Input("sampler_name", options=SAMPLERS, default="euler", **how, tooltip="The sampler, as in KSampler."),
        io.Combo.Input("scheduler", options=SCHEDULERS, default="normal", **how, tooltip="Where its steps lie, as in KSampler."),
    ]


def seed_input(tooltip: str) -> io.Int.Input:
    """The input for the first of a node's seeds, which stays as it is from run to run."""
    return io.Int.Input("seed", default=0, min=0, max=COUNT - 1, control_after_generate=io.ControlAfterGenerate.fixed, tooltip=tooltip)
