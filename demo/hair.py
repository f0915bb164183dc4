"""Hair in its styles and lengths, and the beard from stubble to long."""

from __future__ import annotations

import math

from .canvas import BLGradient, BLPath, Canvas, curve, ellipse, joined, linear, mix, ramp, scaled, straight
from .head import NOSE_LINE, SIDES, Head, mouth_measures

CROWN = 10.0  # thickness of the hair above the skull
START = -30.0  # height from which the hair beside the face falls


def hair_paint(head: Head, dark: float = 1.0) -> BLGradient:
    """The hair's colour across the head, lighter towards the light."""
    light = head.numbers["light"]
    side = [scaled(mix(head.hair, head.hair_lit, max(0.0, s * light)), dark * (1 - 0.22 * max(0.0, -s * light))) for s in SIDES]
    middle = scaled(head.hair, dark)
    return linear(
        (head.cx - head.width - 14, head.cy - 20), (head.cx + head.width + 14, head.cy), (0, side[0], 1), (0.5, middle, 1), (1, side[1], 1)
    )


def _end(head: Head) -> float:
    """How far down the hair reaches, from the head's centre."""
    length = head.numbers["hair_length"]
    return -6 + 105 * length


def draw_back_hair(canvas: Canvas, head: Head) -> None:
    """The hair behind the neck."""
    style = head.labels["style"]
    if style in ("straight", "wavy", "curly"):
        end = _end(head) * (0.86 if style == "curly" else 1)
        wide = head.width * (0.92 + 0.08 * head.numbers["hair_length"])
        x, y = head.cx, head.cy
        points = [
            (x - wide, y - 30),
            (x + wide, y - 30),
            (x + wide, y + 0.6 * end),
            (x + 0.8 * wide, y + end),
            (x - 0.8 * wide, y + end),
            (x - wide, y + 0.6 * end),
        ]
        canvas.fill(curve(points), scaled(head.hair_dark, 0.82))


def draw_locks(canvas: Canvas, head: Head) -> None:
    """The hair beside the face, in front of the shoulders and behind the head."""
    style = head.labels["style"]
    if style == "bald" or style == "curly":
        if style == "curly":
            _curls(canvas, head)
        return
    if style == "bun":
        _bun(canvas, head)
    paint = hair_paint(head)
    if style in ("straight", "wavy"):
        for side in SIDES:
            canvas.fill(curve(_curtain(head, side, style == "wavy")), paint)
        _curtain_strands(canvas, head)
    else:
        canvas.fill(curve(_dome(head, 0.04, 5)), paint)


def _curtain(head: Head, side: int, wavy: bool) -> list[tuple[float, float]]:
    """The hair that falls on one side, from the crown to its end."""
    length, end, w = head.numbers["hair_length"], _end(head), head.width
    outer = w + 8 + 5 * length
    turn = -3 * head.numbers["turn"]
    rows, points, inner = 9, [], []
    for k in range(rows):
        t = k / (rows - 1)
        v = START + (end - START) * t
        wave = 3.6 * math.sin(v / 11.0) * min(1.0, (v - START) / 40) if wavy else 0.0
        flare = 1.0 + (0.08 if not wavy else 0.16) * length * math.sin(min(t, 0.9) * 2.2)
        taper = 5 * ramp(t, 0.82, 1.0) * (1 + length) if wavy else 5 * ramp(t, 0.6, 1.0) * length
        out = 1.06 * w + (outer * flare - 1.06 * w) * ramp(v, START - 10, 6)
        points.append((head.cx + turn + side * (out + wave - taper), head.cy + v))
        inner.append((head.cx + turn + side * (w * (0.62 + 0.10 * t) + 0.6 * wave) - side * 2 * ramp(t, 0.8, 1.0), head.cy + v))
    top = [(head.cx + turn, head.cy - 40), (head.cx + turn + side * 0.86 * w, head.cy - 42)]
    tip = (0.5 * (points[-1][0] + inner[-1][0]), head.cy + end + (5 if wavy else 3.5))
    return [*top, *points, *(() if wavy else (points[-1],)), tip, *(() if wavy else (inner[-1],)), *inner[::-1]]


def _curtain_strands(canvas: Canvas, head: Head) -> None:
    wavy = head.labels["style"] == "wavy"
    for side in SIDES:
        outline = _curtain(head, side, wavy)
        outer, inner = outline[2:11], outline[-9:][::-1]
        for part, paint in ((0.25, head.hair_lit), (0.5, head.hair_dark), (0.75, head.hair_lit)):
            line = [(a[0] + (b[0] - a[0]) * part, a[1]) for a, b in zip(outer, inner)][1:-1]
            canvas.stroke(curve(line, closed=False), paint, 1.6, 0.5)


