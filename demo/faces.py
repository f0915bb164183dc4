"""Drawn faces with known attributes: the demo model's only training data, and its ground truth.

Every face is drawn from a `Face` by this file alone; there is no third-party art. Coordinates are in units of half
the picture, with the origin at the head's centre, x to the right and y down.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
from PIL import Image, ImageDraw

ATTRIBUTES: dict[str, tuple[str, ...]] = {
    "smile": ("frowning", "neutral", "smiling"),
    "mouth": ("closed", "open"),
    "glasses": ("none", "glasses", "sunglasses"),
    "beard": ("none", "mustache", "beard"),
    "style": ("bald", "short", "long", "curly", "spiky"),
    "hair": ("black", "brown", "blond", "red", "gray", "blue"),
    "skin": ("pale", "tan", "brown", "dark"),
    "hat": ("none", "hat"),
    "gaze": ("left", "front", "right"),
    "background": ("white", "gray", "orange", "green", "blue", "pink"),
    "shirt": ("white", "black", "red", "green", "yellow"),
}
PROBABILITIES = {
    "smile": (0.36, 0.28, 0.36),
    "mouth": (0.6, 0.4),
    "glasses": (0.5, 0.28, 0.22),
    "beard": (0.5, 0.2, 0.3),
    "style": (0.14, 0.22, 0.22, 0.22, 0.2),
    "hat": (0.76, 0.24),
    "gaze": (0.3, 0.4, 0.3),
}
SKIN = {"pale": (250, 222, 200), "tan": (226, 178, 134), "brown": (164, 110, 74), "dark": (84, 52, 36)}
HAIR = {
    "black": (28, 24, 26),
    "brown": (136, 82, 40),
    "blond": (236, 200, 100),
    "red": (196, 72, 24),
    "gray": (168, 168, 172),
    "blue": (50, 90, 200),
}
BACKGROUND = {
    "white": (238, 238, 238),
    "gray": (124, 128, 134),
    "orange": (236, 150, 60),
    "green": (80, 160, 90),
    "blue": (84, 136, 214),
    "pink": (240, 170, 195),
}
SHIRT = {"white": (242, 242, 242), "black": (36, 36, 40), "red": (188, 44, 44), "green": (36, 118, 62), "yellow": (236, 204, 56)}
LENS, LIP, MOUTH, TEETH = (24, 24, 28), (164, 52, 60), (104, 22, 30), (250, 250, 248)

SIZE = 32  # of the demo model's pictures, in pixels

Colour = tuple[int, int, int]


@dataclass(frozen=True)
class Face:
    """One face: `labels` name the attributes, `smile`, `opening`, `yaw` in [-1, 1] their amounts, the rest identity."""

    labels: dict[str, str]
    smile: float
    opening: float
    yaw: float
    width: float
    brow: float
    eyes: float
    jitter: tuple[float, ...]


def sample_face(rng: np.random.Generator, **fixed: str) -> Face:
    """A random face; `fixed` pins attributes (`sample_face(rng, hair="red")`)."""
    labels = {name: str(rng.choice(values, p=PROBABILITIES.get(name))) for name, values in ATTRIBUTES.items()}
    labels.update(fixed)
    if labels["hat"] == "hat" and labels["style"] == "spiky":  # the hat would hide the spikes
        labels["style" if "hat" in fixed or "style" not in fixed else "hat"] = "short" if "style" not in fixed else "none"
    smile = {"frowning": (-1, -0.5), "neutral": (-0.12, 0.12), "smiling": (0.5, 1)}[labels["smile"]]
    yaw = {"left": (-1, -0.6), "front": (-0.12, 0.12), "right": (0.6, 1)}[labels["gaze"]]
    opening = {"closed": (0, 0), "open": (0.45, 1)}[labels["mouth"]]
    u = rng.uniform
    return Face(labels, u(*smile), u(*opening), u(*yaw), u(-1, 1), u(-1, 1), u(-0.3, 1), tuple(np.clip(rng.normal(0, 1, 12), -2, 2)))


def mirrored(face: Face) -> Face:
    """The labels of the horizontally flipped picture."""
    swap = {"left": "right", "right": "left", "front": "front"}
    return replace(face, labels={**face.labels, "gaze": swap[face.labels["gaze"]]}, yaw=-face.yaw)


def hair_is_visible(labels: dict[str, str]) -> bool:
    """Whether the picture shows the hair's colour at all (a bald, shaven head does not)."""
    return labels["style"] != "bald" or labels["beard"] != "none"


