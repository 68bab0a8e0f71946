"""Tables that lose no column: what does not fit beside the others is continued below."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rich.cells import cell_len
from rich.table import Table

GAP = 1  # empty columns between two cells


@dataclass(frozen=True)
class Column:
    """A head and its cells, one for each row."""

    head: str
    cells: Sequence[str]
    left: bool = False

    @property
    def width(self) -> int:
        """Columns of the terminal that it needs, with the gap."""
        return max(map(cell_len, (self.head, *self.cells))) + GAP


def number(value: float | None) -> str:
    """At most four significant digits, and all digits before the point; "-" for None."""
    if value is None:
        return "-"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def packed(title: str, rows: Sequence[str], columns: Sequence[Column], width: int) -> list[Table]:
    """The columns in as many tables as a terminal of so many columns needs, each with the names of the rows."""
    names = max(map(cell_len, ("", *rows))) + GAP
    parts: list[list[Column]] = [[]]
    used = names
    for column in columns:
        if parts[-1] and used + column.width > width:
            parts.append([])
            used = names
        parts[-1].append(column)
        used += column.width
    return [_table(title if number_of == 0 else "", rows, part) for number_of, part in enumerate(parts)]


def _table(title: str, rows: Sequence[str], columns: Sequence[Column]) -> Table:
    table = Table(
        title=title or None, title_justify="left", title_style="bold", header_style="dim", box=None, pad_edge=False,
        padding=(0, GAP, 0, 0),
    )  # fmt: skip
    table.add_column("", no_wrap=True)
    for column in columns:
        table.add_column(column.head, justify="left" if column.left else "right", no_wrap=True)
    for place, name in enumerate(rows):
        table.add_row(name, *(column.cells[place] for column in columns))
    return table
