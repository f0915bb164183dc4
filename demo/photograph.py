"""A drawn face as a camera would see it: light from one side, a soft lens, falling-off corners and grain.

    python -m demo.photograph [--out demo/pictures]

The demo models were trained on clean drawings only, so such a picture is foreign to them, as a photograph is.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from PIL import Image, ImageFilter

from . import PICTURES, drawing, faces

PLAIN = {"glasses": "none", "hat": "none", "earrings": "none", "beard": 0.0, "mouth": 0.0, "light": 0.0, "turn": 0.1}
FRIENDLY = {"smile": 0.6, "age": 0.15, "skin": 0.3, "eyes": 0.3, "style": "wavy", "hair": "brown", "hair_length": 0.75}
CLOTHED = {"shirt": "blue", "background": "green"}


def photographed(face: faces.Face, size: int = faces.SIZE, seed: int = 0) -> np.ndarray:
    """The face (size, size, 3), uint8, in uneven light through a lens."""
    rng, scale = np.random.default_rng(seed), 4
    large = Image.fromarray(drawing.render(face, size * scale)).filter(ImageFilter.GaussianBlur(0.45 * scale))
    pixels = (np.asarray(large, dtype=np.float64) / 255) ** 2.2
    y, x = np.mgrid[-1 : 1 : size * scale * 1j, -1 : 1 : size * scale * 1j]
    light = (0.8 + 0.2 * (0.8 * x - 0.6 * y)) * (1 - 0.12 * (x**2 + y**2))
    pixels = pixels * light[..., None] * np.array([1.08, 1.0, 0.86])
    small = pixels.reshape(size, scale, size, scale, 3).mean((1, 3))
    grain = rng.normal(0, 0.006, small.shape) + rng.normal(0, 0.01, small.shape) * np.sqrt(small.clip(0))
    return ((small + grain).clip(0, 1) ** (1 / 2.2) * 255).round().astype(np.uint8)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=PICTURES, help="the folder to write to, demo/pictures/ if left out")
    folder = parser.parse_args().out
    folder.mkdir(parents=True, exist_ok=True)
    face = faces.sample_face(np.random.default_rng(19), **PLAIN, **FRIENDLY, **CLOTHED)
    Image.fromarray(drawing.render(face)).save(folder / "semantic_latents_portrait_drawn.png")
    Image.fromarray(photographed(face)).save(folder / "semantic_latents_portrait_photograph_like.png")
    print(*(f"{name}: {value}" for name, value in {**face.labels, **face.numbers}.items()), sep="\n")


if __name__ == "__main__":
    main()
