"""Words as a model reads them: the prompts that its CLIP makes of them, and whether they say different things to it."""

from __future__ import annotations

import torch
from torch import Tensor

from .types import CLIP, Conditioning


def prompt(clip: CLIP, words: str) -> Conditioning:
    """The CONDITIONING that CLIP Text Encode makes of words."""
    return clip.encode_from_tokens_scheduled(clip.tokenize(words))


def prompt_beside(minus: Conditioning, clip: CLIP, without: str, wanted: str, name: str) -> Conditioning:
    """The prompt of the wanted words; ValueError that names their input if they condition the model as `minus`, of `without`, does."""
    plus = prompt(clip, wanted)
    if same_conditioning(plus, minus):
        raise ValueError(
            f"{name}: {wanted!r} conditions this model exactly as without, {without!r}, does, so that the slider would change nothing. "
            "Write what shall be different in words that the model's CLIP knows."
        )
    return plus


def same_conditioning(first: Conditioning, second: Conditioning) -> bool:
    """Whether two prompts are the same to the model."""

    def equal(one: Tensor | None, other: Tensor | None) -> bool:
        if one is None or other is None:
            return one is other
        return one.shape == other.shape and torch.equal(one, other)

    return len(first) == len(second) and all(
        equal(one, other) and equal(extras.get("pooled_output"), others.get("pooled_output"))
        for (one, extras), (other, others) in zip(first, second, strict=True)
    )
