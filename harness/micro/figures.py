"""Figures: a round or square body in a profession's coat and hat."""

from __future__ import annotations

from collections.abc import Callable

from harness.micro.draw import HAIR, INK, SKIN, Brush, Colour

COATS: dict[str, Colour] = {
    "doctor": (70, 206, 206),
    "builder": (248, 136, 26),
    "pilot": (52, 92, 214),
    "painter": (206, 36, 52),
    "nurse": (248, 248, 252),
    "chef": (244, 226, 140),
    "teacher": (44, 140, 76),
    "farmer": (134, 86, 44),
    "person": (146, 148, 156),
}


def _doctor(b: Brush) -> None:
    b.box(-0.2, 0, 0.2, 0.12, (30, 140, 150))
    b.disc(0, 0.06, 0.055, 0.055, (250, 250, 250))


def _builder(b: Brush) -> None:
    b.draw.pieslice((*b.point(-0.19, 0.2), *b.point(0.19, -0.14)), 180, 360, fill=(252, 206, 30), outline=INK, width=3)
    b.box(-0.25, 0, 0.25, 0.05, (252, 206, 30))


def _pilot(b: Brush) -> None:
    b.shape(((-0.16, 0), (-0.23, 0.13), (0.23, 0.13), (0.16, 0)), (24, 40, 116))
    b.disc(0, 0.08, 0.045, 0.045, (252, 206, 30), None)
    b.box(-0.18, -0.02, 0.18, 0.02, (14, 16, 30))


def _painter(b: Brush) -> None:
    b.disc(0.05, 0.06, 0.24, 0.08, (90, 40, 150))
    b.line(((0.05, 0.12), (0.07, 0.18)), (90, 40, 150), 0.04)


def _nurse(b: Brush) -> None:
    b.shape(((-0.17, 0), (-0.2, 0.16), (0.2, 0.16), (0.17, 0)), (250, 250, 252))
    b.box(-0.03, 0.02, 0.03, 0.14, (226, 30, 44), None)
    b.box(-0.07, 0.05, 0.07, 0.11, (226, 30, 44), None)


def _chef(b: Brush) -> None:
    for x in (-0.12, 0.12, 0.0):
        b.disc(x, 0.2, 0.11, 0.09, (252, 252, 252))
    b.box(-0.14, 0, 0.14, 0.18, (252, 252, 252), None)
    b.line(((-0.15, 0), (0.15, 0)), INK, 0.03)


def _teacher(b: Brush) -> None:
    b.box(-0.14, -0.02, 0.14, 0.06, (30, 30, 36))
    b.shape(((-0.27, 0.09), (0, 0.17), (0.27, 0.09), (0, 0.02)), (30, 30, 36))
    b.line(((0.22, 0.09), (0.22, -0.06)), (252, 206, 30), 0.035)


def _farmer(b: Brush) -> None:
    b.disc(0, 0.01, 0.29, 0.06, (230, 190, 96))
    b.disc(0, 0.08, 0.15, 0.1, (230, 190, 96))
    b.box(-0.14, 0.03, 0.14, 0.07, (170, 60, 40), None)


HATS: dict[str, Callable[[Brush], None]] = {
    "doctor": _doctor,
    "builder": _builder,
    "pilot": _pilot,
    "painter": _painter,
    "nurse": _nurse,
    "chef": _chef,
    "teacher": _teacher,
    "farmer": _farmer,
}


def _face(b: Brush) -> None:
    for x in (-0.07, 0.07):
        b.disc(x, 0.69, 0.024, 0.03, INK, None)
    b.line(((-0.05, 0.615), (0.05, 0.615)), INK, 0.025)


def _round_body(b: Brush, coat: Colour) -> None:
    b.disc(0, 0.64, 0.22, 0.19, HAIR)
    b.disc(0, 0.3, 0.27, 0.25, coat)
    b.disc(0, 0.68, 0.165, 0.165, SKIN)


def _square_body(b: Brush, coat: Colour) -> None:
    b.box(-0.23, 0.06, 0.23, 0.52, coat)
    b.box(-0.16, 0.52, 0.16, 0.82, SKIN)


def draw_figure(b: Brush, profession: str, attribute: str) -> None:
    """Draw a standing figure, one unit high."""
    for x in (-0.1, 0.1):
        b.box(x - 0.05, 0, x + 0.05, 0.1, (60, 52, 60), None)
    (_round_body if attribute == "round" else _square_body)(b, COATS[profession])
    _face(b)
    if profession in HATS:
        HATS[profession](b.moved(0, 0.79))
