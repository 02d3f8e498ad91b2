"""What the command line shows: rows of facts on standard output, sentences on standard error.

Rows are a table on a terminal, tab-separated lines under a line of names elsewhere, and CSV or JSON
if asked for. Must not know what the rows are about.
"""

import csv
import json
import sys
from collections.abc import Iterable
from typing import Any

Row = dict[str, Any]
"""Name -> cell; all rows shown together have the same names. A cell may be None or a list."""


def say(sentence: str) -> None:
    """Tell the person who runs the command."""
    sys.stderr.write(f"{sentence}\n")


def show(rows: Iterable[Row], *, as_json: bool = False, as_csv: bool = False) -> None:
    """Show rows; lines are written as the rows come, the other forms once all are there."""
    if as_json:
        show_json(list(rows))
    elif as_csv or not sys.stdout.isatty():
        _lines(rows, delimiter="," if as_csv else "\t")
    else:
        _table(list(rows))


def show_json(value: Any) -> None:
    """Show one JSON value on one line."""
    sys.stdout.write(f"{json.dumps(value)}\n")


def _lines(rows: Iterable[Row], *, delimiter: str) -> None:
    writer = csv.writer(sys.stdout, delimiter=delimiter, lineterminator="\n")
    for number, row in enumerate(rows):
        if number == 0:
            writer.writerow(row)
        writer.writerow(_cells(row))


def _table(rows: list[Row]) -> None:
    from rich.console import Console  # noqa: PLC0415 - takes longer to load than a command runs
    from rich.table import Table  # noqa: PLC0415

    table = Table(*(rows[0] if rows else ("nothing yet",)), box=None, pad_edge=False)
    for row in rows:
        table.add_row(*_cells(row))
    Console(markup=False).print(table)


def _cells(row: Row) -> list[str]:
    values = (" ".join(cell) if isinstance(cell, list) else cell for cell in row.values())
    return ["" if value is None else str(value) for value in values]
