"""Words as a model reads them: the prompts that its CLIP makes of them, and whether they say different things to it."""

from __future__ import annotations

import torch
from torch import Tensor

from .types import CLIP, Conditioning


def prompt(clip: CLIP, words: str) -> Conditioning:
    """The CONDITIONING that CLIP Text Encode makes of words."""
    return clip.encode_from_tokens_scheduled(clip.tokenize(words))


def prompt_beside(minus: Conditioning, clip: CLIP, without: str, wanted: str, name: str, beside: str = "without") -> Conditioning:
    """The prompt of the wanted words; ValueError that names their input if they condition the model as `minus`, of the words
    of the input `beside`, does.
    """
    plus = prompt(clip, wanted)
    if same_conditioning(plus, minus):
        raise ValueError(
            f"{name}: {wanted!r} conditions this model exactly as {beside}, {without!r}, does, so that the slider would change nothing. "
            "Write what shall be different in words that the model's CLIP knows."
        )
    return plus


def same_conditioning(first: Conditioning, second: Conditioning) -> bool:
    """Whether two prompts are the same to the model."""
    one, other = ([(embedding, extras.get("pooled_output")) for embedding, extras in prompt] for prompt in (first, second))
    return equal(one, other)


def equal(one: object, other: object) -> bool:
    """Whether two values of a prompt are the same, bit for bit."""
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        return one.dtype == other.dtype and one.device == other.device and torch.equal(one, other)
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(equal(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple) and isinstance(other, list | tuple):
        return len(one) == len(other) and all(map(equal, one, other))
    return one is other or (isinstance(one, str | int | float) and one == other)