def _dome(head: Head, bulge: float, down: float) -> list[tuple[float, float]]:
    """The outline of close hair around the skull, down to `down` below the face's centre."""
    w, x, y = head.width * (1 + bulge), head.cx - 3 * head.numbers["turn"], head.cy
    top = head.top - CROWN
    return [
        (x - w, y + down),
        (x - 1.06 * w, y - 22),
        (x - 0.82 * w, y + top + 22),
        (x - 0.42 * w, y + top + 4),
        (x, y + top),
        (x + 0.42 * w, y + top + 4),
        (x + 0.82 * w, y + top + 22),
        (x + 1.06 * w, y - 22),
        (x + w, y + down),
    ]


def _curls(canvas: Canvas, head: Head) -> None:
    """Curls all around, fuller and further down as the hair grows."""
    length, hat = head.numbers["hair_length"], head.labels["hat"] != "none"
    radius = 12 + 5 * length
    rx, ry = head.width + 1 + 10 * length, -head.top - 3 + 11 * length
    x, y = head.cx - 4 * head.numbers["turn"], head.cy - 6
    last = math.radians(98 + 62 * length)
    circles = []
    for k in range(23):
        angle = last * (k / 11 - 1)
        if hat and abs(angle) < math.radians(58):
            continue
        r = radius * (1 + 0.12 * math.sin(7.3 * k))
        circles.append((x + rx * math.sin(angle), y - ry * math.cos(angle), r))
    paint = hair_paint(head)
    whole = [ellipse(a, b, r, r) for a, b, r in circles] + ([] if hat else [ellipse(x, y - 8, rx, ry - 6)])
    canvas.fill(joined(whole), paint)
    _coils(canvas, head, circles)


def _coils(canvas: Canvas, head: Head, circles) -> None:
    """The light and dark turns within curls."""
    for paint, dx, start in ((head.hair_dark, -1.2, 2.6), (head.hair_lit, 1.0, 0.3)):
        lines = []
        for a, b, r in circles:
            arc = [(a + 0.55 * r * math.cos(t) + dx, b + 0.55 * r * math.sin(t)) for t in (start, start + 0.9, start + 1.8, start + 2.7)]
            lines.append(curve(arc, closed=False))
        canvas.stroke(joined(lines), paint, 2.0, 0.55)


def _bun(canvas: Canvas, head: Head) -> None:
    if head.labels["hat"] != "none":
        return
    x, y = head.cx - 5 * head.numbers["turn"], head.cy + head.top - CROWN - 9
    paint = hair_paint(head)
    canvas.fill(ellipse(x, y, 23, 19), paint)
    for k, colour in ((-1, head.hair_dark), (0, head.hair_lit), (1, head.hair_dark)):
        canvas.stroke(curve([(x - 15, y + 7 + 4 * k), (x - 3, y - 8 + 6 * k), (x + 14, y - 3 + 5 * k)], closed=False), colour, 1.8, 0.55)
    canvas.stroke(curve([(x - 13, y + 15), (x, y + 18), (x + 13, y + 15)], closed=False), scaled(head.hair_dark, 0.7), 3, 0.8)


def draw_front_hair(canvas: Canvas, head: Head) -> None:
    """The hair over the forehead."""
    style = head.labels["style"]
    if style == "bald":
        return
    paint = hair_paint(head)
    if style == "spiky" and head.labels["hat"] == "none":
        canvas.fill(_spikes(head), paint)
    canvas.fill(overhang(head), paint)
    if style == "curly":
        _coils(canvas, head, _front_curls(head))
    elif style in ("spiky", "bun"):
        _combed_strands(canvas, head)
    else:
        _swept_strands(canvas, head)


def overhang(head: Head, right: float = 0.0, down: float = 0.0) -> BLPath:
    """The shape of the hair over the forehead, moved by an offset (for its shadow)."""
    style = head.labels["style"]
    over, under = {"curly": _curly_edges, "spiky": _combed_edges, "bun": _combed_edges}.get(style, _swept_edges)(head)
    over, under = ([(x + right, y + down) for x, y in line] for line in (over, under))
    shape = curve([over[0], *over, over[-1], under[-1], *under[::-1], under[0]])
    if style != "curly":
        return shape
    return joined([shape, *(ellipse(x + right, y + down, r, r) for x, y, r in _front_curls(head))])


Edges = tuple[list[tuple[float, float]], list[tuple[float, float]]]


