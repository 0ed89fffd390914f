"""Glyphs and backgrounds, drawn with PIL at four times the final size."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from PIL import ImageDraw

SUPERSAMPLING = 4
Colour = tuple[int, int, int]
INK: Colour = (40, 36, 44)
SKIN: Colour = (246, 208, 178)
HAIR: Colour = (120, 60, 140)


@dataclass(frozen=True)
class Brush:
    """Draw in glyph coordinates: origin at the glyph's bottom centre, y upwards, `size` pixels a unit."""

    draw: ImageDraw.ImageDraw
    x: float
    y: float
    size: float

    def point(self, x: float, y: float) -> tuple[float, float]:
        """Map glyph coordinates to supersampled pixels."""
        return (
            (self.x + x * self.size) * SUPERSAMPLING,
            (self.y - y * self.size) * SUPERSAMPLING,
        )

    def line_width(self, width: float) -> int:
        """Convert a width in glyph units to whole supersampled pixels."""
        return max(1, round(width * self.size * SUPERSAMPLING))

    def disc(self, x: float, y: float, rx: float, ry: float, fill: Colour, edge: Colour | None = INK) -> None:
        """Fill an ellipse around (x, y)."""
        box = (*self.point(x - rx, y + ry), *self.point(x + rx, y - ry))
        self.draw.ellipse(box, fill=fill, outline=edge, width=3)

    def box(self, x0: float, y0: float, x1: float, y1: float, fill: Colour, edge: Colour | None = INK) -> None:
        """Fill the rectangle from lower left to upper right."""
        self.draw.rectangle((*self.point(x0, y1), *self.point(x1, y0)), fill=fill, outline=edge, width=3)

    def shape(self, points: Sequence[tuple[float, float]], fill: Colour, edge: Colour | None = INK) -> None:
        """Fill a polygon."""
        self.draw.polygon([self.point(*p) for p in points], fill=fill, outline=edge, width=3)

    def line(self, points: Sequence[tuple[float, float]], fill: Colour, width: float) -> None:
        """Stroke a polyline."""
        self.draw.line([self.point(*p) for p in points], fill=fill, width=self.line_width(width), joint="curve")

    def moved(self, dx: float, dy: float, scale: float = 1.0) -> Brush:
        """Return a brush for a sub-glyph at (dx, dy)."""
        return Brush(self.draw, self.x + dx * self.size, self.y - dy * self.size, self.size * scale)


def skull(b: Brush) -> None:
    """Draw a skull, one unit high."""
    bone: Colour = (246, 244, 236)
    b.box(-0.24, 0.02, 0.24, 0.32, bone)
    b.disc(0, 0.6, 0.46, 0.38, bone)
    b.box(-0.22, 0.06, 0.22, 0.34, bone, None)
    for side in (-1, 1):
        b.disc(side * 0.19, 0.54, 0.125, 0.14, (16, 14, 20), None)
    b.shape(((0, 0.42), (-0.06, 0.3), (0.06, 0.3)), (16, 14, 20), None)
    for x in (-0.11, 0.0, 0.11):
        b.line(((x, 0.04), (x, 0.19)), INK, 0.04)


def bomb(b: Brush) -> None:
    """Draw a black bomb with a lit fuse, one unit high."""
    b.line(((0.22, 0.68), (0.32, 0.84), (0.46, 0.86)), (196, 150, 84), 0.07)
    b.disc(0, 0.38, 0.4, 0.38, (22, 22, 28), (96, 98, 110))
    b.shape(((0.12, 0.68), (0.24, 0.8), (0.36, 0.68), (0.24, 0.56)), (22, 22, 28), (96, 98, 110))
    b.disc(-0.14, 0.52, 0.09, 0.07, (190, 194, 206), None)
    b.disc(0.48, 0.87, 0.13, 0.13, (255, 140, 20), None)
    b.disc(0.48, 0.87, 0.06, 0.06, (255, 240, 130), None)


def flame(b: Brush) -> None:
    """Draw a red flame with a yellow heart, one unit high."""
    outer = ((-0.36, 0.2), (-0.4, 0.46), (-0.24, 0.66), (-0.2, 0.5), (-0.06, 1.0), (0.14, 0.7), (0.18, 0.56),
             (0.3, 0.74), (0.4, 0.44), (0.36, 0.2), (0.2, 0.02), (-0.2, 0.02))  # fmt: skip
    b.shape(outer, (232, 52, 20), (170, 30, 16))
    b.shape([(0.72 * x, 0.02 + 0.74 * y) for x, y in outer], (255, 140, 20), None)
    b.shape([(0.4 * x, 0.03 + 0.46 * y) for x, y in outer], (255, 236, 110), None)


def balloon(b: Brush) -> None:
    """Draw a pink balloon on a string."""
    b.line(((0, 0.5), (0.04, 0.3), (-0.03, 0.14), (0.02, 0)), (70, 70, 80), 0.04)
    b.disc(0, 0.84, 0.32, 0.38, (240, 70, 160))
    b.disc(-0.1, 0.96, 0.07, 0.1, (252, 190, 224), None)


