"""Portraits by their attributes: what there is to see of a face, by name, and what of it a picture shows.

A `Face` says all there is to see; `render` in drawing.py draws it, and nothing else decides about a pixel.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

SIZE = 256  # of the pictures, in pixels

CATEGORICAL: dict[str, tuple[str, ...]] = {
    "style": ("bald", "straight", "wavy", "curly", "spiky", "bun"),
    "hair": ("black", "brown", "blond", "red", "blue", "pink"),
    "glasses": ("none", "glasses", "sunglasses"),
    "hat": ("none", "hat", "cap", "beanie"),
    "earrings": ("none", "earrings"),
    "shirt": ("white", "black", "red", "green", "blue", "yellow"),
    "background": ("white", "gray", "orange", "green", "blue", "pink"),
}
PROBABILITIES = {
    "style": (0.12, 0.2, 0.18, 0.2, 0.15, 0.15),
    "glasses": (0.5, 0.27, 0.23),
    "hat": (0.58, 0.14, 0.14, 0.14),
    "earrings": (0.6, 0.4),
}
CONTINUOUS: dict[str, tuple[float, float]] = {
    "smile": (-1, 1),  # deep frown to grin
    "mouth": (0, 1),  # closed to wide open
    "age": (0, 1),  # young to old, by lines and grey
    "hair_length": (0, 1),  # cropped to below the shoulders
    "beard": (0, 1),  # none, stubble, short, long and full
    "skin": (0, 1),  # light to dark
    "light": (-1, 1),  # from the picture's left to its right
    "turn": (-1, 1),  # the head faces the picture's left to its right
    "eyes": (-1, 1),  # small to large
    "width": (-1, 1),  # narrow to wide face
}
IDENTITY: tuple[str, ...] = (
    "eye_distance",
    "eye_tilt",
    "iris",
    "lashes",
    "brow_height",
    "brow_thickness",
    "brow_arch",
    "nose_length",
    "nose_width",
    "mouth_width",
    "lips",
    "jaw",
    "chin",
    "forehead",
    "ears",
    "parting",
    "fringe",
    "frames",
    "collar",
    "shoulders",
    "undertone",
    "hair_tone",
    "hat_hue",
    "shirt_tone",
    "background_tone",
)


@dataclass(frozen=True)
class Face:
    """One face: `labels` by CATEGORICAL, `numbers` by CONTINUOUS, and `identity` by IDENTITY, each there in [-1, 1]."""

    labels: dict[str, str]
    numbers: dict[str, float]
    identity: dict[str, float]


def sample_face(rng: np.random.Generator, **fixed: str | float) -> Face:
    """A random face; `fixed` pins labels, numbers or identity (`sample_face(rng, hair="red", smile=0.9)`)."""
    labels = {name: str(rng.choice(values, p=PROBABILITIES.get(name))) for name, values in CATEGORICAL.items()}
    numbers = {name: float(rng.uniform(*limits)) for name, limits in CONTINUOUS.items()}
    identity = {name: float(np.clip(rng.normal(0, 0.5), -1, 1)) for name in IDENTITY}
    identity.update({name: float(rng.uniform(-1, 1)) for name in ("iris", "hat_hue", "fringe")})
    numbers["age"] **= 1.25
    if rng.random() < 0.4:
        numbers["mouth"] = 0.0
    if rng.random() < 0.42:
        numbers["beard"] = 0.0
    if rng.random() < 0.35:
        numbers["turn"] *= 0.2
    for name, value in fixed.items():
        _pin(labels, numbers, identity, name, value)
    return Face(labels, numbers, identity)


def _pin(labels, numbers, identity, name: str, value: str | float) -> None:
    if name in CATEGORICAL:
        if value not in CATEGORICAL[name]:
            raise ValueError(f"{name}: {value!r} is none of {', '.join(CATEGORICAL[name])}.")
        labels[name] = str(value)
        return
    if name not in CONTINUOUS and name not in IDENTITY:
        raise ValueError(f"{name}: no such attribute; name one of {', '.join((*CATEGORICAL, *CONTINUOUS, *IDENTITY))}.")
    low, high = CONTINUOUS.get(name, (-1, 1))
    if not low <= value <= high:
        raise ValueError(f"{name}: {value} arrived; give a number from {low} to {high}.")
    (numbers if name in CONTINUOUS else identity)[name] = float(value)


def visible(face: Face) -> set[str]:
    """The attributes, identity's among them, that the picture of a face can show, so that a judge may be asked about them."""
    labels, numbers = face.labels, face.numbers
    hidden = _hidden_hair(labels, numbers)
    if numbers["age"] > 0.65:  # grey covers the hair's own colour
        hidden |= {"hair"}
    if labels["glasses"] == "sunglasses":
        hidden |= {"eyes", "iris", "lashes", "eye_tilt"}
    if labels["glasses"] == "none":
        hidden |= {"frames"}
    if labels["hat"] == "none":
        hidden |= {"hat_hue"}
    if numbers["beard"] > 0.7:
        hidden |= {"collar"}
    if "hair" in hidden:
        hidden |= {"hair_tone"}
    return {*CATEGORICAL, *CONTINUOUS, *IDENTITY} - hidden


def _hidden_hair(labels: dict[str, str], numbers: dict[str, float]) -> set[str]:
    """What hair, where it is short, shaved or under a hat, does not show."""
    style, hat, hidden = labels["style"], labels["hat"] != "none", set()
    if style == "bald":
        hidden |= {"hair_length"} if numbers["beard"] > 0.3 else {"hair_length", "hair"}
    if style == "bun" or style == "spiky" and hat:
        hidden |= {"hair_length"}
    if hat and (style in ("bun", "spiky") or style in ("straight", "wavy") and numbers["hair_length"] < 0.35):
        hidden |= {"style"}
    if hat or style not in ("straight", "wavy"):
        hidden |= {"fringe", "parting"}
    return hidden
