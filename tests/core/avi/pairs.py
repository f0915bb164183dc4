"""Pairs of latents: a source and a target at some distance from it."""

import torch


def pair(shape=(2, 3, 9, 7), seed=0):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(shape, generator=generator)
    return x, x + torch.randn(shape, generator=generator)
