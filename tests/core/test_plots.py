"""The picture of the spectrum."""

import pytest
import torch
from pack.core.plots import BULK, PAPER, spectrum_figure
from pack.core.spectrum import decompose


def share_of(image, colour):
    """Share of the picture's pixels that have about this colour."""
    rgb = torch.tensor([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    return ((image - rgb).abs().amax(-1) < 0.02).float().mean().item()


@pytest.mark.parametrize("layout", ["channel", "joint"])
def test_every_latent_has_a_picture(latent, layout):
    image = spectrum_figure(decompose(latent, layout=layout))
    assert image.dtype == torch.float32 and image.shape[0] == 1 and image.shape[-1] == 3
    assert 0 <= image.min() and image.max() <= 1
    assert image.shape[2] > image.shape[1] > 300
    assert 0.01 < 1 - share_of(image, PAPER)


def test_picture_shows_the_spectrum():
    x = torch.randn(1, 4, 32, 32)
    plain, again, sloped = (spectrum_figure(decompose(y)) for y in (x, x.clone(), x * torch.linspace(0, 1, 32)))
    assert torch.equal(plain, again)
    assert not torch.equal(plain, sloped)


def test_bulk_fills_the_chart_of_noise_and_grows_with_sigma():
    svd = decompose(torch.randn(1, 4, 32, 32))
    quiet, loud = (share_of(spectrum_figure(svd, sigma=sigma), BULK) for sigma in (0.1, 1.0))
    assert loud > 0.4 and loud > 1.3 * quiet


def test_bulk_is_left_out_where_the_noise_is_not_known():
    svd = decompose(torch.randn(1, 4, 32, 32), rank=8)
    assert share_of(spectrum_figure(svd), BULK) < 0.01
    assert share_of(spectrum_figure(svd, sigma=1.0), BULK) > 0.2


def test_lines_of_many_channels_and_frames():
    image = spectrum_figure(decompose(torch.randn(2, 48, 3, 16, 16)))
    assert torch.isfinite(image).all()