def _combed_edges(head: Head) -> Edges:
    """The upper and lower edge, from left to right, of hair combed back close to the skull."""
    w, temple = head.width, 6 if head.labels["style"] == "bun" else 0
    middle = -45 - 2 * head.identity["forehead"]
    line = head.seen(
        (-1.0 * w, temple),
        (-0.86 * w, -18),
        (-0.66 * w, 0.5 * (middle - 22)),
        (-0.3 * w, middle),
        (0, middle - 2),
        (0.3 * w, middle),
        (0.66 * w, 0.5 * (middle - 22)),
        (0.86 * w, -18),
        (1.0 * w, temple),
    )
    return _dome(head, 0.02, temple - 4), line


def _combed_strands(canvas: Canvas, head: Head) -> None:
    for k in range(-3, 4):
        start = head.at(0.26 * k * head.width, -47 - 2 * head.identity["forehead"] + 1.6 * abs(k))
        end = (head.cx - 4 * head.numbers["turn"] + 0.10 * k * head.width, head.cy + head.top - CROWN + 3)
        bend = (0.5 * (start[0] + end[0]) + 2.2 * k, 0.5 * (start[1] + end[1]))
        canvas.stroke(curve([start, bend, end], closed=False), head.hair_dark if k % 2 else head.hair_lit, 1.6, 0.5)


def _spikes(head: Head) -> BLPath:
    """Spikes that stand up from the head, taller as the hair grows."""
    tall, w = 11 + 24 * head.numbers["hair_length"], head.width
    x, y, points, n = head.cx - 3 * head.numbers["turn"], head.cy - 4, [], 9
    for k in range(2 * n + 1):
        angle = math.radians(-78 + 156 * k / (2 * n))
        out = tall * (1 + 0.18 * math.sin(2.1 * k)) if k % 2 else 2.0
        lean = 0.10 * math.sin(1.7 * k + 2 * head.identity["parting"]) if k % 2 else 0.0
        rx, ry = w + 0.75 * out, -head.top + out
        points.append((x + rx * math.sin(angle + lean), y - ry * math.cos(angle + lean)))
    scalp = [(x + 0.8 * w * math.sin(math.radians(a)), y + 0.86 * head.top * math.cos(math.radians(a))) for a in (60, 0, -60)]
    return straight(points + scalp, closed=True)


def _swept_edges(head: Head) -> Edges:
    """The edges of hair parted at a place of the face's own, swept to both sides, or cut to a fringe."""
    w, part, i = head.width, 0.34 * head.identity["parting"], head.identity
    fall, low = -16 + 10 * head.numbers["hair_length"], 0.5 + 0.5 * i["fringe"]
    dome = _dome(head, 0.05 + 0.06 * head.numbers["hair_length"], fall)
    line = head.seen(
        (-1.0 * w, fall + 6),
        (-0.93 * w, -20),
        (-0.74 * w + 6 * part, -34 + 4 * low),
        (part * w - 0.30 * w, -45 + 14 * low),
        (part * w, -56 + 27 * low),
        (part * w + 0.30 * w, -45 + 14 * low),
        (0.74 * w + 6 * part, -34 + 4 * low),
        (0.93 * w, -20),
        (1.0 * w, fall + 6),
    )
    return (_waved(dome, 2.6), _waved(line, 2.2)) if head.labels["style"] == "wavy" else (dome, line)


def _swept_strands(canvas: Canvas, head: Head) -> None:
    w, part = head.width, 0.34 * head.identity["parting"]
    root = (head.cx - 2 * head.numbers["turn"] + part * w, head.cy + head.top - CROWN + 2)
    for side in SIDES:
        for k, colour in enumerate((head.hair_lit, head.hair_dark, head.hair_lit)):
            end = head.at(side * (0.62 + 0.13 * k) * w, -36 + 9 * k)
            bend = (0.45 * root[0] + 0.55 * end[0] + side * 5, 0.62 * root[1] + 0.38 * end[1] + 2.7 + 1.6 * k)
            canvas.stroke(curve([root, bend, end], closed=False), colour, 1.7, 0.5)


def _waved(line: list[tuple[float, float]], height: float) -> list[tuple[float, float]]:
    """A line with waves on it: every stretch bends out at its first third and in at its second."""
    points = [line[0]]
    for (ax, ay), (x, y), (u, v), (bx, by) in zip([line[0], *line], line, line[1:], [*line[2:], line[-1]]):
        length = math.hypot(u - x, v - y) + 1e-6
        across = (v - y) / length, (x - u) / length
        for t, way in ((0.28, 1), (0.72, -1)):  # on the smooth curve through the line, not on its chords
            s = 1 - t
            px = s**3 * x + 3 * s * s * t * (x + (u - ax) / 6) + 3 * s * t * t * (u - (bx - x) / 6) + t**3 * u
            py = s**3 * y + 3 * s * s * t * (y + (v - ay) / 6) + 3 * s * t * t * (v - (by - y) / 6) + t**3 * v
            points.append((px + way * height * across[0], py + way * height * across[1]))
        points.append((u, v))
    return points


