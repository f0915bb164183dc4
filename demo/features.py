"""The head and what is on it: ears, shading, brows, eyes, nose, mouth, and the lines of age."""

from __future__ import annotations

from .canvas import BLGradient, BLPath, Canvas, curve, ellipse, glow, joined, linear, mix, ramp, scaled
from .hair import overhang
from .head import MOUTH_LINE, NOSE_LINE, SIDES, Head, ear_place, eye_centre, mouth_measures

INNER_MOUTH, TEETH, TONGUE = (92, 30, 36), (250, 247, 242), (196, 92, 96)
IRIS = ((70, 44, 30), (116, 76, 40), (112, 118, 64), (84, 128, 168))


def draw_head(canvas: Canvas, head: Head) -> None:
    """Ears and the head's shape, lit from one side."""
    for side in SIDES:
        _ear(canvas, head, side)
    with canvas.inside(curve(head.outline()), _across(head)):
        _shade(canvas, head)
        _cast_shadow(canvas, head)


def _across(head: Head) -> BLGradient:
    """A paint that runs over the head from its lit to its shaded side."""
    light, colour, lit, shade = head.numbers["light"], head.skin, head.lit, head.shade
    left = mix(colour, lit, -light) if light < 0 else mix(colour, shade, 0.9 * light)
    right = mix(colour, lit, light) if light > 0 else mix(colour, shade, -0.9 * light)
    return linear(
        (head.cx - head.width, head.cy - 10),
        (head.cx + head.width, head.cy + 4),
        (0, left, 1),
        (0.5, mix(colour, mix(left, right, 0.5), 0.5), 1),
        (1, right, 1),
    )


def _ear(canvas: Canvas, head: Head, side: int) -> None:
    x, y = ear_place(head, side)
    rx, ry = 8 + head.identity["ears"], 14 + 2 * head.identity["ears"]
    light = side * head.numbers["light"]
    skin = mix(head.skin, head.lit, light) if light > 0 else mix(head.skin, head.shade, 0.25 - 0.75 * light)
    canvas.fill(
        curve(
            [
                (x - side * rx, y - 0.6 * ry),
                (x + side * 0.3 * rx, y - ry),
                (x + side * rx, y - 0.45 * ry),
                (x + side * 0.75 * rx, y + 0.3 * ry),
                (x + side * 0.1 * rx, y + ry),
                (x - side * rx, y + 0.5 * ry),
            ]
        ),
        skin,
    )
    canvas.stroke(
        curve(
            [
                (x + side * 0.05 * rx, y - 0.6 * ry),
                (x + side * 0.6 * rx, y - 0.4 * ry),
                (x + side * 0.35 * rx, y + 0.25 * ry),
                (x + side * 0.1 * rx, y + 0.4 * ry),
            ],
            closed=False,
        ),
        head.shade,
        1.8,
        0.9,
    )


def _shade(canvas: Canvas, head: Head) -> None:
    """The shadow's crescent on the side away from the light, cheeks and the light on forehead and cheekbone."""
    light, n = head.numbers["light"], head.numbers
    for side in SIDES:
        amount = max(0.0, -side * light)
        far, near = side * 1.3 * head.width, side * (0.80 - 0.24 * amount) * head.width
        points = [
            (head.cx + far, head.cy - 90),
            (head.cx + near * 0.9, head.cy - 60),
            (head.cx + near * 1.06, head.cy - 10),
            (head.cx + near, head.cy + 22),
            (head.cx + near * 0.5, head.cy + 56),
            (head.cx + near * 0.35, head.cy + 90),
            (head.cx + far, head.cy + 90),
        ]
        canvas.fill(curve(points), head.shade, 0.62 * amount)
    for side in SIDES:
        x, y = head.at(side * 0.56 * head.width, 22 - 3 * max(0.0, n["smile"]))
        strength = (0.62 - 0.28 * n["age"]) * (0.8 + 0.2 * n["smile"])
        canvas.fill(ellipse(x, y, 15, 12), glow((x, y), 14, head.blush, strength))
    for side in SIDES:
        x, y = head.at(side * 0.42 * head.width, -34)
        strength = 0.22 + 0.34 * max(0.0, side * light)
        canvas.fill(ellipse(x, y, 22, 17), glow((x, y), 22, head.lit, strength))


