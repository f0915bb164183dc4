"""Pictures of what was measured, as image tensors (1, H, W, 3) in 0..1, legible at 300 pixels on a dark canvas."""

from __future__ import annotations

from colorsys import hsv_to_rgb
from math import ceil, floor, log10

import numpy as np
import torch
from einops import rearrange, reduce
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from .bulk import bulk_edge, noise_level, noise_spectrum
from .spectrum import LatentSVD

Colour = tuple[int, int, int]
Points = list[tuple[float, float]]

BACKGROUND, GRID, TEXT, NOISE = (24, 26, 31), (52, 56, 66), (206, 211, 220), (74, 80, 94)
FONT_SIZE = 24
SUPERSAMPLING = 2


class LogChart:
    """A chart with two logarithmic axes, drawn in pixels of the final picture."""

    def __init__(self, x_range: tuple[float, float], y_range: tuple[float, float], *, size: tuple[int, int] = (640, 460)) -> None:
        self.x_range, self.y_range, self.size = x_range, y_range, size
        self.box = (78, 52, size[0] - 20, size[1] - 66)
        self.image = Image.new("RGB", [SUPERSAMPLING * side for side in size], BACKGROUND)
        self.draw = ImageDraw.Draw(self.image)
        self.font = ImageFont.load_default(SUPERSAMPLING * FONT_SIZE)

    def place(self, x: float, y: float) -> tuple[float, float]:
        """Pixel of a data point; values beyond the axes go to their ends."""
        left, top, right, bottom = self.box
        return left + (right - left) * _share(x, *self.x_range), bottom - (bottom - top) * _share(y, *self.y_range)

    def line(self, points: Points, colour: Colour, width: float = 2.5) -> None:
        """Polyline in pixels; a single point becomes a dot."""
        scaled = [(SUPERSAMPLING * x, SUPERSAMPLING * y) for x, y in points]
        if len(scaled) == 1:
            self.draw.circle(scaled[0], 2 * SUPERSAMPLING * width, fill=colour)
        self.draw.line(scaled, fill=colour, width=round(SUPERSAMPLING * width), joint="curve")

    def area(self, points: Points, colour: Colour) -> None:
        """Filled area between a polyline in pixels and the bottom of the chart."""
        bottom = self.box[3]
        outline = [(points[0][0], bottom), *points, (points[-1][0], bottom)]
        self.draw.polygon([(SUPERSAMPLING * x, SUPERSAMPLING * y) for x, y in outline], fill=colour)

    def text(self, x: float, y: float, words: str, colour: Colour = TEXT, anchor: str = "lt") -> float:
        """Write words at a pixel; the width that they take."""
        self.draw.text((SUPERSAMPLING * x, SUPERSAMPLING * y), words, fill=colour, font=self.font, anchor=anchor)
        return self.draw.textlength(words, font=self.font) / SUPERSAMPLING

    def axes(self, x_ticks: list[float], y_ticks: list[float], x_label: str) -> None:
        """Grid lines with their numbers, and the name of the horizontal axis."""
        left, top, right, bottom = self.box
        for tick in y_ticks:
            _, y = self.place(self.x_range[0], tick)
            self.line([(left, y), (right, y)], GRID, 1.5)
            self.text(left - 8, y, f"{tick:g}", anchor="rm")
        for tick in x_ticks:
            x, _ = self.place(tick, self.y_range[0])
            self.line([(x, top), (x, bottom)], GRID, 1.5)
            self.text(x, bottom + 8, f"{tick:g}", anchor="mt")
        self.text((left + right) / 2, self.size[1] - 6, x_label, anchor="mb")

    def tensor(self) -> Tensor:
        """The picture, (1, H, W, 3) in 0..1."""
        small = self.image.resize(self.size, Image.Resampling.BOX)
        return torch.from_numpy(np.asarray(small, dtype=np.float32) / 255)[None]


