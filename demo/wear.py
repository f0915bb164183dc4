"""What is around the face: background, neck and shirt, hats, glasses and earrings."""

from __future__ import annotations

import colorsys
import math

from .canvas import BOX, CORNER, BLGradient, BLPath, Canvas, Colour, curve, ellipse, joined, linear, mix, ramp, scaled, straight
from .head import SIDES, Head, ear_place, eye_centre

BACKGROUND: dict[str, Colour] = {
    "white": (240, 240, 238),
    "gray": (150, 156, 164),
    "orange": (242, 170, 92),
    "green": (126, 184, 130),
    "blue": (122, 172, 224),
    "pink": (244, 188, 206),
}
SHIRT: dict[str, Colour] = {
    "white": (246, 246, 244),
    "black": (50, 50, 58),
    "red": (200, 62, 58),
    "green": (52, 138, 92),
    "blue": (58, 98, 178),
    "yellow": (240, 204, 74),
}
RIM, GOLD = (46, 40, 44), (232, 186, 72)


def draw_background(canvas: Canvas, head: Head) -> None:
    """A plain wall, lighter towards the light."""
    wall = scaled(BACKGROUND[head.labels["background"]], 1 + 0.05 * head.identity["background_tone"])
    light = head.numbers["light"]
    left, right = (scaled(wall, 1 + 0.07 * s * light) for s in SIDES)
    (x, y), side = CORNER, BOX
    wall_edges = [(x - 1, y - 1), (x + side + 1, y - 1), (x + side + 1, y + side + 1), (x - 1, y + side + 1)]
    canvas.fill(straight(wall_edges, closed=True), linear((x, 60), (x + side, 90), (0, left, 1), (1, right, 1)))


def draw_body(canvas: Canvas, head: Head) -> None:
    """Shoulders in a shirt, and the neck with the head's shadow on it."""
    i, light, x = head.identity, head.numbers["light"], head.cx
    shirt = scaled(SHIRT[head.labels["shirt"]], 1 + 0.06 * i["shirt_tone"])
    wide, neck = 92 + 6 * i["shoulders"], 0.50 * head.width + 1
    sides = [scaled(shirt, 1 + 0.13 * s * light) for s in SIDES]
    paint = linear((x - wide, 0), (x + wide, 0), (0, sides[0], 1), (1, sides[1], 1))
    slope = [(neck + 3, 202), (neck + 22, 210), (wide - 14, 222), (wide, 240), (wide + 5, 266)]
    points = [*((x + u, v) for u, v in slope), *((x - u, v) for u, v in reversed(slope))]
    canvas.fill(curve([points[0], *points[:5], points[4], points[5], *points[5:], points[-1]]), paint)
    depth = 219 + 9 * (i["collar"] + 1)
    throat = [(x - neck, 150), (x - neck, 190), (x - neck - 5, 203), (x, depth), (x + neck + 5, 203), (x + neck, 190), (x + neck, 150)]
    canvas.fill(curve([throat[0], *throat, throat[-1]]), _neck_paint(head, neck))
    shadow = [(x - neck, 160), (x - neck, 190), (x - 4 * light, 206), (x + neck, 190), (x + neck, 160)]
    canvas.fill(curve([shadow[0], *shadow, shadow[-1]]), head.shade, 0.75)
    out, middle = 0.55 * neck + 3, 0.5 * (203 + depth) + 3
    rim = [(x - neck - 5, 203), (x - out, middle), (x, depth + 1), (x + out, middle), (x + neck + 5, 203)]
    trim = scaled(shirt, 0.80) if sum(shirt) > 240 else mix(shirt, (255, 255, 255), 0.18)
    canvas.stroke(curve(rim, closed=False), trim, 5.5)
    for side in SIDES:
        fold = [(x + side * (wide - 26), 266), (x + side * (wide - 30), 246), (x + side * (wide - 26), 236)]
        canvas.stroke(curve(fold, closed=False), trim, 2, 0.7)


def _neck_paint(head: Head, neck: float) -> BLGradient:
    light = head.numbers["light"]
    base = mix(head.skin, head.shade, 0.35)
    left, right = (mix(base, head.lit if s * light > 0 else head.shade, 0.6 * abs(light)) for s in SIDES)
    return linear((head.cx - neck, 0), (head.cx + neck, 0), (0, left, 1), (1, right, 1))