def _curl_line(head: Head) -> list[tuple[float, float]]:
    places = [k / 5 - 1 for k in range(11)]
    return [head.at(0.97 * head.width * math.sin(1.5 * t), -52 + 44 * t * t + 1.6 * math.sin(25.0 * (t + 1))) for t in places]


def _curly_edges(head: Head) -> Edges:
    return _dome(head, 0.03, -8), _curl_line(head)


def _front_curls(head: Head) -> list[tuple[float, float, float]]:
    """The curls (x, y, radius) along the hairline."""
    if head.labels["hat"] != "none":
        return []
    return [(x, y, 10.5 + 1.2 * math.sin(3.7 * k) - 0.5 * abs(k - 5)) for k, (x, y) in enumerate(_curl_line(head))]


def draw_beard(canvas: Canvas, head: Head) -> None:
    """Stubble that thickens into a beard and then grows long."""
    amount = head.numbers["beard"]
    if amount <= 0:
        return
    colour = mix(head.hair, scaled(head.brow, 0.9), 0.35)
    colour = mix(colour, (214, 212, 210), 0.5 * head.grey)
    bristly = 0.5 * (1 - ramp(amount, 0.1, 0.5)) * (1 - head.grey * ramp(head.numbers["skin"], 0.2, 0.7))
    colour = mix(colour, scaled(head.skin, 0.58), bristly)
    opacity = 0.40 * ramp(amount, 0.0, 0.12) + 0.58 * ramp(amount, 0.08, 0.42)
    grown = max(0.0, amount - 0.3) / 0.7
    shape = curve(_beard_outline(head, grown))
    light = head.numbers["light"]
    sides = [scaled(colour, 1 + 0.12 * s * light) for s in SIDES]
    paint = linear((head.cx - head.width, 0), (head.cx + head.width, 0), (0, sides[0], 1), (1, sides[1], 1))
    canvas.fill(shape, paint, opacity)
    canvas.stroke(shape, scaled(colour, 0.7), 1.4, 0.45 * ramp(amount, 0.22, 0.5))
    _beard_strands(canvas, head, colour, grown, ramp(amount, 0.25, 0.7))


def _beard_outline(head: Head, grown: float) -> list[tuple[float, float]]:
    """The beard with its moustache, as one outline with the mouth left to be drawn over it."""
    half, rise, _ = mouth_measures(head)
    i, w = head.identity, head.width
    drop = head.bottom - 1 + 38 * grown
    jaw, bulge = 0.80 + 0.08 * i["jaw"] + 0.035 * head.numbers["age"], 1 + 0.13 * min(1.0, 3 * grown) + 0.02 * grown
    outer = [
        (0.98, 4),
        (0.955 * bulge, 22),
        ((jaw - 0.012) * bulge, 43 + 3 * grown),
        ((0.44 + 0.10 * i["jaw"]) * (1 + 0.25 * grown), drop - 7 - 7 * grown),
    ]
    upper = [(0.93 * w, 14), (0.72 * w, 29 + 0.4 * rise), (half + 4, NOSE_LINE + 8.5), (7, NOSE_LINE + 6.5)]
    right = [head.edge(u, v) for u, v in outer]
    left = [head.edge(-u, v) for u, v in outer]
    return [
        head.at(0, NOSE_LINE + 8),
        *head.seen(*upper[::-1]),
        right[0],
        *right,
        head.edge(0, drop),
        *left[::-1],
        left[0],
        *head.seen(*((-u, v) for u, v in upper)),
    ]


def _beard_strands(canvas: Canvas, head: Head, colour, grown: float, opacity: float) -> None:
    drop = head.bottom - 6 + 33 * grown
    lines = []
    for k in range(-4, 5):
        top, low = head.at(0.17 * k * head.width, 57 - 2.6 * abs(k)), head.edge(0.13 * k, drop - 2.2 * k * k)
        lines.append(curve([top, (0.5 * (top[0] + low[0]) + 0.9 * k, 0.5 * (top[1] + low[1])), low], closed=False))
    canvas.stroke(joined(lines[::2]), scaled(colour, 0.72), 1.5, 0.5 * opacity)
    canvas.stroke(joined(lines[1::2]), mix(colour, (255, 240, 220), 0.3), 1.4, 0.45 * opacity)