def spectrum_figure(svd: LatentSVD, *, sigma: float | None = None) -> Tensor:
    """Singular values against rank, a line per channel, before the spectrum that noise alone would have.

    Lines are means over batch and frames. The grey area is the Marchenko-Pastur bulk at noise level sigma; None reads
    sigma off the median singular values, and leaves the bulk out if svd holds only leading triplets.
    Returns an image (1, H, W, 3) in 0..1.
    """
    spectra = _spectra(svd)
    sigma = _mean_noise(svd) if sigma is None else sigma
    expected = noise_spectrum(svd.matrix, sigma).tolist() if sigma else []
    chart = _spectrum_chart(spectra, expected)
    if expected:
        _draw_bulk(chart, expected, bulk_edge(svd.matrix, sigma))
    colours = [_colour(i, len(spectra)) for i in range(len(spectra))]
    for values, colour in zip(spectra, colours):
        chart.line([chart.place(i + 1, value) for i, value in enumerate(values)], colour)
    joint = svd.layout == "joint"
    _draw_legend(chart, "all channels" if joint else "channel", [] if joint else colours)
    if expected:
        chart.text(chart.box[0] + 10, chart.box[3] - 10, f"noise level {sigma:.3g}", TEXT, "lb")
    return chart.tensor()


def _spectra(svd: LatentSVD) -> list[list[float]]:
    """Mean singular values of each channel, or of the whole latent in the joint layout."""
    if svd.layout == "joint":
        return reduce(svd.S.abs().float(), "n r -> 1 r", "mean").tolist()
    by_channel = rearrange(svd.S.abs().float(), "(b c t) r -> c (b t) r", b=svd.shape[0], c=svd.shape[1])
    return reduce(by_channel, "c bt r -> c r", "mean").tolist()


def _mean_noise(svd: LatentSVD) -> float:
    return noise_level(svd.S, svd.matrix).mean().item() if svd.rank == svd.matrix.rank else 0.0


def _spectrum_chart(spectra: list[list[float]], expected: list[float]) -> LogChart:
    """Empty chart whose axes hold the spectra, down to 1e-3 of the largest value."""
    rank = max(len(spectra[0]), 2)
    values = [value for row in [*spectra, expected] for value in row]
    top = max(values) or 1.0
    bottom = min((value for value in values if value > 1e-3 * top), default=top)
    chart = LogChart((1, rank), (0.8 * bottom, 1.4 * top))
    chart.axes([2**k for k in range(rank.bit_length())], _ticks(*chart.y_range), "rank of the triplet")
    return chart


def _ticks(low: float, high: float) -> list[float]:
    """Powers of ten between low and high, with their multiples by 2 and 5 where there are less than two."""
    decades = [10.0**k for k in range(floor(log10(low)), ceil(log10(high)) + 1)]
    whole = [tick for tick in decades if low <= tick <= high]
    return whole if len(whole) > 1 else [m * tick for tick in decades for m in (1, 2, 5) if low <= m * tick <= high]


def _draw_bulk(chart: LogChart, expected: list[float], edge: float) -> None:
    chart.area([chart.place(i + 1, value) for i, value in enumerate(expected)], NOISE)
    _, y = chart.place(1, edge)
    left, _, right, _ = chart.box
    for x in np.arange(left, right, 16):
        chart.line([(x, y), (min(x + 8, right), y)], TEXT, 1.5)


def _draw_legend(chart: LogChart, title: str, colours: list[Colour]) -> None:
    """Numbers of the lines in their colours; first and last only where there is no room for all."""
    x = chart.box[0] + chart.text(chart.box[0], 14, title)
    last = len(colours)
    labels = {i: str(i + 1) for i in range(last)} if last <= 12 else {0: "1", last - 1: f"to {last}"}
    for i, label in labels.items():
        x += 10 + chart.text(x + 10, 14, label, colours[i])


def _colour(index: int, count: int) -> Colour:
    red, green, blue = hsv_to_rgb(0.1 + 0.85 * index / max(count, 4), 0.55, 1.0)
    return round(255 * red), round(255 * green), round(255 * blue)


def _share(value: float, low: float, high: float) -> float:
    return min(max(log10(max(value, low) / low) / log10(high / low), 0.0), 1.0)
