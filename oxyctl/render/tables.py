"""Aligned columns that fit the terminal: the least important are left out first, and nothing wraps."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterable, Sequence
from typing import NamedTuple, TextIO

from oxyctl.render.units import cells, safe_text

GAP = "  "
_BOLD, _PLAIN = "\x1b[1m", "\x1b[0m"


class Column(NamedTuple):
    """One column. Rank 0 always stays, the highest is dropped first; `min_width` applies even without rows."""

    header: str
    right: bool = False
    rank: int = 0
    min_width: int = 0


class Table:
    """Prints rows as they come. Printed rows are not realigned: a later, wider value shifts only its own row."""

    def __init__(self, columns: Sequence[Column], out: TextIO | None = None, width: int | None = None) -> None:
        self._out = sys.stdout if out is None else out
        self._columns = list(columns)
        self._width = terminal_width(self._out) if width is None else width
        self._widths = [max(column.min_width, cells(column.header)) for column in columns]
        self._visible = list(range(len(columns)))

    def write(self, rows: Iterable[Sequence[str]]) -> None:
        """Print the header and these rows, in columns as wide as their widest value."""
        safe = [[safe_text(value) for value in row] for row in rows]
        for row in safe:
            self._widths = [max(width, cells(value)) for width, value in zip(self._widths, row, strict=True)]
        self._fit()
        header = self._line([column.header for column in self._columns])
        text = f"{_BOLD}{header}{_PLAIN}" if is_coloured(self._out) else header
        self._out.write("\n".join([text, *map(self._line, safe)]) + "\n")
        self._out.flush()

    def append(self, row: Sequence[str]) -> None:
        """Print one more row."""
        self._out.write(self._line([safe_text(value) for value in row]) + "\n")
        self._out.flush()

    def _fit(self) -> None:
        """Drop the column with the highest rank until the rest fits."""
        while self._total() > self._width:
            last = max(self._visible, key=lambda index: self._columns[index].rank)
            if self._columns[last].rank == 0:
                return
            self._visible.remove(last)

    def _total(self) -> int:
        return sum(self._widths[index] for index in self._visible) + len(GAP) * (len(self._visible) - 1)

    def _line(self, values: Sequence[str]) -> str:
        return GAP.join(self._cell(index, values[index]) for index in self._visible).rstrip()

    def _cell(self, index: int, value: str) -> str:
        padding = " " * (self._widths[index] - cells(value))
        return padding + value if self._columns[index].right else value + padding


def terminal_width(out: TextIO) -> int:
    """Width of the terminal in columns; unlimited if `out` is not a terminal, as readers of a pipe need all columns."""
    return shutil.get_terminal_size((100, 24)).columns if out.isatty() else 1 << 20


def is_coloured(out: TextIO) -> bool:
    """Whether escape sequences may be written (https://no-color.org)."""
    return out.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