class Canvas:
    """A supersampled picture addressed in the head's own units."""

    def __init__(self, size: int, colour: Colour, centre: tuple[float, float], scale: float):
        self.half = size / 2
        self.centre, self.scale = centre, scale
        self.image = Image.new("RGB", (size, size), colour)
        self.pen = ImageDraw.Draw(self.image)

    def at(self, points):
        return [(self.half * (1 + self.centre[0] + self.scale * x), self.half * (1 + self.centre[1] + self.scale * y)) for x, y in points]

    def box(self, x, y, rx, ry):
        (left, top), (right, bottom) = self.at([(x - rx, y - ry), (x + rx, y + ry)])
        return [left, top, right, bottom]

    def thick(self, width: float) -> int:
        return max(1, round(width * self.half * self.scale))

    def ellipse(self, x, y, rx, ry, colour):
        self.pen.ellipse(self.box(x, y, rx, ry), fill=colour)

    def ring(self, x, y, rx, ry, colour, width):
        self.pen.ellipse(self.box(x, y, rx, ry), outline=colour, width=self.thick(width))

    def rectangle(self, left, top, right, bottom, colour, radius=0.0):
        box = [v for point in self.at([(left, top), (right, bottom)]) for v in point]
        self.pen.rounded_rectangle(box, radius=self.thick(radius) if radius else 0, fill=colour)

    def polygon(self, points, colour):
        self.pen.polygon(self.at(points), fill=colour)

    def line(self, points, colour, width):
        self.pen.line(self.at(points), fill=colour, width=self.thick(width), joint="curve")

    def paste(self, colour: Colour, inside, *outside):
        """Fill the ellipse `inside`, less the ellipses and rectangles `outside` (each a box of four)."""
        mask = Image.new("L", self.image.size, 0)
        pen = ImageDraw.Draw(mask)
        pen.ellipse(inside, fill=255)
        for kind, box in outside:
            getattr(pen, kind)(box, fill=0)
        self.image.paste(Image.new("RGB", self.image.size, colour), (0, 0), mask)


def mix(a: Colour, b: Colour, amount: float) -> Colour:
    return tuple(round(x + (y - x) * amount) for x, y in zip(a, b))


def shaded(colour: Colour, amount: float) -> Colour:
    return tuple(int(np.clip(v + amount, 0, 255)) for v in colour)


def render(face: Face, size: int = SIZE, supersampling: int = 8) -> np.ndarray:
    """The picture of a face, uint8 (size, size, 3)."""
    j, labels = face.jitter, face.labels
    colours = {
        "skin": shaded(SKIN[labels["skin"]], 7 * j[0]),
        "hair": shaded(HAIR[labels["hair"]], 6 * j[1]),
        "shirt": shaded(SHIRT[labels["shirt"]], 6 * j[5]),
    }
    background = tuple(int(np.clip(v + 6 * k, 0, 255)) for v, k in zip(BACKGROUND[labels["background"]], j[2:5]))
    canvas = Canvas(size * supersampling, background, (0.03 * j[6], 0.07 + 0.025 * j[7]), 1.22 + 0.035 * j[8])
    head = (0.47 + 0.06 * face.width, 0.60)
    for part in (_back_hair, _body, _head, _beard, _eyes, _nose, _mouth, _moustache, _front_hair, _hat, _glasses):
        part(canvas, face, head, colours)
    return np.asarray(canvas.image.resize((size, size), Image.Resampling.BOX))