def hat_colour(head: Head) -> Colour:
    """The hat's colour, from red over green and blue to purple by the face's own number."""
    hue = 0.42 + 0.42 * head.identity["hat_hue"]
    return tuple(255 * v for v in colorsys.hsv_to_rgb(hue, 0.52, 0.66))


def draw_hat(canvas: Canvas, head: Head) -> None:
    """A brimmed hat, a cap or a beanie, set on the head."""
    kind = head.labels["hat"]
    if kind == "none":
        return
    colour, light = hat_colour(head), head.numbers["light"]
    sides = [scaled(colour, 1 + 0.16 * s * light) for s in SIDES]
    paint = linear((head.cx - head.width, 0), (head.cx + head.width, 0), (0, sides[0], 1), (1, sides[1], 1))
    {"hat": _brimmed, "cap": _capped, "beanie": _beanie}[kind](canvas, head, colour, paint)


def _crown(head: Head, low: float, high: float, square: float) -> list[tuple[float, float]]:
    """The outline of a hat's crown, between heights `low` and `high`, rounder or squarer above."""
    x, y, w = head.cx - 1.5 * head.numbers["turn"], head.cy, head.width + 12.5
    right = [(w, low), (w * (0.97 + 0.02 * square), 0.5 * (low + high)), (w * (0.62 + 0.2 * square), high + 7 - 3 * square)]
    return [*((x - u, y + v) for u, v in right), (x, y + high), *((x + u, y + v) for u, v in reversed(right))]


def _beanie(canvas: Canvas, head: Head, colour: Colour, paint: BLGradient) -> None:
    crown = _crown(head, -36, head.top - 27, 0)
    canvas.fill(curve([crown[0], *crown, crown[-1]]), paint)
    x, w = head.cx - 1.5 * head.numbers["turn"], head.width + 13.5
    low = [(x - w, head.cy - 31), (x - 0.5 * w, head.cy - 27), (x, head.cy - 26), (x + 0.5 * w, head.cy - 27), (x + w, head.cy - 31)]
    high = [(a, b - 21) for a, b in low]
    band = curve([low[0], *low, low[-1], high[-1], *high[::-1], high[0]])
    canvas.fill(band, scaled(colour, 0.82))
    ribs = joined(
        straight([(x + t * w, head.cy - 46 + 4 * (1 - t * t)), (x + t * w, head.cy - 32 + 4.6 * (1 - t * t))])
        for t in (-0.88, -0.66, -0.44, -0.22, 0, 0.22, 0.44, 0.66, 0.88)
    )
    canvas.stroke(ribs, scaled(colour, 0.66), 1.8, 0.8)
    seams = [
        [(x + t * w, head.cy - 53), (x + 0.8 * t * w, head.cy - 72), (x + 0.3 * t * w, head.cy + head.top - 24)]
        for t in (-0.6, -0.2, 0.2, 0.6)
    ]
    canvas.stroke(joined(curve(seam, closed=False) for seam in seams), scaled(colour, 0.82), 1.8, 0.7)


def _capped(canvas: Canvas, head: Head, colour: Colour, paint: BLGradient) -> None:
    crown = _crown(head, -34, head.top - 21, 0.35)
    canvas.fill(curve([crown[0], *crown, crown[-1]]), paint)
    x = head.cx - 1.5 * head.numbers["turn"]
    canvas.stroke(curve([(x, head.cy + head.top - 20), head.at(0, -50)], closed=False), scaled(colour, 0.74), 1.6, 0.7)
    w, shift = head.width + 11, 26 * head.sin
    top = [
        (x - w + 3, head.cy - 36),
        (x - 0.5 * w + 0.6 * shift, head.cy - 46),
        (x + shift, head.cy - 49),
        (x + 0.5 * w + 0.6 * shift, head.cy - 46),
        (x + w - 3, head.cy - 36),
    ]
    low = [
        (x - w - 1 + 0.2 * shift, head.cy - 31),
        (x - 0.6 * w + 0.9 * shift, head.cy - 31),
        (x + 1.3 * shift, head.cy - 30),
        (x + 0.6 * w + 0.9 * shift, head.cy - 31),
        (x + w + 1 + 0.2 * shift, head.cy - 31),
    ]
    canvas.fill(curve([top[0], *top, *low[::-1]]), scaled(colour, 0.74))
    canvas.stroke(curve(low[1:4], closed=False), scaled(colour, 0.55), 2, 0.7)
    canvas.fill(ellipse(x, head.cy + head.top - 20, 4.5, 3), scaled(colour, 0.74))


