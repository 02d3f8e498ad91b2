"""Manifests: CSV with columns path,label and maybe split, or JSONL with those keys.

    path,label,split
    photos/1.jpg,sea_lion,train
    photos/2.jpg,sea_lion,test

    {"path": "photos/1.jpg", "label": "sea_lion", "split": "train"}

Paths are relative to the manifest's folder and stay in it, unless its user allows the folder that
they are in. Without a split every picture is for training. JSON has
other keys passed over, so that what a labelling tool writes can be read as it is.
"""

import csv
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from craft_tuner.data.listing import Fault, Listing, Pair
from craft_tuner.data.pictures import FilePicture
from craft_tuner.data.places import OUTSIDE, Places
from craft_tuner.errors import DataError

SPLITS = ("train", "test")
JSON_SUFFIXES = frozenset({".jsonl", ".ndjson"})


@dataclass(frozen=True)
class _Row:
    line: int
    path: str
    label: str
    split: str


def list_table(file: Path, outside: Iterable[Path] = ()) -> Listing:
    """List a manifest; no image is opened.

    Args:
        file: UTF-8, with or without a byte order mark; JSONL by its ending, else CSV.
        outside: folders that its images may be in beside its own.

    Raises:
        DataError: it has another form; names the line.
    """
    rows = _json_rows(file) if file.suffix.lower() in JSON_SUFFIXES else _csv_rows(file)
    if not rows:
        raise DataError(f"{file} lists no images; add one line per image: path, label")
    places = Places.of(file.parent, outside)
    faults = tuple(_faults(file, rows, places))
    pairs = {
        split: tuple(_pair(file, row, places) for row in rows if row.split == split)
        for split in SPLITS
    }
    return Listing(pairs["train"], pairs["test"], faults=faults)


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


def _csv_rows(file: Path) -> list[_Row]:
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


def _json_rows(file: Path) -> list[_Row]:
    lines = enumerate(_text(file).split("\n"), start=1)
    return [_json_row(file, number, line) for number, line in lines if line.strip()]


def _json_row(file: Path, number: int, line: str) -> _Row:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{file} line {number}: not valid JSON ({error})") from error
    if not isinstance(record, dict):
        raise DataError(f"{file} line {number}: {line.strip()[:60]!r}; needed: an object")
    split = record.get("split", "train")
    values = (record.get("path", ""), record.get("label", ""), split)
    path, label, split = (_word(file, number, value) for value in values)
    return _Row(number, path, label, split.lower())


def _word(file: Path, number: int, value: Any) -> str:
    if not isinstance(value, str):
        raise DataError(
            f"{file} line {number}: {str(value)[:60]} is no text; path, label and split are"
        )
    return value.strip()


def _faults(file: Path, rows: list[_Row], places: Places) -> Iterator[Fault]:
    seen: dict[Path, int] = {}
    for row in rows:
        where = f"{file} line {row.line}"
        path = file.parent / row.path
        if not row.path or not row.label:
            sentence = f"{where}: path {row.path!r}, label {row.label!r}; both are needed"
            yield Fault("line without path or label", where, sentence)
        elif row.split not in SPLITS:
            sentence = f"{where}: split {row.split!r}; allowed: {', '.join(SPLITS)}"
            yield Fault("unknown split", where, sentence)
        elif not places.holds(path):
            sentence = places.refusal(path, f"{where}: {row.path}")
            yield Fault(OUTSIDE, row.path, sentence)
        elif not path.is_file():
            sentence = f"{where}: no image at {path}; correct the path or remove the line"
            yield Fault("missing file", row.path, sentence)
        elif path in seen:
            sentence = f"{where}: {row.path} is already on line {seen[path]}; remove one"
            yield Fault("file listed twice", row.path, sentence)
        seen.setdefault(path, row.line)


def _pair(file: Path, row: _Row, places: Places) -> Pair:
    return row.label, FilePicture(file.parent / row.path, row.path, places)


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise DataError(f"cannot read {file}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{file} is not UTF-8 text; save it as UTF-8") from error
