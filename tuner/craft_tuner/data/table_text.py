"""The text of a table, whatever program saved it: encodings, and what separates columns."""

import codecs
import csv
import io
from collections.abc import Callable, Sequence
from pathlib import Path

from craft_tuner.data.listing import Fault, shown
from craft_tuner.errors import DataError

SEPARATORS = (",", ";", "\t", "|")

_MARKS = {
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF32_LE: "utf-32",  # begins as that of UTF-16 does
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}


def read_text(file: Path) -> tuple[str, tuple[Fault, ...]]:
    """The text of a file, and a remark if it had to be taken as Windows wrote it (cp1252).

    UTF-8 with and without a byte order mark; UTF-16 and UTF-32 with one.

    Raises:
        DataError: it cannot be read, or is no text.
    """
    try:
        data = file.read_bytes()
    except OSError as error:
        raise DataError(f"cannot read {shown(file)}: {error.strerror}") from error
    marked = next((code for mark, code in _MARKS.items() if data.startswith(mark)), None)
    for code in [marked] if marked else ["utf-8", "cp1252"]:
        try:
            text = data.decode(code)
        except UnicodeDecodeError:
            continue
        if "\0" in text:
            break
        sentence = f"{file} is not UTF-8 text; it is read as cp1252, as Windows writes it"
        remark = Fault("table read as cp1252: it is not UTF-8", str(file), sentence, problem=False)
        return text, (remark,) if code == "cp1252" else ()
    raise DataError(f"{file} is not UTF-8 text; save it as CSV in UTF-8, or as JSON lines")


def read_cells(
    file: Path, text: str, fits: Callable[[Sequence[str]], bool]
) -> list[tuple[int, list[str]]]:
    """The lines of a table with their numbers, the header first; empty ones are left out.

    The separator is the first of `SEPARATORS` with which the header fits, else the one that makes
    most columns of it; a first line `sep=;`, as Excel has it, says it.

    Raises:
        DataError: a quote has no end.
    """
    lines = list(io.StringIO(text, newline=""))
    header = next((number for number, line in enumerate(lines) if line.strip()), 0)
    first = lines[header].strip() if lines else ""
    if len(first) == len("sep=;") and first.lower().startswith("sep="):
        separator, header = first[-1], header + 1
    else:
        separator = _separator(first, fits)
    reader = csv.reader(lines[header:], delimiter=separator, strict=True)
    try:
        rows = [(reader.line_num, [cell.strip() for cell in cells]) for cells in reader]
    except csv.Error as error:
        line = header + reader.line_num
        raise DataError(f"{file} line {line}: not valid CSV ({error})") from error
    return [(header + line, cells) for line, cells in rows if any(cells)]


def _separator(header: str, fits: Callable[[Sequence[str]], bool]) -> str:
    columns = {mark: next(csv.reader([header], delimiter=mark), []) for mark in SEPARATORS}
    most = max(SEPARATORS, key=lambda mark: len(columns[mark]))
    return next((mark for mark in SEPARATORS if fits(columns[mark])), most)
