"""Pictures side by side with labels, as one picture."""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from .channels import as_rgb
from .typesetting import Typeset

PAPER, INK = (24, 24, 26), (232, 232, 232)
MARGIN = 4  # pixels between a label and its neighbours


def labelled_grid(
    images: Sequence[Tensor],
    labels: Sequence[str] = (),
    *,
    columns: int = 0,
    tile: int = 192,
    title: str = "",
    heads: Sequence[str] = (),
    sides: Sequence[str] = (),
) -> Tensor:
    """One picture (1, H, W, 3) in 0..1 of the images (h, w, 1, 3 or 4) in 0..1, row by row, each over its label.

    columns: pictures in a row, 0 for all in one. tile: pictures narrower than this many pixels are enlarged by a whole
    factor, so that pixels stay square. heads, sides: a label above each column, and one at the left of each row. Raises
    ValueError if there is no image, sizes differ, or the labels are not one for each image, column or row.
    """
    columns = columns or len(images)
    _check(images, labels, columns, heads, sides)
    factor = max(1, ceil(tile / images[0].shape[1]))
    pictures = [_to_picture(image, factor) for image in images]
    width, height = pictures[0].size
    size = max(12, width // 10)
    below, over, beside = (_typeset(texts, width - 2 * MARGIN, size) for texts in (labels, heads, sides))
    beside = beside and beside.narrowed()
    first = beside.width + 2 * MARGIN if beside else 0
    above = _typeset([title] if title else [], first + columns * width - 4 * MARGIN, size)
    cell, head = max(height + _height(below), _height(beside)), _height(above) + _height(over)
    sheet = Image.new("RGB", (first + columns * width, head + ceil(len(pictures) / columns) * cell), PAPER)
    _write(sheet, above, 0, 2 * MARGIN, 0, centred=False)
    for i in range(len(heads)):
        _write(sheet, over, i, first + i * width + MARGIN, _height(above))
    for i in range(len(sides)):
        _write(sheet, beside, i, MARGIN, head + i * cell + max(0, height - _height(beside)) // 2, centred=False)
    for i, picture in enumerate(pictures):
        left, top = first + (i % columns) * width, head + (i // columns) * cell
        sheet.paste(picture, (left, top))
        _write(sheet, below, i, left + MARGIN, top + height)
    return torch.from_numpy(np.asarray(sheet, np.float32) / 255)[None]


def _typeset(texts: Sequence[str], width: int, size: int) -> Typeset | None:
    return Typeset.fitting(texts, max(1, width), size) if texts else None


def _height(text: Typeset | None) -> int:
    return text.height if text else 0


def _write(sheet: Image.Image, text: Typeset | None, number: int, left: int, top: int, *, centred: bool = True) -> None:
    if text:
        sheet.paste(INK, (left, top), text.mask(number, centred=centred))


def _check(images: Sequence[Tensor], labels: Sequence[str], columns: int, heads: Sequence[str], sides: Sequence[str]) -> None:
    if not images:
        raise ValueError("images: got none; connect at least one picture.")
    sizes = sorted({(image.shape[1], image.shape[0]) for image in images})
    if len(sizes) > 1:
        found = " and ".join(f"{width} x {height}" for width, height in sizes)
        raise ValueError(f"images: got {found} pixels; a grid needs pictures of one size. Resize them first.")
    if labels and len(labels) != len(images):
        raise ValueError(f"labels: got {len(labels)} for {len(images)} pictures; give one label a picture, or none.")

    rows = ceil(len(images) / columns)
    if heads and len(heads) != columns:
        raise ValueError(f"heads: got {len(heads)} for {columns} columns; give one label a column, or none.")
    if sides and len(sides) != rows:
        raise ValueError(f"sides: got {len(sides)} for {rows} rows; give one label a row, or none.")


def _to_picture(image: Tensor, factor: int) -> Image.Image:
    pixels = (as_rgb(image, "images").detach().cpu().float().clamp(0, 1) * 255).round().to(torch.uint8).numpy()
    picture = Image.fromarray(pixels)
    return picture.resize((picture.width * factor, picture.height * factor), Image.Resampling.NEAREST)
