"""Equality up to rounding."""

import torch


def close(a, b, share=1e-4):
    """Equal up to rounding, as a share of the latent's size."""
    torch.testing.assert_close(a, b, rtol=0, atol=share * float(b.abs().max()))
