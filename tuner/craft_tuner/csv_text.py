"""Text in cells of CSV files that a spreadsheet may open and this program reads again.

A file or a class may be called `=HYPERLINK(...)`: a spreadsheet would run it. Such text is written
behind an apostrophe, and read without it. Numbers are written as numbers.
"""

import csv
import io
import re
from collections.abc import Iterable

from craft_shared.csv_cells import spreadsheet_safe

_MARKED = re.compile(r"'+[=+\-@\t\r]")
"""An apostrophe before a formula: as `written` makes it, or as somebody has named a file."""


def written(text: str) -> str:
    """The text as a cell has it; `read` gives it back."""
    return f"'{text}" if _MARKED.match(text) else spreadsheet_safe(text)


def read(cell: str) -> str:
    """The text of a cell that `written` made."""
    return cell[1:] if _MARKED.match(cell) else cell


def line(cells: Iterable[str]) -> str:
    """One line of a file, with its end.

    A carriage return within a cell is quoted; `csv` leaves it bare where lines end without one, and
    readers would end the line there.
    """
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\r\n").writerow(cells)
    return buffer.getvalue()[:-2] + "\n"