def _cast_shadow(canvas: Canvas, head: Head) -> None:
    """The shadow of hair and hat on the forehead, away from the light."""
    shift = -3.0 * head.numbers["light"]
    if head.labels["style"] != "bald":
        canvas.fill(overhang(head, shift, 3.5), head.shade, 0.55)
    if head.labels["hat"] != "none":
        reach = 19 if head.labels["hat"] == "hat" else 15
        canvas.fill(ellipse(head.cx + shift, head.cy - 39, 1.25 * head.width, reach), head.shade, 0.6)


def draw_features(canvas: Canvas, head: Head) -> None:
    """All features of the face, with the lines that age and smile draw."""
    _age_lines(canvas, head)
    _nose(canvas, head)
    _mouth(canvas, head)
    _eyes(canvas, head)
    _brows(canvas, head)


def _eyes(canvas: Canvas, head: Head) -> None:
    shapes = [_eye_shape(head, side) for side in SIDES]
    almonds = joined(curve([upper[0], *upper, upper[-1], *lower[1:-1][::-1]]) for upper, lower, _ in shapes)
    with canvas.inside(almonds, head.white):
        for side in SIDES:
            _iris(canvas, head, side)
        for upper, _, _ in shapes:
            canvas.stroke(curve(upper, closed=False), head.line, 4, 0.22)
    lash, lashes = mix(head.line, (24, 16, 16), 0.6), head.identity["lashes"]
    for side, (upper, lower, crease) in zip(SIDES, shapes):
        canvas.stroke(curve(lower, closed=False), head.line, 1.0, 0.45)
        canvas.stroke(curve(upper, closed=False), lash, 2.1 + 0.5 * lashes)
        (x, y), (x2, y2) = upper[-1], upper[-2]
        wing = 0.5 + 0.5 * lashes
        canvas.stroke(curve([(x2, y2), (x, y), (x + wing * (0.35 * (x - x2) + side * 0.8), y - 2.6 * wing)], closed=False), lash, 1.7)
        canvas.stroke(curve(crease, closed=False), head.line, 1.1, 0.42)


def _eye_shape(head: Head, side: int):
    """The upper lid, lower lid and crease of an eye, each a line from the inner corner to the outer one."""
    n, (u, v) = head.numbers, eye_centre(head, side)
    rx, ry = 11.2 + 2.2 * n["eyes"], 6.8 + 2.4 * n["eyes"]
    tilt, squint = 1.6 * head.identity["eye_tilt"] - 0.8 * n["age"], max(0.0, n["smile"]) * 1.5
    top, low = -ry + 0.5 * squint + 0.7 * n["age"], 0.66 * ry - squint

    def line(heights, reach=1.0):
        return head.seen(*((u + side * x * rx * reach, v + y - tilt * x) for x, y in heights))

    upper = line([(-1, 1.6), (-0.6, 0.58 * top), (0, top), (0.62, 0.62 * top), (1, 0.4)])
    lower = line([(-1, 1.6), (-0.5, 0.78 * low + 0.3), (0.1, low), (0.65, 0.66 * low), (1, 0.4)])
    crease = line([(-0.85, 0.5 * top - 2.6), (-0.1, top - 3.4), (0.65, 0.66 * top - 3.0), (1.1, -1.6)])
    return upper, lower, crease


def _iris(canvas: Canvas, head: Head, side: int) -> None:
    n, (u, v) = head.numbers, eye_centre(head, side)
    x, y = head.at(u, v - 0.5)
    x, r = x + 1.6 * n["turn"], 5.8 + 1.0 * n["eyes"]
    place = (head.identity["iris"] + 1) * 1.5
    k = min(int(place), 2)
    colour = mix(IRIS[k], IRIS[k + 1], place - k)
    rx = r * (0.55 + 0.45 * head.cos)
    canvas.fill(ellipse(x, y, rx, r), linear((x, y - r), (x, y + r), (0, scaled(colour, 0.6), 1), (1, scaled(colour, 1.15), 1)))
    canvas.stroke(ellipse(x, y, rx, r), scaled(colour, 0.45), 0.9, 0.8)
    canvas.fill(ellipse(x, y, 0.46 * rx, 0.46 * r), (18, 14, 16))
    canvas.fill(ellipse(x + 2.1 * n["light"], y - 2.2, 1.55, 1.55), (255, 255, 255), 0.92)


