"""What the command line shows: rows of facts on standard output, sentences on standard error.

Rows are a table on a terminal, tab-separated lines under a line of names elsewhere, and CSV or JSON
for other programs if asked for.
"""

import csv
import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal, TextIO

from craft_shared.csv_cells import spreadsheet_safe

Row = dict[str, Any]
"""Name -> cell; all rows shown together have the same names. A cell may be None or a list."""

Form = Literal["csv", "json", "ndjson"]
"""CSV under a line of names, one JSON document, or a JSON document for each row."""


def say(sentence: str) -> None:
    """Write a sentence for the person who runs the command."""
    sys.stderr.write(f"{sentence}\n")


def show(rows: Iterable[Row], *, as_json: bool = False) -> None:
    """Show rows; lines are written as the rows come, the other forms once all are there."""
    if as_json:
        show_json(list(rows))
    elif not sys.stdout.isatty():
        _lines(rows, sys.stdout, delimiter="\t")
    else:
        _table(list(rows))


def show_json(value: Any) -> None:
    """Show one JSON value on one line."""
    sys.stdout.write(f"{json.dumps(value)}\n")


def write(rows: Iterable[Row], form: Form, path: Path | None, *, name: str, **more: Any) -> None:
    """Write rows for another program, to a file or to standard output.

    Args:
        rows: written as they come, but for `json`.
        form: of what is written.
        path: a file, which is overwritten; None is standard output.
        name: of the rows in the `json` document.
        more: what that document says beside the rows.
    """
    if path is None:
        _write(rows, form, sys.stdout, name=name, more=more)
        return
    with path.open("w", encoding="utf-8", newline="") as file:
        _write(rows, form, file, name=name, more=more)


def _write(
    rows: Iterable[Row], form: Form, file: TextIO, *, name: str, more: dict[str, Any]
) -> None:
    if form == "csv":
        _lines(map(_safe, rows), file, delimiter=",")
    elif form == "ndjson":
        file.writelines(json.dumps(row) + "\n" for row in rows)
    else:
        file.write(json.dumps({name: list(rows)} | more) + "\n")


def _lines(rows: Iterable[Row], file: TextIO, *, delimiter: str) -> None:
    writer = csv.writer(file, delimiter=delimiter, lineterminator="\n")
    for number, row in enumerate(rows):
        if number == 0:
            writer.writerow(row)
        writer.writerow(_cells(row))


def _table(rows: list[Row]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(*(rows[0] if rows else ("nothing yet",)), box=None, pad_edge=False)
    for row in rows:
        table.add_row(*_cells(row))
    Console(markup=False).print(table)


def _safe(row: Row) -> Row:
    """Numbers as they are; text is text in every spreadsheet."""
    return {
        name: spreadsheet_safe(cell) if isinstance(cell, str) else cell
        for name, cell in row.items()
    }


def _cells(row: Row) -> list[str]:
    values = (" ".join(cell) if isinstance(cell, list) else cell for cell in row.values())
    return ["" if value is None else str(value) for value in values]
