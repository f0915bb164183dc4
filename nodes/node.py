"""What all nodes of the pack have in common."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from comfy_api.latest import io

FAR = 100  # how many times its range a number may go over a link, where only taste sets the range


class Node(io.ComfyNode):
    """A node of the pack. The host looks at the range of what a widget holds, not of what comes over a link: that is looked at here."""

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        if "execute" in vars(cls) and not hasattr(cls.execute, "__wrapped__"):  # the host's clone of a node has it already
            cls.execute = classmethod(checked(vars(cls)["execute"].__func__))


def checked(execute: Callable[..., io.NodeOutput]) -> Callable[..., io.NodeOutput]:
    """A node's execute, with a look at the numbers that it is given; each input is a value, or a list of values."""
    @functools.wraps(execute)
    def run(cls: type[Node], **inputs: Any) -> io.NodeOutput:
        for one in cls.define_schema().inputs:
            if isinstance(one, (io.Int.Input, io.Float.Input)) and one.id in inputs:
                given = inputs[one.id]
                for value in given if isinstance(given, list) else [given]:
                    check_number(value, one.id, one.min, one.max)
        return execute(cls, **inputs)

    return run


def check_number(value: float, name: str, least: float, most: float) -> None:
    """Raise ValueError for one that is none, below a range that begins at 0 or above (a count, a share), beyond one from 0 to 1, or far from any."""
    widest = FAR * max(most, -least)
    low, high = (least, most if most <= 1 else widest) if least >= 0 else (-widest, widest)
    if not low <= value <= high:  # so is nan
        raise ValueError(f"{name}: got {value:g}; choose {least:g} to {most:g}.")
