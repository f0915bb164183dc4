"""Variants of a latent that are drawn in batches: how many fit into the memory."""

import torch

from pack.host.exploring import fitting


def test_memory_that_holds_few_splits_the_batch(demo, monkeypatch):
    latents = torch.zeros(8, 4, 8, 8)
    need = demo.model.memory_required([4, 4, 8, 8])
    monkeypatch.setattr(type(demo.model), "get_free_memory", lambda self, device: need * 1.01)
    assert fitting(demo.model, latents, len(latents)) == 2
    monkeypatch.setattr(type(demo.model), "get_free_memory", lambda self, device: 0)
    assert fitting(demo.model, latents, len(latents)) == 1