def _back_hair(canvas, face, head, colours):
    (fw, fh), dark = head, mix(colours["hair"], (0, 0, 0), 0.28)
    if face.labels["style"] == "long":
        canvas.ellipse(-0.05 * face.yaw, -0.12, 1.28 * fw, 1.05 * fh, dark)
        canvas.rectangle(-1.28 * fw, -0.12, 1.28 * fw, 0.86, dark, 0.16)
    if face.labels["style"] == "curly":
        for k in range(15):
            angle = math.pi * (0.86 + 1.28 * k / 14)
            canvas.ellipse(1.12 * fw * math.cos(angle), -0.1 + 1.02 * fh * math.sin(angle), 0.19, 0.19, dark if k % 2 else colours["hair"])


def _body(canvas, face, head, colours):
    neck = mix(colours["skin"], (60, 20, 20), 0.22)
    canvas.ellipse(0, 1.02, 0.95, 0.47, colours["shirt"])
    canvas.rectangle(-0.17, 0.45, 0.17, 0.66, neck)
    canvas.ellipse(0, 0.66, 0.17, 0.07, neck)


def _head(canvas, face, head, colours):
    (fw, fh), skin = head, colours["skin"]
    for side in (-1, 1):
        canvas.ellipse(side * fw * (1 - 0.08 * side * face.yaw), 0.03, 0.09, 0.13, mix(skin, (60, 20, 20), 0.22))
    canvas.ellipse(0, -0.04, fw, 0.93 * fh, skin)
    canvas.ellipse(0, 0.14, 0.88 * fw, 0.80 * fh, skin)


def _beard(canvas, face, head, colours):
    if face.labels["beard"] != "beard":
        return
    (fw, fh), shift = head, 0.17 * face.yaw
    canvas.paste(
        mix(colours["hair"], (0, 0, 0), 0.12),
        canvas.box(0, 0.305 * fh / 0.6, 0.97 * fw, 0.24 + 0.63 * fh - 0.06),
        ("ellipse", canvas.box(shift, -0.245, 0.80 * fw, 0.505)),
        ("rectangle", canvas.box(0, -1, 2, 1.06)),
    )


def _eye_centres(face: Face) -> list[tuple[float, float, int]]:
    shift = 0.2 * face.yaw
    return [(shift + side * 0.225 * (1 - 0.16 * side * face.yaw), -0.06, side) for side in (-1, 1)]


def _eyes(canvas, face, head, colours):
    brow_colour, tilt = mix(colours["hair"], (30, 20, 20), 0.35), 0.04 * face.brow
    for x, y, side in _eye_centres(face):
        ry = 0.105 + 0.025 * face.eyes
        canvas.ellipse(x, y, 0.125, ry, (250, 250, 250))
        canvas.ellipse(x + 0.055 * face.yaw, y, 0.07, 0.075, (46, 32, 30))
        top = y - 0.205 - 0.015 * face.eyes
        canvas.line([(x - side * 0.10, top + tilt), (x + side * 0.12, top - 0.3 * tilt)], brow_colour, 0.05)


def _nose(canvas, face, head, colours):
    x, shade = 0.23 * face.yaw, mix(colours["skin"], (60, 20, 20), 0.28)
    tip = 0.03 if face.yaw >= 0 else -0.03
    canvas.line([(x - tip / 3, 0.02), (x + tip, 0.16), (x - tip, 0.17)], shade, 0.035)


def _mouth(canvas, face, head, colours):
    x0, y0, half = 0.2 * face.yaw, 0.34, 0.25 + 0.03 * max(face.smile, 0)
    steps = np.linspace(-1, 1, 17)
    upper = [(x0 + half * s, y0 - 0.2 * face.smile * (s * s - 0.4)) for s in steps]
    if face.opening > 0:
        drop = 0.10 + 0.12 * face.opening
        lower = [(x, y + drop * (1 - s * s)) for (x, y), s in zip(upper, steps)]
        teeth = [(x, y + 0.35 * drop * (1 - s * s)) for (x, y), s in zip(upper, steps)]
        canvas.polygon(upper + lower[::-1], MOUTH)
        canvas.polygon(upper + teeth[::-1], TEETH)
        canvas.line(lower, LIP, 0.045)
    canvas.line(upper, LIP, 0.065)


