"""Vector drawing for the faces: smooth curves, gradients and layers, turned into pixels by Blend2D."""

from __future__ import annotations

from contextlib import contextmanager

import blend2d
import numpy as np
from blend2d import BLCompOp, BLContext, BLFormat, BLGradient, BLImage, BLPath, BLPoint, BLStrokeCap, BLStrokeJoin

Colour = tuple[float, float, float]
Point = tuple[float, float]
Stop = tuple[float, Colour, float]
Paint = Colour | BLGradient

BOX = 216.0  # side of the picture in drawing units
CORNER = 20.0, 15.0  # the drawing units at the picture's upper left corner


def mix(a: Colour, b: Colour, amount: float) -> Colour:
    """The colour at `amount` (0 to 1) of the way from `a` to `b`."""
    return tuple(x + (y - x) * amount for x, y in zip(a, b))


def scaled(colour: Colour, *factors: float) -> Colour:
    """A colour with each channel multiplied: by one factor, or by three."""
    factors = factors * 3 if len(factors) == 1 else factors
    return tuple(min(255.0, v * f) for v, f in zip(colour, factors))


def ramp(value: float, start: float, end: float) -> float:
    """0 below `start`, 1 above `end`, and a smooth rise between them."""
    t = min(1.0, max(0.0, (value - start) / (end - start)))
    return t * t * (3 - 2 * t)


def curve(points: list[Point], closed: bool = True) -> BLPath:
    """A smooth (Catmull-Rom) curve through `points`; two equal neighbours make a corner."""
    path, n = BLPath(), len(points)
    around = [points[-1], *points, points[0], points[1]] if closed else [points[0], *points, points[-1]]
    path.move_to(*points[0])
    for (ax, ay), (x, y), (u, v), (bx, by) in zip(around, around[1 : n + closed], around[2:], around[3:]):
        if (x, y) != (u, v):
            path.cubic_to(x + (u - ax) / 6, y + (v - ay) / 6, u - (bx - x) / 6, v - (by - y) / 6, u, v)
    if closed:
        path.close()
    return path


def ellipse(x: float, y: float, rx: float, ry: float) -> BLPath:
    """An ellipse around (x, y)."""
    path = BLPath()
    path.add_ellipse(x, y, rx, ry)
    return path


def straight(points: list[Point], closed: bool = False) -> BLPath:
    """Straight lines from point to point."""
    path = BLPath()
    path.move_to(*points[0])
    for point in points[1:]:
        path.line_to(*point)
    if closed:
        path.close()
    return path


def joined(paths) -> BLPath:
    """Several paths as one, which paints each place once."""
    whole = BLPath()
    for path in paths:
        whole.add_path(path)
    return whole


def linear(start: Point, end: Point, *stops: Stop) -> BLGradient:
    """A paint that runs from `start` to `end` through stops of (place 0 to 1, colour, opacity)."""
    return _with_stops(blend2d.create_linear_gradient(*start, *end), stops)


def glow(centre: Point, radius: float, colour: Colour, strength: float) -> BLGradient:
    """A paint of opacity `strength` at `centre` that fades to nothing at `radius`."""
    stops = (0, colour, strength), (0.5, colour, 0.45 * strength), (1, colour, 0)
    return _with_stops(blend2d.create_radial_gradient(*centre, *centre, radius), stops)


def _with_stops(gradient: BLGradient, stops) -> BLGradient:
    for place, colour, opacity in stops:
        gradient.add_stop(float(place), _rgba(colour, opacity))
    return gradient


def _rgba(colour: Colour, opacity: float) -> tuple[float, float, float, float]:
    r, g, b = (min(255.0, max(0.0, v)) / 255 for v in colour)
    return r, g, b, float(opacity)


class Canvas:
    """A picture of `size` pixels to paint paths on, in a square of BOX x BOX units from CORNER on, y down."""

    def __init__(self, size: int):
        self.size = size
        self.image, self.pen = self._layer()

    def _layer(self) -> tuple[BLImage, BLContext]:
        image = BLImage(self.size, self.size, BLFormat.PRGB32)
        pen = BLContext(image)
        pen.clear_all()
        pen.scale(self.size / BOX, self.size / BOX)
        pen.translate(-CORNER[0], -CORNER[1])
        pen.set_stroke_caps(BLStrokeCap.CAP_ROUND)
        pen.stroke_join = BLStrokeJoin.JOIN_ROUND
        return image, pen

    def fill(self, path: BLPath, paint: Paint, opacity: float = 1.0) -> None:
        """Paint the inside of a path with a colour or a gradient."""
        if isinstance(paint, BLGradient):
            self.pen.fill_alpha = opacity
            self.pen.set_fill_style(paint)
        else:
            self.pen.fill_alpha = 1.0
            self.pen.set_fill_style(_rgba(paint, opacity))
        self.pen.fill_path(path)

    def stroke(self, path: BLPath, colour: Colour, width: float, opacity: float = 1.0) -> None:
        """Paint a line of round ends along a path."""
        self.pen.stroke_width = width
        self.pen.set_stroke_style(_rgba(colour, opacity))
        self.pen.stroke_path(path)

    @contextmanager
    def inside(self, path: BLPath, paint: Paint):
        """Fill a path; what is painted within this block shows inside the path only."""
        below = self.image, self.pen
        self.image, self.pen = self._layer()
        self.fill(path, paint)
        self.pen.comp_op = BLCompOp.SRC_ATOP
        yield
        self.pen.flush()
        layer, (self.image, self.pen) = self.image, below
        self.pen.save()
        self.pen.reset_transform()
        self.pen.blit_image(BLPoint(0.0, 0.0), layer)
        self.pen.restore()

    def pixels(self) -> np.ndarray:
        """The picture as uint8 (size, size, 3)."""
        self.pen.flush()
        return np.ascontiguousarray(self.image.getDataAsNumPy()[..., :3])
