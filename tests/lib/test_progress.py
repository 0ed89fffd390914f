"""What a log file shows of a run: plain lines, as on no terminal."""

from __future__ import annotations

from io import StringIO

from rich.console import Console

from harness.lib.progress import Board


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def lines(board: Board) -> list[str]:
    return board.console.file.getvalue().splitlines()  # type: ignore[attr-defined]


def test_what_takes_minutes_in_one_piece_is_said_at_its_start_and_with_its_time_at_its_end() -> None:
    clock = Clock()
    with Board("train", Console(file=StringIO()), clock, says_start=True) as board:
        board.add("micro/safedir", 1)
        assert lines(board) == ["train micro/safedir: 0/1"]
        clock.now = 150
        board.advance("micro/safedir", 1)
    assert lines(board)[1:] == ["train micro/safedir: 1/1, took 2 min"]


def test_images_are_shown_with_their_rate_and_the_time_that_is_left_then_taken() -> None:
    clock = Clock()
    with Board("make", Console(file=StringIO()), clock) as board:
        board.add("cell", 48)
        for clock.now in (8, 16, 24):  # of the first two only one is ten seconds after the last line
            board.advance("cell", 16)
    assert lines(board) == ["make cell: 32/48, 2.00/s, 8 s left", "make cell: 48/48, 2.00/s, took 24 s"]