def _moustache(canvas, face, head, colours):
    if face.labels["beard"] == "none":
        return
    x, y, colour = 0.2 * face.yaw, 0.24 + 0.03 * min(face.smile, 0), mix(colours["hair"], (0, 0, 0), 0.12)
    for side in (-1, 1):
        canvas.polygon(
            [(x, y - 0.05), (x + side * 0.12, y - 0.03), (x + side * 0.24, y + 0.05), (x + side * 0.10, y + 0.04), (x, y + 0.03)], colour
        )


def _front_hair(canvas, face, head, colours):
    (fw, fh), shift, style = head, 0.12 * face.yaw, face.labels["style"]
    if style in ("short", "long"):
        top, fringe = -0.16 - 0.93 * fh, 0.04 * face.jitter[9]
        cap = canvas.box(0, (top + 0.80 * fh) / 2, 1.07 * fw, (0.80 * fh - top) / 2)
        hole = canvas.box(shift - 0.04 * fw, 0.25 + fringe, 0.90 * fw, 0.62)
        canvas.paste(
            colours["hair"], cap, ("ellipse", hole), ("rectangle", canvas.box(0, 1.0 + (0.02 if style == "short" else 0.10), 2, 1.0))
        )
    elif style == "curly":
        for k in range(9):
            angle = math.pi * (1.12 + 0.76 * k / 8)
            canvas.ellipse(
                0.05 * face.yaw + 0.86 * fw * math.cos(angle),
                -0.10 + 0.86 * fh * math.sin(angle),
                0.16,
                0.15,
                colours["hair"] if k % 2 else mix(colours["hair"], (0, 0, 0), 0.28),
            )
    elif style == "spiky":
        _spikes(canvas, face, head, colours["hair"])


def _spikes(canvas, face, head, colour):
    (fw, fh), points = head, []
    for k in range(13):
        angle, reach = math.pi * (1.04 + 0.92 * k / 12), 1.4 if k % 2 else 1.0
        points.append((0.05 * face.yaw + fw * reach * math.cos(angle), -0.08 + fh * (0.96 if k % 2 == 0 else reach) * math.sin(angle)))
    shift = 0.12 * face.yaw
    canvas.polygon(points + [(shift + 0.72 * fw, -0.36), (shift, -0.42), (shift - 0.72 * fw, -0.36)], colour)


def _hat(canvas, face, head, colours):
    if face.labels["hat"] == "none":
        return
    (fw, _), x, y, colour = head, 0.05 * face.yaw, -0.40, colours["shirt"]
    band = mix(colour, (0, 0, 0), 0.35) if sum(colour) > 200 else mix(colour, (255, 255, 255), 0.25)
    canvas.ellipse(x, y, 1.5 * fw, 0.10, band)
    canvas.rectangle(x - 0.98 * fw, y - 0.50, x + 0.98 * fw, y + 0.02, colour, 0.14)
    canvas.rectangle(x - 0.98 * fw, y - 0.11, x + 0.98 * fw, y - 0.02, band)
    canvas.ellipse(x, y + 0.02, 1.5 * fw, 0.055, band)


def _glasses(canvas, face, head, colours):
    kind, (fw, _) = face.labels["glasses"], head
    if kind == "none":
        return
    eyes = _eye_centres(face)
    for x, y, side in eyes:
        if kind == "sunglasses":
            canvas.rectangle(x - 0.2, y - 0.15, x + 0.2, y + 0.16, LENS, 0.07)
        else:
            canvas.ring(x, y, 0.205, 0.175, LENS, 0.055)
        canvas.line([(x + side * 0.19, y - 0.02), (side * 0.98 * fw, y - 0.03)], LENS, 0.04)
    (left, y, _), (right, _, _) = eyes
    canvas.line([(left + 0.18, y - 0.02), (right - 0.18, y - 0.02)], LENS, 0.05)
