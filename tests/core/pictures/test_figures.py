"""The picture of the spectrum."""

import sys

import pytest
import torch

from pack.core.pictures import figures
from pack.core.pictures.figures import BULK, PAPER, spectrum_figure
from pack.core.svd.decomposition import decompose


def share_of(image, colour):
    """Share of the picture's pixels that have about this colour."""
    rgb = torch.tensor([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    return ((image - rgb).abs().amax(-1) < 0.02).float().mean().item()


@pytest.mark.parametrize("layout", ["channel", "joint"])
def test_every_latent_has_a_picture(latent, layout):
    image = spectrum_figure(decompose(latent, layout=layout))
    assert image.dtype == torch.float32
    assert image.shape[0] == 1
    assert image.shape[-1] == 3
    assert image.min() >= 0
    assert image.max() <= 1
    assert image.shape[2] > image.shape[1] > 300
    assert 1 - share_of(image, PAPER) > 0.01


def test_picture_shows_the_spectrum():
    x = torch.randn(1, 4, 32, 32)
    plain, again, sloped = (spectrum_figure(decompose(y)) for y in (x, x.clone(), x * torch.linspace(0, 1, 32)))
    assert torch.equal(plain, again)
    assert not torch.equal(plain, sloped)


def test_bulk_fills_the_chart_of_noise_and_grows_with_sigma():
    svd = decompose(torch.randn(1, 4, 32, 32))
    quiet, loud = (share_of(spectrum_figure(svd, sigma=sigma), BULK) for sigma in (0.1, 1.0))
    assert loud > 0.4
    assert loud > 1.3 * quiet


def test_bulk_is_left_out_where_the_noise_is_not_known():
    svd = decompose(torch.randn(1, 4, 32, 32), rank=8)
    assert share_of(spectrum_figure(svd), BULK) < 0.01
    assert share_of(spectrum_figure(svd, sigma=1.0), BULK) > 0.2


def test_lines_of_many_channels_and_frames():
    image = spectrum_figure(decompose(torch.randn(2, 48, 3, 16, 16)))
    assert torch.isfinite(image).all()


FIGURES = {
    "spectrum": lambda: spectrum_figure(decompose(torch.randn(1, 4, 16, 16))),
    "explained variance": lambda: figures.explained_variance_figure(torch.rand(3, 2), (4.0, 2.0, 1.0)),
    "singular values": lambda: figures.singular_values_figure(torch.rand(4)),
    "schedule": lambda: figures.schedule_figure((0.0, 0.5), {"a": (torch.rand(2, 3), 0.5, 0.5)}),
    "dial": lambda: figures.dial_figure([-1.0, 0.0, 2.0], [0.1, 0.0, 0.3], [(-1.0, -1.0), (0.0, 0.0), (1.0, 2.0)]),
    "distance": lambda: figures.distance_figure(torch.rand(3, 3), (0.0, 0.5, 1.0), 1.0),
    "ranks": lambda: figures.ranks_figure((0.0, 0.5, 1.0), torch.ones(3, 2), torch.ones(3, 2)),
}


@pytest.mark.parametrize("draw", FIGURES.values(), ids=FIGURES)
@pytest.mark.parametrize("missing", ["matplotlib", "matplotlib.figure", "matplotlib.backends.backend_agg"])
def test_without_matplotlib_the_picture_says_what_to_install(draw, missing, monkeypatch):
    drawn, written = draw(), []
    monkeypatch.setattr(figures, "_written", lambda text, write=figures._written: written.append(text) or write(text))
    for module in [name for name in sys.modules if name.split(".")[0] == "matplotlib"] if missing == "matplotlib" else [missing]:
        monkeypatch.setitem(sys.modules, module, None)
    picture = draw()
    assert picture.shape == drawn.shape
    assert picture.dtype == drawn.dtype
    assert 0.5 < picture.max() <= 1
    assert "matplotlib" in written[0]
    assert "pip install -r requirements.txt" in written[0]


def test_other_errors_of_a_plot_are_raised(monkeypatch):
    monkeypatch.setattr(figures, "_chart", lambda *labels: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        figures.singular_values_figure(torch.rand(4))
