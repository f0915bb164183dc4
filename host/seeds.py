"""Seeds as the host counts them, from 0 to 2**64 - 1, and the noise that it draws from them."""

from __future__ import annotations

from collections.abc import Iterable

import comfy.sample
import torch
from torch import Tensor

COUNT = 2**64  # how many seeds there are


def seeds_from(seed: int, count: int) -> list[int]:
    """So many seeds from this one up; after the largest comes 0."""
    return [(seed + i) % COUNT for i in range(count)]


def countable(seed: int | None) -> int | None:
    """A seed for the host's noise samplers, which add 1 to it on a CPU: the largest as -1, which torch takes for the same."""
    return -1 if seed == COUNT - 1 else seed


def noise_of(latent: Tensor, seeds: Iterable[int], places: list[int] | None = None) -> Tensor:
    """The noise (n b, c, h, w) of latents (b, c, h, w), all of them for one seed after the other.

    places: which picture of the seed's batch each latent is, as a LATENT's batch_index says; None for the first b.
    """
    return torch.cat([comfy.sample.prepare_noise(latent, seed, places) for seed in seeds])
