"""What a table of the page is made of, and how numbers are written."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

NONE = "\N{EN DASH}"
"""Stands for what was not measured."""

WAYS = {"zero_shot": "zero-shot", "prompt_only": "prompt only", "adapted": "adapted"}
"""What each way of answering is called, in the order in which they are tested."""


@dataclass(frozen=True)
class Cell:
    """Text, how it looks (a class of page.css), and maybe a share in [-1, 1] to draw."""

    text: str
    kind: str = ""
    share: float | None = None


@dataclass(frozen=True)
class Row:
    """A heading and its cells; `kind` is a class of page.css."""

    head: Cell
    cells: tuple[Cell, ...]
    kind: str = ""


@dataclass(frozen=True)
class Table:
    """Column headings (the first stands over the row headings) and rows."""

    caption: str
    head: tuple[Cell, ...]
    rows: tuple[Row, ...]


def cells(texts: Sequence[str], kind: str = "n") -> tuple[Cell, ...]:
    """Cells of one look; `n` is for numbers."""
    return tuple(Cell(text, kind) for text in texts)


def turned(table: Table) -> Table:
    """The same table with rows and columns exchanged."""
    corner, *across = table.head
    columns = zip(*(row.cells for row in table.rows), strict=True)
    rows = tuple(Row(head, tuple(column)) for head, column in zip(across, columns, strict=True))
    return Table(table.caption, (corner, *(row.head for row in table.rows)), rows)


def filled(table: Table) -> Table:
    """The table without rows and columns that say nothing."""
    rows = tuple(row for row in table.rows if any(map(_says, row.cells)))
    kept = [
        index
        for index in range(len(table.head) - 1)
        if any(_says(row.cells[index]) for row in rows)
    ]
    head = (table.head[0], *(table.head[1 + index] for index in kept))
    short = (Row(r.head, tuple(r.cells[index] for index in kept), r.kind) for r in rows)
    return Table(table.caption, head, tuple(short))


def _says(cell: Cell) -> bool:
    return cell.text not in ("", NONE)


def count(value: int | None) -> str:
    """1,234."""
    return NONE if value is None else f"{value:,}"


def percent(value: float | None, digits: int = 2) -> str:
    """A share as 12.34%."""
    return NONE if value is None else f"{100 * value:.{digits}f}%"


def points(value: float) -> str:
    """A difference of shares in points, with its sign: +1.2."""
    text = f"{100 * value:+.1f}".replace("-", "\N{MINUS SIGN}")
    return "0.0" if text[1:] == "0.0" else text


def seconds(number: float) -> str:
    """Below a minute with one digit, else hours, minutes and seconds."""
    return f"{number:.1f} s" if number < 60 else str(timedelta(seconds=round(number)))


def duration(stages: Mapping[str, float]) -> str:
    """Seconds of all stages together."""
    return seconds(sum(stages.values())) if stages else NONE


def size(number: int | None) -> str:
    """Bytes in full below 10 KiB, else in KiB."""
    if number is None:
        return NONE
    return f"{number:,} B" if number < 10_240 else f"{number / 1024:,.0f} KiB"


def plain(value: Any) -> str:
    """A JSON value as people write it."""
    if value is None:
        return "none"
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