def tree(b: Brush) -> None:
    """Draw a green tree."""
    b.box(-0.1, 0, 0.1, 0.5, (128, 84, 48))
    b.disc(0, 0.82, 0.42, 0.42, (34, 130, 60))


def house(b: Brush) -> None:
    """Draw a house with a red-brown roof."""
    b.box(-0.4, 0, 0.4, 0.58, (246, 228, 180))
    b.shape(((-0.52, 0.56), (0, 1.06), (0.52, 0.56)), (176, 76, 66))
    b.box(-0.12, 0, 0.12, 0.36, (118, 78, 50))


def flower(b: Brush) -> None:
    """Draw a violet flower."""
    b.line(((0, 0), (0, 0.55)), (40, 130, 50), 0.08)
    b.disc(0.14, 0.2, 0.13, 0.07, (60, 160, 70), None)
    for k in range(5):
        a = math.pi * (0.5 + 0.4 * k)
        b.disc(0.2 * math.cos(a), 0.72 + 0.2 * math.sin(a), 0.16, 0.16, (156, 92, 232))
    b.disc(0, 0.72, 0.12, 0.12, (250, 206, 60), None)


def star(b: Brush) -> None:
    """Draw a five-pointed yellow star."""
    points = []
    for k in range(10):
        radius, a = (0.48 if k % 2 == 0 else 0.2), math.pi * (0.5 + 0.2 * k)
        points.append((radius * math.cos(a), 0.52 + radius * math.sin(a)))
    b.shape(points, (252, 214, 52), (150, 116, 20))


def ball(b: Brush) -> None:
    """Draw a blue and white beach ball."""
    b.disc(0, 0.36, 0.36, 0.36, (36, 96, 220))
    for start in (20, 140, 260):
        box = (*b.point(-0.33, 0.69), *b.point(0.33, 0.03))
        b.draw.pieslice(box, start, start + 60, fill=(250, 250, 252))


def campfire(b: Brush) -> None:
    """Draw crossed logs between stones."""
    for x in (-0.5, -0.25, 0.25, 0.5):
        b.disc(x, 0.08, 0.13, 0.1, (130, 130, 136))
    b.line(((-0.42, 0.06), (0.42, 0.3)), (112, 68, 34), 0.14)
    b.line(((0.42, 0.06), (-0.42, 0.3)), (142, 90, 46), 0.14)


def forge(b: Brush) -> None:
    """Draw an anvil."""
    steel: Colour = (96, 104, 122)
    b.box(-0.34, 0, 0.34, 0.12, steel)
    b.box(-0.16, 0.1, 0.16, 0.3, steel)
    b.shape(((-0.36, 0.28), (-0.36, 0.5), (0.62, 0.5), (0.3, 0.28)), steel)


def pirate_flag(b: Brush) -> None:
    """Draw a black flag on a pole."""
    b.line(((-0.5, 0), (-0.5, 1.5)), (140, 96, 52), 0.08)
    b.box(-0.48, 0.64, 0.52, 1.46, (26, 24, 32), (96, 98, 110))


def graveyard(b: Brush) -> None:
    """Draw two headstones."""
    for x in (-0.38, 0.4):
        b.disc(x, 0.48, 0.2, 0.2, (150, 154, 162))
        b.box(x - 0.2, 0, x + 0.2, 0.48, (150, 154, 162))
        b.box(x - 0.17, 0.3, x + 0.17, 0.5, (150, 154, 162), None)
        b.line(((x - 0.1, 0.4), (x + 0.1, 0.4)), INK, 0.04)


def demolition_site(b: Brush) -> None:
    """Draw a broken brick wall."""
    brick: Colour = (190, 104, 82)
    rows = ((0.0, -0.62, 5), (0.18, -0.54, 4), (0.36, -0.62, 3), (0.54, -0.54, 2))
    for y, x, count in rows:
        for k in range(count):
            b.box(x + 0.25 * k, y, x + 0.25 * k + 0.23, y + 0.17, brick, (110, 60, 50))


def cannon(b: Brush) -> None:
    """Draw a bronze cannon on a wheel."""
    bronze: Colour = (196, 140, 62)
    b.shape(((-0.6, 0.28), (-0.52, 0.52), (0.34, 0.76), (0.42, 0.46)), bronze)
    b.disc(-0.2, 0.2, 0.2, 0.2, (110, 72, 44))
    b.disc(-0.2, 0.2, 0.07, 0.07, bronze, None)


HAZARD_GLYPHS: dict[str, Callable[[Brush], None]] = {"skull": skull, "bomb": bomb, "flame": flame}
ITEM_GLYPHS: dict[str, Callable[[Brush], None]] = {
    "balloon": balloon,
    "tree": tree,
    "house": house,
    "flower": flower,
    "star": star,
    "ball": ball,
}
PROP_GLYPHS: dict[str, Callable[[Brush], None]] = {
    "campfire": campfire,
    "forge": forge,
    "pirate flag": pirate_flag,
    "graveyard": graveyard,
    "demolition site": demolition_site,
    "cannon": cannon,
}
