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


def labelled_grid(images: Sequence[Tensor], labels: Sequence[str] = (), *, columns: int = 0, tile: int = 192, title: str = "") -> Tensor:
    """One picture (1, H, W, 3) in 0..1 of the images (h, w, 1, 3 or 4) in 0..1, row by row, each over its label.

    columns: pictures in a row, 0 for all in one. tile: pictures narrower than this many pixels are enlarged by a whole
    factor, so that pixels stay square. Raises ValueError if there is no image, sizes differ, or the labels are not one
    for each image.
    """
    _check(images, labels)
    factor = max(1, ceil(tile / images[0].shape[1]))
    pictures = [_to_picture(image, factor) for image in images]
    columns = columns or len(pictures)
    width, height = pictures[0].size
    size = max(12, width // 10)
    below = Typeset.fitting(labels, max(1, width - 2 * MARGIN), size) if labels else None
    above = Typeset.fitting([title], max(1, columns * width - 4 * MARGIN), size) if title else None
    cell, head = height + (below.height if below else 0), above.height if above else 0
    sheet = Image.new("RGB", (columns * width, head + ceil(len(pictures) / columns) * cell), PAPER)
    if above:
        sheet.paste(INK, (2 * MARGIN, 0), above.mask(0, centred=False))
    for i, picture in enumerate(pictures):
        left, top = (i % columns) * width, head + (i // columns) * cell
        sheet.paste(picture, (left, top))
        if below:
            sheet.paste(INK, (left + MARGIN, top + height), below.mask(i, centred=True))
    return torch.from_numpy(np.asarray(sheet, np.float32) / 255)[None]


def _check(images: Sequence[Tensor], labels: Sequence[str]) -> None:
    if not images:
        raise ValueError("images: got none; connect at least one picture.")
    sizes = sorted({(image.shape[1], image.shape[0]) for image in images})
    if len(sizes) > 1:
        found = " and ".join(f"{width} x {height}" for width, height in sizes)
        raise ValueError(f"images: got {found} pixels; a grid needs pictures of one size. Resize them first.")
    if labels and len(labels) != len(images):
        raise ValueError(f"labels: got {len(labels)} for {len(images)} pictures; give one label a picture, or none.")


def _to_picture(image: Tensor, factor: int) -> Image.Image:
    pixels = (as_rgb(image, "images").detach().cpu().float().clamp(0, 1) * 255).round().to(torch.uint8).numpy()
    picture = Image.fromarray(pixels)
    return picture.resize((picture.width * factor, picture.height * factor), Image.Resampling.NEAREST)
