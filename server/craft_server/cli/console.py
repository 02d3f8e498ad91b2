"""What the command line shows: rows of facts on standard output, sentences on standard error.

Rows are a table on a terminal, or blocks of lines where it is too narrow for one; elsewhere
tab-separated lines under a line of names, and CSV or JSON for other programs if asked for.
"""

import csv
import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal, TextIO

from typer.core import TyperGroup

from craft_shared.csv_cells import spreadsheet_safe

Row = dict[str, Any]
"""Name -> cell; all rows shown together have the same names. A cell may be None or a list."""

Form = Literal["csv", "json", "ndjson"]
"""CSV under a line of names, one JSON document, or a JSON document for each row."""


class Commands(TyperGroup):
    """Commands, each listed with its whole first sentence, on as many lines as it takes."""

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """As typer does, without a limit on their length."""
        named = [(name, self.get_command(ctx, name)) for name in self.list_commands(ctx)]
        rows = [(name, one.get_short_help_str(limit=1000)) for name, one in named if one]
        with formatter.section("Commands"):
            formatter.write_dl(rows)


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
    """A table, or for each row a line of every cell where a table is too wide."""
    from rich.console import Console
    from rich.table import Column, Table

    console = Console(markup=False)
    table = Table(*(rows[0] if rows else ("nothing yet",)), box=None, pad_edge=False)
    for row in rows:
        table.add_row(*_cells(row))
    unbounded = console.options.update(max_width=sys.maxsize)
    if console.measure(table, options=unbounded).maximum <= console.width:
        console.print(table)
        return
    for row in rows:
        block = Table.grid("", Column(overflow="fold"), padding=(0, 2, 0, 0))
        for name, cell in zip(row, _cells(row), strict=True):
            block.add_row(name, cell)
        console.print(block, "")


def _safe(row: Row) -> Row:
    """Numbers as they are; text is text in every spreadsheet."""
    return {
        name: spreadsheet_safe(cell) if isinstance(cell, str) else cell
        for name, cell in row.items()
    }


def _cells(row: Row) -> list[str]:
    values = (" ".join(cell) if isinstance(cell, list) else cell for cell in row.values())
    return ["" if value is None else str(value) for value in values]
