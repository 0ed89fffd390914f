"""Tables from users, always read in the same way: every cell is text, nothing is truncated or guessed.

Rows count from 0, below the header.
"""

from __future__ import annotations

import difflib
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.errors import InvalidValueError, permission_denied
from harness.lib.table_formats import Grid, read_grid
from harness.lib.table_text import decoded

Record = Mapping[str, str]
_MAX_NAMES = 12  # of a header, in a message


@dataclass(frozen=True)
class Table:
    """A table's named columns and its rows. `name` is what messages call it; `notes` say how it was read.

    A column without a name, such as a data frame's index, is ignored.
    """

    name: str
    columns: tuple[str, ...]
    records: tuple[Record, ...]
    notes: tuple[str, ...] = ()

    def row(self, index: int) -> str:
        """Name a row in a message."""
        return f"{self.name} row {index}"

    def column(self, name: str) -> str | None:
        """Return the column of this name, else the one that differs in capitals, spaces, `-` and `_` only, or None.

        Raises InvalidValueError if two columns do.
        """
        if name in self.columns:
            return name
        near = [column for column in self.columns if _plain(column) == _plain(name)]
        if len(near) > 1:
            raise InvalidValueError(f"{self.name}: '{name}' may be column '{near[0]}' or '{near[1]}'.",
                                    "Write it as in the header.")
        return near[0] if near else None

    def needed(self, name: str, setting: str = "") -> str:
        """Return the column that the user named. Raises InvalidValueError with the nearest one where it is missing.

        `setting` is where the user named it.
        """
        column = self.column(name)
        if column is None:
            where = f" ({setting})" if setting else ""
            raise InvalidValueError(f"{self.name}: no column '{name}'{where}.", self.nearest(name))
        return column

    def nearest(self, name: str) -> str:
        """Say which column is called nearly so, or which there are."""
        plain = {_plain(column): column for column in self.columns}
        close = difflib.get_close_matches(_plain(name), plain, n=1)
        return f"Did you mean: {plain[close[0]]}?" if close else f"It has {self.header()}."

    def header(self) -> str:
        """List the columns for a message, at most some of them."""
        shown = [column[:40] for column in self.columns[:_MAX_NAMES]]
        more = len(self.columns) - len(shown)
        return (", ".join(shown) or "none with a name") + (f" and {more} more" if more else "")


def read_table(file: Path, name: str | None = None, skip_spaces: bool = False) -> Table:
    """Read a table: CSV, TSV, XLSX, Parquet or JSON records, gzipped or not. Raises HarnessError in one line.

    `name` is what messages call it. `skip_spaces`: blanks after a separator are dropped.
    """
    return parse_table(file_bytes(file), name or str(file), file.suffixes, skip_spaces)


def file_bytes(file: Path) -> bytes:
    """Return what a file holds. Raises HarnessError if it cannot be read."""
    try:
        return file.read_bytes()
    except PermissionError as error:
        raise permission_denied(error) from None
    except OSError as error:
        raise InvalidValueError(f"{file} cannot be read: {error.strerror or error}.") from None


def text_lines(file: Path) -> list[str]:
    """Return the lines of a list that a user gives, stripped, those that say something. Raises InvalidValueError."""
    lines = decoded(file_bytes(file), str(file)).removeprefix("\ufeff").splitlines()
    return [line.strip() for line in lines if line.strip()]


def parse_table(data: bytes, name: str, suffixes: Sequence[str] = (), skip_spaces: bool = False) -> Table:
    """Read a table from its bytes. Raises HarnessError in one line."""
    grid = read_grid(data, name, [suffix.lower() for suffix in suffixes], skip_spaces)
    return _table(grid, f"{name} ({grid.part})" if grid.part else name)


def _table(grid: Grid, name: str) -> Table:
    header = [_name(text) for text in grid.header]
    named = [(index, column) for index, column in enumerate(header) if column]
    double = [column for column, count in Counter(column for _, column in named).items() if count > 1]
    if double:
        places = [str(index + 1) for index, column in named if column == double[0]]
        raise InvalidValueError(f"{name} has two columns named '{double[0][:40]}' (columns {' and '.join(places)}).",
                                "Give each column its own name.")
    records = tuple({column: row[index] for index, column in named} for row in grid.rows)
    return Table(name, tuple(column for _, column in named), records, tuple(grid.notes))


def _name(text: str) -> str:
    return text.strip("\ufeff\u200b").strip()


def _plain(name: str) -> str:
    return re.sub(r"[\s_-]+", "_", name.casefold())
