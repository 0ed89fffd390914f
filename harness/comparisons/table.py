"""A table of texts: in colours on a terminal, plain lines elsewhere."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING, Any

from harness.errors import printable
from harness.lib.streams import say

if TYPE_CHECKING:
    from rich.console import Console

STYLES = {"better": "green", "worse": "red", "bad": "red", "good": "green", "unknown": "yellow"}


@dataclass(frozen=True)
class Table:
    """Rows of texts under headings; `tones` colour whole rows, columns named in `left` are flush left."""

    title: str
    headings: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    tones: tuple[str, ...] = ()
    left: Collection[str] = ()

    def plain(self) -> list[str]:
        """Return the table as lines of text, each column as wide as it needs."""
        texts = [[printable(text) for text in row] for row in (self.headings, *self.rows)]
        widths = [max(len(row[i]) for row in texts) for i in range(len(self.headings))]
        lines = ("  ".join(self._set(text, i, width) for i, (text, width) in enumerate(zip(row, widths, strict=True)))
                 for row in texts)  # fmt: skip
        return [printable(self.title), *(line.rstrip() for line in lines)]

    def _set(self, text: str, column: int, width: int) -> str:
        return text.ljust(width) if self.headings[column] in self.left else text.rjust(width)

    def html(self) -> str:
        """Return it as an HTML table, its texts escaped."""
        def line(tag: str, texts: Sequence[str]) -> str:
            return f"<tr>{''.join(f'<{tag}>{escape(printable(text))}</{tag}>' for text in texts)}</tr>"

        body = "".join(line("td", row) for row in self.rows)
        caption = f"<caption>{escape(printable(self.title))}</caption>"
        return f"<table>{caption}<thead>{line('th', self.headings)}</thead><tbody>{body}</tbody></table>"

    def show(self, console: Console) -> None:
        """Print it: as a table on a terminal, as plain lines elsewhere."""
        if console.is_terminal:
            console.print(self._rich())
            return
        for line in self.plain():
            say(console, line)

    def _rich(self) -> Any:
        from rich import box
        from rich import table as rich_table
        from rich.text import Text

        shown = rich_table.Table(title=Text(printable(self.title), "bold"), title_justify="left", box=box.SIMPLE_HEAD,
                                 pad_edge=False)
        for heading in self.headings:
            shown.add_column(heading, justify="left" if heading in self.left else "right",
                             overflow="fold")  # fmt: skip
        tones = self.tones or ("",) * len(self.rows)
        for row, tone in zip(self.rows, tones, strict=True):
            shown.add_row(*(Text(printable(text), STYLES.get(tone, "")) for text in row))
        return shown