def _brows(canvas: Canvas, head: Head) -> None:
    n, i = head.numbers, head.identity
    sad, glad = max(0.0, -n["smile"]), max(0.0, n["smile"])
    for side in SIDES:
        u, v = eye_centre(head, side)
        v += -16.5 - 2.2 * n["eyes"] - 2.2 * i["brow_height"] - 1.6 * glad - 1.0 * n["mouth"]
        thick, arch = 2.4 + 1.0 * i["brow_thickness"] - 0.3 * n["age"], 2.2 + 1.6 * i["brow_arch"]
        inner = -3.6 * sad + 0.6
        top = [(-11.5, inner - thick * 0.75), (-3, 0.45 * inner - arch * 0.6 - thick), (6, -arch - thick * 0.7), (13.5, 2.6 + sad)]
        low = [(7, -arch + thick * 0.75), (-3, 0.45 * inner - arch * 0.5 + thick * 0.7), (-11.5, inner + thick * 0.85)]
        points = head.seen(*((u + side * x, v + y) for x, y in top + low))
        canvas.fill(curve([points[0], *points[:4], points[3], *points[4:], points[-1]]), head.brow, 0.94)


def _nose(canvas: Canvas, head: Head) -> None:
    n, i = head.numbers, head.identity
    tip = NOSE_LINE + 3.2 * i["nose_length"]
    wide = 8.6 + 1.7 * i["nose_width"]
    for side in SIDES:  # the bridge's shaded side: away from the light, and away from where the head turns
        strength = 0.30 - 0.26 * side * n["light"] - 0.24 * side * n["turn"]
        points = head.seen(
            (side * 5.5, -12, 2),
            (side * 3.8, 2, 5),
            (side * 4.4, tip - 9, 9),
            (side * wide * 0.9, tip - 2, 5),
            (side * 2.0, tip - 1, 12),
            (side * 1.2, tip - 12, 9),
            (side * 1.8, -4, 4),
        )
        canvas.fill(curve(points), head.shade, max(0.0, strength))
    x, y = head.at(0, tip - 5, 13)
    canvas.fill(ellipse(x, y, 7, 6.5), glow((x, y), 7, head.lit, 0.75))
    under = head.seen(
        (-wide, tip - 3, 5),
        (-wide * 0.86, tip + 1.2, 6),
        (-wide * 0.45, tip + 0.6, 8),
        (0, tip + 2.6, 11),
        (wide * 0.45, tip + 0.6, 8),
        (wide * 0.86, tip + 1.2, 6),
        (wide, tip - 3, 5),
    )
    canvas.stroke(curve(under, closed=False), head.line, 1.7, 0.72)
    for side in SIDES:
        x, y = head.at(side * wide * 0.42, tip + 0.2, 8)
        canvas.fill(ellipse(x, y, 2.3, 1.1), head.line, 0.8)