def _brimmed(canvas: Canvas, head: Head, colour: Colour, paint: BLGradient) -> None:
    crown = _crown(head, -38, head.top - 30, 0.75)
    canvas.fill(curve([crown[0], *crown, crown[-1]]), paint)
    x, y, w = head.cx - 1.5 * head.numbers["turn"], head.cy, head.width
    ribbon = [(x - w - 12.5, y - 40), (x, y - 34), (x + w + 12.5, y - 40), (x + w + 12.2, y - 55), (x, y - 50), (x - w - 12.2, y - 55)]
    canvas.fill(curve([ribbon[0], *ribbon[:3], ribbon[2], ribbon[3], *ribbon[3:], ribbon[-1]]), scaled(colour, 0.5))
    brim = [
        (x - w - 36, y - 36),
        (x - 0.7 * w, y - 43),
        (x, y - 42),
        (x + 0.7 * w, y - 43),
        (x + w + 36, y - 36),
        (x + 0.6 * w, y - 29),
        (x, y - 27),
        (x - 0.6 * w, y - 29),
    ]
    canvas.fill(curve(brim), scaled(colour, 0.86))
    canvas.stroke(curve([brim[0], brim[7], brim[6], brim[5], brim[4]], closed=False), scaled(colour, 0.62), 1.8, 0.8)


def _lens(head: Head, side: int) -> list[tuple[float, float]]:
    """The outline of a lens: round to square by the face's own number."""
    u, v = eye_centre(head, side)
    u, rx, ry = u + side * 1.0, 18.6, 16.5
    power = 2 / (3.2 + 1.1 * head.identity["frames"])
    places = []
    for k in range(12):
        c, s = math.cos(math.pi * k / 6), math.sin(math.pi * k / 6)
        places.append((u + rx * math.copysign(abs(c) ** power, c), v + 1.5 + ry * math.copysign(abs(s) ** power, s), 5))
    return head.seen(*places)


def draw_glasses(canvas: Canvas, head: Head) -> None:
    """Glasses with rims, or sunglasses with dark lenses."""
    kind = head.labels["glasses"]
    if kind == "none":
        return
    lenses = [_lens(head, side) for side in SIDES]
    for side, lens in zip(SIDES, lenses):
        x, y = ear_place(head, side)
        hinge = max(lens, key=lambda p: side * p[0])
        canvas.stroke(straight([(hinge[0], head.cy - 4), (x - side * 3, y - 11)]), RIM, 3)
        _paint_lens(canvas, head, curve(lens), lens, kind)
    inner = [max(lenses[0], key=lambda p: p[0]), min(lenses[1], key=lambda p: p[0])]
    middle = head.at(0, -7, 12)
    canvas.stroke(curve([(inner[0][0], head.cy - 3), middle, (inner[1][0], head.cy - 3)], closed=False), RIM, 3)


def _paint_lens(canvas: Canvas, head: Head, shape: BLPath, lens, kind: str) -> None:
    left, top = min(p[0] for p in lens), min(p[1] for p in lens)
    right, low = max(p[0] for p in lens), max(p[1] for p in lens)
    glare = [(left + 0.2 * (right - left), low - 8), (left + 0.5 * (right - left), top + 7)]
    if kind == "sunglasses":
        canvas.fill(shape, linear((0, top), (0, low), (0, (26, 24, 32), 1), (1, (74, 66, 82), 1)))
        canvas.stroke(curve(glare, closed=False), (255, 255, 255), 4, 0.16)
    else:
        canvas.fill(shape, (255, 255, 255), 0.06)
        canvas.stroke(curve(glare, closed=False), (255, 255, 255), 3, 0.28)
    canvas.stroke(shape, head.lit, 5.2, 0.4 * head.numbers["skin"])  # parts the dark rim from dark skin
    canvas.stroke(shape, RIM, 3.0)


def draw_earrings(canvas: Canvas, head: Head) -> None:
    """A ring of gold at each ear; the one on the far side goes out of sight as the head turns."""
    if head.labels["earrings"] == "none":
        return
    for side in SIDES:
        x, y = ear_place(head, side)
        seen = 1 - ramp(side * head.numbers["turn"], 0.2, 0.75)
        canvas.stroke(ellipse(x + side * 1.5, y + 21, 5.2, 6.5), scaled(GOLD, 0.72), 3.4, seen)
        canvas.stroke(ellipse(x + side * 1.5, y + 20.6, 5.2, 6.5), GOLD, 2.2, seen)
