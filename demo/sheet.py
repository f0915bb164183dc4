"""Pictures to look at drawn faces by: a sheet of random ones, and one row for each continuous attribute.

`python -m demo.sheet OUT.png [random|rows|skin] [SEED]`
"""

from __future__ import annotations

import sys

import numpy as np
from PIL import Image

from .drawing import render
from .faces import CATEGORICAL, CONTINUOUS, sample_face


def tiled(rows: list[list[np.ndarray]]) -> Image.Image:
    """Rows of pictures of one size as one picture."""
    return Image.fromarray(np.concatenate([np.concatenate(row, axis=1) for row in rows]))


def random_sheet(seed: int, side: int = 8, size: int = 256) -> Image.Image:
    """`side` by `side` random faces."""
    rng = np.random.default_rng(seed)
    return tiled([[render(sample_face(rng), size) for _ in range(side)] for _ in range(side)])


def rows_sheet(seed: int, names=tuple(CONTINUOUS), steps: int = 9, size: int = 256) -> Image.Image:
    """For each continuous attribute, a row in which it alone runs over its range."""
    rows = []
    for k, name in enumerate(names):
        quiet = {
            "smile": 0.1,
            "mouth": 0.0,
            "turn": 0.0,
            "age": 0.2,
            "beard": 0.0,
            "hat": "none",
            "glasses": "none",
            "hair_length": 0.4,
            "light": 0.3,
        }
        style = "straight" if name == "hair_length" else CATEGORICAL["style"][1 + k % 5]
        face = {**quiet, "style": style}
        rows.append(
            [render(sample_face(np.random.default_rng(seed + k), **{**face, name: v}), size) for v in np.linspace(*CONTINUOUS[name], steps)]
        )
    return tiled(rows)


def skin_sheet(seed: int, steps: int = 8, size: int = 256) -> Image.Image:
    """Every row another face, every column another skin tone."""
    return tiled([[render(sample_face(np.random.default_rng(seed + k), skin=v), size) for v in np.linspace(0, 1, steps)] for k in range(6)])


if __name__ == "__main__":
    kind, seed = (sys.argv[2:3] or ["random"])[0], int((sys.argv[3:4] or [0])[0])
    {"random": random_sheet, "rows": rows_sheet, "skin": skin_sheet}[kind](seed).save(sys.argv[1])