def _mouth(canvas: Canvas, head: Head) -> None:
    n, i = head.numbers, head.identity
    half, rise, gap = mouth_measures(head)
    thick = (1 + 0.25 * i["lips"]) * (1 - 0.3 * n["age"]) * (1 - 0.16 * max(0.0, n["smile"]))
    v = MOUTH_LINE - 0.28 * gap + 0.2 * rise

    def line(heights):
        return head.seen(*((x * half, v + y - rise * (x * x - 0.35), 7 * (1 - x * x)) for x, y in heights))

    places = (-1, -0.62, -0.28, 0, 0.28, 0.62, 1)
    upper = line([(x, -0.24 * gap * (1 - x * x)) for x in places])
    lower = line([(x, 0.76 * gap * (1 - abs(x) ** 2.2)) for x in places])
    bow = (0, 2.2, 4.1, 3.1, 4.1, 2.2, 0)
    lip_top = line([(x, -0.24 * gap * (1 - x * x) - b * thick) for x, b in zip(places, bow)])
    lip_low = line([(x, 0.76 * gap * (1 - abs(x) ** 2.2) + 5.6 * thick * (1 - x * x) ** 0.8) for x in places])
    canvas.fill(_band(lip_top, upper), scaled(head.lip, 0.90))
    canvas.fill(
        _band(lower, lip_low),
        linear(
            (0, lower[3][1]), (0, lip_low[3][1] + 0.1), (0, head.lip, 1), (0.55, mix(head.lip, (255, 226, 214), 0.16), 1), (1, head.lip, 1)
        ),
    )
    if gap > 0:
        with canvas.inside(_band(upper, lower), INNER_MOUTH):
            (x, _), depth = head.at(0, 0, 7), lower[3][1]
            canvas.fill(ellipse(x, depth + 1.5, half * 0.56, 0.40 * gap), TONGUE, ramp(n["mouth"], 0.1, 0.6))
            reach = min(0.78 * gap, 2.2 + 4.6 * ramp(n["smile"], -0.2, 1.0))
            teeth = line([(x, -0.24 * gap * (1 - x * x) + reach * (1 - 0.45 * x * x)) for x in places])
            canvas.fill(_band(line([(x, -4) for x in places]), teeth), mix(TEETH, (236, 222, 196), 0.6 * n["age"]))
    corners = mix(head.line, head.lip, 0.25)
    canvas.stroke(curve(upper, closed=False), corners, 1.7, 0.9)
    for side, (x, y) in ((-1, upper[0]), (1, upper[-1])):
        corner = [(x - side * 1.5, y + 0.16 * rise), (x, y), (x + side * 2.2, y - 0.20 * rise - 0.4)]
        canvas.stroke(curve(corner, closed=False), corners, 1.9, 0.85)
    x, y = head.at(0, v + 0.76 * gap + 9.5 * thick + 3.5, 6)
    canvas.stroke(curve([(x - 7, y - 0.7), (x, y + 1.0), (x + 7, y - 0.7)], closed=False), head.shade, 2.2, 0.6)


def _band(top, bottom) -> BLPath:
    """The closed shape between two lines that run the same way, with corners at both ends."""
    return curve([top[0], *top, top[-1], bottom[-1], *bottom[::-1], bottom[0]])


def _age_lines(canvas: Canvas, head: Head) -> None:
    n = head.numbers
    age, glad = n["age"], max(0.0, n["smile"])
    lines = mix(head.line, head.shade, 0.42)
    for k in range(3):
        v, reach = -29 - 7.5 * k, 24 - 3 * k
        furrow = head.seen((-reach, v + 1), (-0.45 * reach, v - 1.5), (0, v), (0.45 * reach, v - 1.5), (reach, v + 1))
        canvas.stroke(curve(furrow, closed=False), lines, 1.0 + 0.7 * age, 0.80 * ramp(age, 0.12 + 0.1 * k, 0.95))
    half, rise, _ = mouth_measures(head)
    for side in SIDES:
        _side_lines(canvas, head, side, lines, half, rise, age, glad)


def _side_lines(canvas, head, side, lines, half, rise, age, glad) -> None:
    """On one side: the fold from nose to mouth, the bag under the eye, crow's feet and the line below the mouth's corner."""
    fold = head.seen(
        (side * 11.5, 20, 4),
        (side * (half + 2.8), 29.5 - 0.3 * rise, 2),
        (side * (half + 5.2 + glad), 37 - 0.5 * rise),
        (side * (half + 5.0 + glad), 43 - 0.7 * rise),
    )
    canvas.stroke(curve(fold, closed=False), lines, 1.2 + 0.6 * age, min(0.95, 0.8 * ramp(age, 0.1, 1.0) + 0.42 * glad))
    u, v = eye_centre(head, side)
    bag = head.seen((u - side * 8, v + 9), (u + side * 1, v + 12.5), (u + side * 9, v + 9))
    canvas.stroke(curve(bag, closed=False), lines, 1.2 + 0.7 * age, 0.75 * ramp(age, 0.15, 1.0) + 0.10 * glad)
    for dy, ey in ((-2.5, -5.0), (0.5, 0.8), (3.0, 6.0)):
        feet = head.seen((u + side * 14.5, v + dy), (u + side * 18, v + 0.6 * (dy + ey)), (u + side * 21, v + ey + 0.8))
        canvas.stroke(curve(feet, closed=False), lines, 1.1, 0.85 * ramp(age, 0.2, 1.0) + 0.06 * glad)
    down = head.seen((side * (half + 3), 47 - 0.6 * rise), (side * (half + 5.5), 53 - 0.4 * rise), (side * (half + 4.5), 58 - 0.3 * rise))
    canvas.stroke(curve(down, closed=False), lines, 1.3, 0.7 * ramp(age, 0.35, 1.0))
