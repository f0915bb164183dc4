"""Pictures of what was measured, as image tensors (1, H, W, 3) in 0..1, legible at 300 pixels on a dark canvas.

matplotlib takes longer to import than all the rest, and may be missing: it is imported when the first plot is drawn.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import wraps
from typing import TYPE_CHECKING, ParamSpec

import numpy as np
import torch
from einops import reduce
from PIL import Image
from torch import Tensor

from ..svd.decomposition import LatentSVD
from ..svd.noise import bulk_edge, noise_level, noise_spectrum
from .typesetting import Typeset

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

P = ParamSpec("P")
PAPER, INK, FAINT, BULK = "#18191d", "#ced3dc", "#343842", "#4a505e"
ACCENTS = ("#7fb3e8", "#e8a15c")
LEGEND_ROOM = 6
SIZE = 640, 460  # pixels of a plot
NO_PLOT = """No plot: matplotlib is missing, or cannot be loaded ({}).

In custom_nodes, in the folder of this pack, with ComfyUI's Python:

pip install -r requirements.txt"""


def plot(draw: Callable[P, Tensor]) -> Callable[P, Tensor]:
    """A function that draws with matplotlib; where that cannot be imported, its picture says so, and what was measured is not lost."""

    @wraps(draw)
    def picture(*measured: P.args, **options: P.kwargs) -> Tensor:
        try:
            return draw(*measured, **options)
        except ImportError as error:
            return _written(NO_PLOT.format(error))

    return picture


@plot
def spectrum_figure(svd: LatentSVD, *, sigma: float | None = None) -> Tensor:
    """Singular values against rank, a line per channel, before the spectrum that noise alone would have.

    Lines are means over batch and frames. The grey area is the Marchenko-Pastur bulk at noise level sigma, the dashed
    line its edge; None reads sigma off the median singular values, and leaves the bulk out if svd holds only leading
    triplets. Returns an image (1, H, W, 3) in 0..1.
    """
    spectra = _spectra(svd)
    figure, axes = _chart("rank of the triplet", "singular value")
    ranks = range(1, svd.rank + 1)
    for i, values in enumerate(spectra):
        name = "all channels" if svd.layout == "joint" else f"channel {i + 1}"
        axes.plot(
            ranks, values.clamp(min=1e-12), marker="o" if svd.rank == 1 else None, label=name if len(spectra) <= LEGEND_ROOM else None
        )
    top = float(spectra.max()) or 1.0
    _draw_bulk(axes, svd, _mean_noise(svd) if sigma is None else sigma)
    axes.set(xscale="log", yscale="log", xlim=(0.95, max(svd.rank, 2)), ylim=(max(1e-3 * top, 0.7 * _smallest(spectra)), 1.5 * top))
    axes.xaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_major_formatter("{x:g}")
    if axes.get_legend_handles_labels()[0]:
        axes.legend(loc="lower left", fontsize=13, facecolor=PAPER, edgecolor=FAINT, labelcolor=INK)
    return _picture(figure)


@plot
def explained_variance_figure(shares: Tensor, sigmas: Sequence[float]) -> Tensor:
    """Share of the variance of h along each direction, a line per direction, over the noise levels of a run.

    shares: (levels, directions) in 0..1, sigmas: one a level, descending. Returns an image (1, H, W, 3) in 0..1.
    """
    from matplotlib.ticker import PercentFormatter

    figure, axes = _chart("noise level", "share of the variance")
    for i, values in enumerate(shares.T):
        axes.plot(sigmas, values, marker="o" if len(sigmas) == 1 else None, label=f"direction {i + 1}" if i < LEGEND_ROOM else None)
    axes.set(xscale="log", ylim=(0, None))
    axes.xaxis.set_major_formatter("{x:g}")
    axes.invert_xaxis()  # a run goes from left to right
    axes.yaxis.set_major_formatter(PercentFormatter(1, 0))
    axes.legend(loc="best", fontsize=13, facecolor=PAPER, edgecolor=FAINT, labelcolor=INK)
    return _picture(figure)


@plot
def singular_values_figure(values: Tensor) -> Tensor:
    """Singular values (n,) of directions as bars, in order. Returns an image (1, H, W, 3) in 0..1."""
    figure, axes = _chart("direction", "singular value")
    axes.bar([str(i + 1) for i in range(len(values))], values.tolist(), color=INK)
    return _picture(figure)


@plot
def dial_figure(strengths: Sequence[float], shares: Sequence[float], marks: Sequence[tuple[float, float]]) -> Tensor:
    """How far pictures have gone at each strength, and where the marks of a dial lie, its whole ones labelled above the chart.

    shares: of how far pictures of different seeds lie apart. marks: (shown, strength). Returns an image (1, H, W, 3) in 0..1.
    """
    figure, axes = _chart("strength", "% of the way to another seed")
    for shown, strength in marks:
        axes.axvline(strength, color=ACCENTS[1], linestyle=":" if shown % 1 else "-", linewidth=1.4)
        if not shown % 1:
            axes.annotate(
                f"{shown:+g}" if shown else "0",
                (strength, 1),
                xycoords=("data", "axes fraction"),
                xytext=(0, 4),
                textcoords="offset points",
                color=ACCENTS[1],
                fontsize=14,
                ha="center",
                va="bottom",
            )
    axes.plot(strengths, [100 * share for share in shares], color=ACCENTS[0], marker="o")
    axes.set_ylim(0, None)
    return _picture(figure)


@plot
def schedule_figure(percents: Sequence[float], curves: dict[str, tuple[Tensor, float, float]]) -> Tensor:
    """Distances over a run, a line for each name with its pictures' spread, its threshold, and where it is passed.

    percents: (steps,). curves: name to distances (steps, pictures), threshold and part of the run. Returns an image
    (1, H, W, 3) in 0..1.
    """
    figure, axes = _chart("part of the run", "distance from the finished picture")
    for (name, (distances, threshold, at)), colour in zip(curves.items(), ACCENTS):
        mean, spread = distances.mean(1), distances.std(1, unbiased=False)
        axes.plot(percents, mean, color=colour, label=f"{name}, up to {at:.2f}")
        axes.fill_between(percents, mean - spread, mean + spread, color=colour, alpha=0.2, linewidth=0)
        axes.plot([0, at], [threshold] * 2, color=colour, linestyle="--", linewidth=1.2)
        axes.axvline(at, color=colour, linestyle=":", linewidth=1.6)
    axes.set(xlim=(0, 1), ylim=(0, None))
    axes.legend(loc="best", fontsize=13, facecolor=PAPER, edgecolor=FAINT, labelcolor=INK)
    return _picture(figure)


@plot
def distance_figure(matrix: Tensor, percents: Sequence[float], random: float) -> Tensor:
    """Distances (steps, steps) between the steps of a run as a map, from 0 to the distance of random subspaces.

    percents: (steps,), the steps' parts of the run. Returns an image (1, H, W, 3) in 0..1.
    """
    figure, axes = _chart("part of the run", "part of the run")
    axes.grid(False)
    shown = axes.pcolormesh(percents, percents, matrix, cmap="viridis", vmin=0, vmax=random, shading="nearest")
    axes.set(aspect="equal")
    bar = figure.colorbar(shown, ax=axes)
    bar.set_label(f"distance (random: {random:.2f})", color=INK, fontsize=14)
    bar.ax.tick_params(colors=INK, labelsize=12)
    return _picture(figure)


@plot
def ranks_figure(percents: Sequence[float], ranks: Tensor, likeness: Tensor) -> Tensor:
    """Ranks (steps, triplets) over a run, a line a triplet, the fainter the less surely it was followed (likeness 0..1).

    Returns an image (1, H, W, 3) in 0..1.
    """
    from matplotlib import colormaps

    figure, axes = _chart("part of the run", "rank of the triplet")
    colours = colormaps["turbo"](np.linspace(0.15, 0.9, ranks.shape[1]))
    for line, sure, colour in zip(ranks.T.tolist(), likeness.T.tolist(), colours):
        for i in range(len(line) - 1):
            axes.plot(percents[i : i + 2], line[i : i + 2], color=colour, alpha=0.1 + 0.9 * max(0.0, min(1.0, sure[i])), linewidth=2)
        axes.plot(percents[-1], line[-1], "o", color=colour)
    axes.set(yscale="log", xlim=(0, 1.02), ylim=(1.1 * float(ranks.max()), 0.93))  # the first at the top
    axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_minor_formatter("{x:g}")
    axes.tick_params(which="minor", labelsize=11)
    return _picture(figure)


def _spectra(svd: LatentSVD) -> Tensor:
    """Mean singular values (c, r) of each channel, or (1, r) of the whole latent in the joint layout."""
    pattern = "n r -> 1 r" if svd.layout == "joint" else "(b c t) r -> c r"
    sizes = {} if svd.layout == "joint" else {"b": svd.shape[0], "c": svd.shape[1]}
    return reduce(svd.S.abs().float().cpu(), pattern, "mean", **sizes)


def _smallest(spectra: Tensor) -> float:
    positive = spectra[spectra > 0]
    return float(positive.min()) if len(positive) else 1.0


def _mean_noise(svd: LatentSVD) -> float:
    return noise_level(svd.S, svd.matrix).mean().item() if svd.rank == svd.matrix.rank else 0.0


def _draw_bulk(axes: Axes, svd: LatentSVD, sigma: float) -> None:
    if not sigma:
        return
    expected = noise_spectrum(svd.matrix, sigma)
    axes.fill_between(range(1, len(expected) + 1), expected, color=BULK, zorder=0, label=f"noise of {sigma:.3g}")
    axes.axhline(float(bulk_edge(svd.matrix, sigma)), color=INK, linewidth=1.2, linestyle="--", zorder=1)


def _chart(x_label: str, y_label: str) -> tuple[Figure, Axes]:
    """Axes in the colours of the host's dark canvas; no global state of the plotting library is touched."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(SIZE[0] / 100, SIZE[1] / 100), dpi=100, facecolor=PAPER, layout="constrained")
    axes = figure.add_subplot(facecolor=PAPER)
    axes.set_xlabel(x_label, color=INK, fontsize=16)
    axes.set_ylabel(y_label, color=INK, fontsize=16)
    axes.tick_params(which="both", colors=INK, labelsize=14)
    axes.grid(color=FAINT)
    axes.spines[:].set_color(FAINT)
    return figure, axes


def _picture(figure: Figure) -> Tensor:
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return _tensor(np.asarray(canvas.buffer_rgba())[..., :3])


def _written(text: str) -> Tensor:
    """A text in the place of a plot."""
    page = Image.new("RGB", SIZE, PAPER)
    page.paste(INK, (20, 20), Typeset.fitting([text], SIZE[0] - 40, 22).mask(0, centred=False))
    return _tensor(np.asarray(page))


def _tensor(pixels: np.ndarray) -> Tensor:
    return torch.from_numpy(pixels.astype(np.float32) / 255)[None]
