"""Drawn portraits: the portrait models' only training data, and their ground truth. There is no third-party art."""

from __future__ import annotations

import numpy as np

from .canvas import Canvas
from .faces import SIZE, Face
from .features import draw_features, draw_head
from .hair import draw_back_hair, draw_beard, draw_front_hair, draw_locks
from .head import Head
from .wear import draw_background, draw_body, draw_earrings, draw_glasses, draw_hat


def render(face: Face, size: int = SIZE) -> np.ndarray:
    """The picture of a face, uint8 (size, size, 3), drawn back to front; the same face gives the same pixels."""
    canvas, head = Canvas(size), Head(face)
    for draw in (
        draw_background,
        draw_back_hair,
        draw_body,
        draw_locks,
        draw_head,
        draw_beard,
        draw_features,
        draw_front_hair,
        draw_hat,
        draw_glasses,
        draw_earrings,
    ):
        draw(canvas, head)
    return canvas.pixels()
