"""The head that all parts of a portrait share: its measures, colours, and where a place on the face is seen."""

from __future__ import annotations

import math

from .canvas import Colour, Point, mix, ramp, scaled

SIDES = (-1, 1)
EYE_LINE, NOSE_LINE, MOUTH_LINE = 0.0, 25.0, 41.0  # heights below the face's centre
CENTRE = (128.0, 124.0)
SKIN: tuple[Colour, ...] = ((255, 228, 208), (247, 208, 178), (230, 178, 138), (196, 138, 98), (146, 94, 64), (104, 67, 49))
HAIR: dict[str, Colour] = {
    "black": (40, 35, 40),
    "brown": (122, 76, 44),
    "blond": (232, 192, 106),
    "red": (192, 82, 38),
    "blue": (62, 104, 200),
    "pink": (234, 126, 168),
}
GREY: Colour = (206, 206, 210)


def skin_colour(darkness: float) -> Colour:
    """The skin colour at a darkness from 0 (light) to 1 (dark)."""
    place = min(1.0, max(0.0, darkness)) * (len(SKIN) - 1)
    i = min(int(place), len(SKIN) - 2)
    return mix(SKIN[i], SKIN[i + 1], place - i)


class Head:
    """Measures and colours of one face. Offsets `u` (right) and `v` (down) are from the face's centre, in drawing units."""

    def __init__(self, face):
        self.labels, self.numbers, self.identity = face.labels, face.numbers, face.identity
        self.cx, self.cy = CENTRE
        n, i = self.numbers, self.identity
        self.width = 51 + 7 * n["width"]  # half the face, at the cheekbones
        self.top, self.bottom = -66 - 3 * i["forehead"], 64 + 4 * i["chin"] + 4.5 * n["mouth"]
        self.angle = 0.47 * n["turn"]
        self.sin, self.cos = math.sin(self.angle), math.cos(self.angle)
        self.colour_skin()
        self.colour_hair()

    def colour_skin(self) -> None:
        """Set the skin's colour and all that derives from it, so that features read on every tone."""
        dark, tone = self.numbers["skin"], self.identity["undertone"]
        base = skin_colour(dark)
        self.skin = tuple(v + d * tone for v, d in zip(base, (3, -1, -7)))
        self.shade = scaled(self.skin, 0.83 - 0.08 * dark, 0.74 - 0.05 * dark, 0.70 - 0.02 * dark)
        self.lit = mix(self.skin, (255, 236, 214), 0.30)
        self.line = mix(scaled(self.skin, 0.56, 0.42, 0.38), (30, 14, 12), 0.25 + 0.55 * dark)
        self.blush = mix(self.skin, mix((232, 98, 90), (160, 54, 44), dark), 0.42)
        self.lip = mix(scaled(self.skin, 0.92, 0.72, 0.70), mix((206, 92, 92), (168, 84, 84), dark), 0.55 + 0.1 * dark)
        self.white = mix((252, 250, 246), self.skin, 0.05 + 0.09 * dark)

    def colour_hair(self) -> None:
        """Set the colours of hair, brows and beard; age blends grey into all of them."""
        self.grey = 0.92 * ramp(self.numbers["age"], 0.32, 1.0)
        own = scaled(HAIR[self.labels["hair"]], 1 + 0.10 * self.identity["hair_tone"])
        self.hair = mix(own, GREY, self.grey)
        self.hair_dark = scaled(self.hair, 0.74)
        self.hair_lit = mix(self.hair, (255, 244, 226), 0.26)
        self.brow = mix(mix(own, (52, 34, 28), 0.55), (176, 172, 172), 0.8 * self.grey)

    def at(self, u: float, v: float, lift: float = 0.0) -> Point:
        """Where the place (u, v) on the face, raised by `lift` above it, is seen as the head turns."""
        r = 1.12 * self.width
        depth = 0.66 * math.sqrt(max(0.0, r * r - u * u)) + lift
        return self.cx + u * self.cos + depth * self.sin, self.cy + v

    def seen(self, *places: tuple[float, ...]) -> list[Point]:
        """`at` for several places."""
        return [self.at(*place) for place in places]

    def edge(self, part: float, v: float) -> Point:
        """A place on the head's outline: `part` of the half width to the right, shifted a little by the turn, more at the chin."""
        shift = self.numbers["turn"] * (1.5 + 5.5 * max(0.0, v) / 64 + 3.0 * min(0.0, v) / 64)
        return self.cx + part * self.width + shift, self.cy + v

    def outline(self) -> list[Point]:
        """The head's contour, clockwise from the top."""
        i, age = self.identity, self.numbers["age"]
        jaw = 0.80 + 0.08 * i["jaw"] + 0.035 * age
        cheek = 0.975 - 0.02 * age
        right = [(0.56, self.top + 8), (0.90, self.top + 32), (1.0, -4), (cheek, 20), (jaw, 43), (0.46 + 0.10 * i["jaw"], self.bottom - 7)]
        return [
            self.edge(0, self.top),
            *(self.edge(u, v) for u, v in right),
            self.edge(0, self.bottom),
            *(self.edge(-u, v) for u, v in reversed(right)),
        ]


def ear_place(head: Head, side: int) -> tuple[float, float]:
    """The centre of an ear, which goes behind the head on the side that the head turns to."""
    turn = head.numbers["turn"]
    return head.cx + side * (head.width + 2.5) - 5.5 * turn - 2.5 * side * max(0.0, side * turn), head.cy + 7


def eye_centre(head: Head, side: int) -> tuple[float, float]:
    """The offsets (u, v) of an eye from the face's centre."""
    return side * (0.415 * head.width + 2.2 * head.identity["eye_distance"]), EYE_LINE


def mouth_measures(head: Head) -> tuple[float, float, float]:
    """Half the mouth's width, how far its corners rise, and how far its lips part, in drawing units."""
    n, i = head.numbers, head.identity
    glad = max(0.0, n["smile"])
    half = 17.0 + 1.8 * i["mouth_width"] + 1.2 * n["smile"] + 4.8 * glad * glad - 1.8 * n["mouth"] * (1 - glad)
    return half, 8.5 * n["smile"] + 3.0 * glad, 16.5 * n["mouth"] + 7.5 * ramp(n["smile"], 0.25, 1.0)
