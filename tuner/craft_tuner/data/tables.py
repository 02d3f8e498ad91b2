"""Tables: a CSV file with columns path,label and maybe split; paths are relative to its folder.

    path,label,split
    photos/1.jpg,sea_lion,train
    photos/2.jpg,sea_lion,test

Without a split column every row is for training.
"""

import csv
from dataclasses import dataclass
from pathlib import Path

from craft_tuner.data.dataset import Dataset, assemble
from craft_tuner.data.pictures import FilePicture
from craft_tuner.errors import DataError

SPLITS = ("train", "test")


@dataclass(frozen=True)
class _Row:
    line: int
    path: str
    label: str
    split: str


def read_table(file: Path, *, renamed: dict[str, str] | None = None) -> Dataset:
    """Read a CSV of image paths; each path must exist, no image is opened.

    Args:
        file: UTF-8, with or without a byte order mark.
        renamed: class names for labels (default: underscores read as spaces).

    Raises:
        DataError: a column, value or file is missing, or a path is listed twice; names the line.
    """
    rows = _rows(file)
    _check_rows(file, rows)
    pairs = {split: [_pair(file, row) for row in rows if row.split == split] for split in SPLITS}
    return assemble(pairs["train"], pairs["test"], renamed=renamed)


def read_class_names(file: Path) -> dict[str, str]:
    """Class names for labels, one `label = class name` a line; empty lines and # lines skipped.

    Raises:
        DataError: the file cannot be read, or a line has another form.
    """
    renamed: dict[str, str] = {}
    for number, line in enumerate(_text(file).splitlines(), start=1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        label, equals, name = (part.strip() for part in line.partition("="))
        if not (label and equals and name) or label in renamed:
            raise DataError(
                f"{file} line {number}: {line.strip()[:60]!r}; needed: label = class name, each "
                "label once"
            )
        renamed[label] = name
    return renamed


def _rows(file: Path) -> list[_Row]:
    reader = csv.DictReader(_text(file).splitlines(keepends=True), strict=True)
    columns = [column.strip().lower() for column in reader.fieldnames or []]
    reader.fieldnames = columns
    if not {"path", "label"} <= set(columns):
        raise DataError(
            f"{file} line 1: columns {columns}; needed: path and label, allowed besides: split"
        )
    try:
        return [
            _Row(
                line=reader.line_num,
                path=(record["path"] or "").strip(),
                label=(record["label"] or "").strip(),
                split=(record.get("split", "train") or "").strip().lower(),
            )
            for record in reader
        ]
    except csv.Error as error:
        raise DataError(f"{file} line {reader.line_num}: not valid CSV ({error})") from error


def _check_rows(file: Path, rows: list[_Row]) -> None:
    if not rows:
        raise DataError(f"{file} lists no images; add one line per image: path,label")
    seen: dict[Path, int] = {}
    for row in rows:
        where = f"{file} line {row.line}"
        if not row.path or not row.label:
            raise DataError(f"{where}: path {row.path!r}, label {row.label!r}; both are needed")
        if row.split not in SPLITS:
            raise DataError(f"{where}: split {row.split!r}; allowed: {', '.join(SPLITS)}")
        path = file.parent / row.path
        if not path.is_file():
            raise DataError(f"{where}: no image at {path}; correct the path or remove the line")
        if path in seen:
            raise DataError(f"{where}: {row.path} is already on line {seen[path]}; remove one")
        seen[path] = row.line


def _pair(file: Path, row: _Row) -> tuple[str, FilePicture]:
    return row.label, FilePicture(file.parent / row.path, row.path)


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise DataError(f"cannot read {file}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{file} is not UTF-8 text; save it as UTF-8") from error
