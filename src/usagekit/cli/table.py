"""Tables of text, in a terminal as in a file."""

from __future__ import annotations

import os
import shutil
import sys
from unicodedata import combining, east_asian_width

_ALWAYS_SHOWN = 4  # measures: keys are shortened rather than leave fewer
_KEY_WIDTH = 8  # but never to less than this
_GAP = "  "


class Column:
    """One column of a table: its name, the text of its cells, and that of the totals line."""

    def __init__(self, name: str, cells: list[str], total: str, *, right: bool = False) -> None:
        self.name = name
        self.cells = cells
        self.total = total
        self.right = right

    @property
    def heading(self) -> tuple[str, str]:
        """Two lines: a long name would make a column of short numbers wide."""
        if len(self.name) < len("last_seen_") or "_" not in self.name:
            return "", self.name
        first, _, second = self.name.rpartition("_")
        return first, second

    @property
    def width(self) -> int:
        """Places that the widest text of the column takes."""
        return max(_width(text) for text in (*self.heading, *self.cells, self.total))

    def shorten(self, width: int) -> None:
        """Cut what is longer than `width`."""
        self.cells = [_cut(text, width) for text in self.cells]

    def padded(self, text: str) -> str:
        """Give `text` as wide as the column."""
        space = " " * (self.width - _width(text))
        return space + text if self.right else text + space


def _width(text: str) -> int:
    """Give how many places `text` takes on a terminal."""
    if text.isascii():
        return len(text)
    return sum(2 if east_asian_width(one) in "WF" else not combining(one) for one in text)


def _cut(text: str, width: int) -> str:
    if _width(text) <= width:
        return text
    while _width(text) > width - 1:
        text = text[:-1]
    return text + "…"


def _terminal_width() -> int | None:
    """Give the width to keep to; None where the output goes to a file or another program."""
    columns = os.environ.get("COLUMNS", "")
    if columns.isdecimal() and int(columns):
        return int(columns)
    if not sys.stdout.isatty():
        return None
    return shutil.get_terminal_size().columns


def fitting(keys: list[Column], measures: list[Column]) -> list[list[Column]]:
    """Spread columns over tables that are no wider than the terminal, each with the keys in front.

    Keys are shortened in place where they leave too little room.
    """
    width = _terminal_width()
    if width is None:
        return [[*keys, *measures]]
    _shorten_keys(keys, width - sum(len(_GAP) + column.width for column in measures[:_ALWAYS_SHOWN]))
    room = width - sum(key.width + len(_GAP) for key in keys) + len(_GAP)
    blocks: list[list[Column]] = []
    left = -1
    for column in measures:
        left -= column.width + len(_GAP)
        if left < 0:
            blocks.append([*keys])
            left = room - column.width - len(_GAP)
        blocks[-1].append(column)
    return blocks or [keys]


def _shorten_keys(keys: list[Column], room: int) -> None:
    room -= len(_GAP) * (len(keys) - 1)
    while sum(key.width for key in keys) > room:
        widest = max(keys, key=lambda key: key.width)
        if widest.width <= _KEY_WIDTH:
            return
        widest.shorten(widest.width - 1)


def print_table(columns: list[Column]) -> None:
    """Print a table and an empty line; in a terminal with rich, where that is installed."""
    if sys.stdout.isatty():
        try:
            _print_rich(columns)
        except ImportError:
            pass
        else:
            return
    rule = _GAP.join("-" * column.width for column in columns)
    heading = [_GAP.join(column.padded(column.heading[line]) for column in columns).rstrip() for line in (0, 1)]
    rows = [_GAP.join(column.padded(column.cells[n]) for column in columns) for n in range(len(columns[0].cells))]
    lines = [*filter(None, heading), rule, *rows]
    total = _GAP.join(column.padded(column.total) for column in columns)
    if total.strip():
        lines += [rule, total]
    print("\n".join(line.rstrip() for line in lines) + "\n")


def _print_rich(columns: list[Column]) -> None:
    from rich.box import SIMPLE
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    totals = any(column.total for column in columns)
    table = Table(box=SIMPLE, show_edge=False, padding=(0, 1, 0, 0), pad_edge=False, show_footer=totals)
    for column in columns:
        table.add_column(
            Text("\n".join(column.heading).strip("\n"), style="bold"),
            Text(column.total, style="bold"),
            justify="right" if column.right else "left",
            vertical="bottom",
            width=column.width,
            no_wrap=True,
        )
    for n in range(len(columns[0].cells)):
        table.add_row(*(Text(column.cells[n]) for column in columns))
    # Widths were settled before: a narrow terminal may wrap a line, but must not squeeze a number.
    console = Console(file=sys.stdout, width=sum(column.width + len(_GAP) for column in columns), highlight=False)
    console.print(table)
    console.print()
