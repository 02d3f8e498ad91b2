"""Manifests: a table with a picture, its label and maybe its split in each line, or JSON lines.

    path,label,split
    photos/1.jpg,sea_lion,train
    photos/2.jpg,sea_lion,test

    {"path": "photos/1.jpg", "label": "sea_lion", "split": "train"}

Columns have usual names (`columns.py`), those of Hugging Face's metadata.csv and metadata.jsonl
among them; others are passed over. Paths are relative to the manifest's folder and stay in it,
unless its user allows the folder that they are in. Without a split every picture is for training.
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from craft_tuner.data.class_names import WORDNET_ID
from craft_tuner.data.columns import Column, fits, plain, roles
from craft_tuner.data.dataset import SetApart, encodable
from craft_tuner.data.listing import Fault, Listing, Pair, for_validation
from craft_tuner.data.pictures import FilePicture
from craft_tuner.data.places import OUTSIDE, Places
from craft_tuner.data.splits import SPLITS, TRAIN, VALIDATION, split_of
from craft_tuner.data.table_text import read_cells, read_text
from craft_tuner.errors import DataError

JSON_SUFFIXES = frozenset({".jsonl", ".ndjson"})

_Record = tuple[int, Mapping[str, Any]]
"""The number of a line, and its values by column."""


@dataclass(frozen=True)
class _Row:
    line: int
    path: str
    label: str
    split: str
    """As the manifest says it; `split_of` knows which one is meant."""


def list_table(file: Path, outside: Iterable[Path] = ()) -> Listing:
    """List a manifest; no image is opened.

    Args:
        file: text in UTF-8, UTF-16 with a byte order mark, or cp1252; JSON lines by its ending or
            if it begins with a brace, else columns that a comma, semicolon, tab or bar separates.
        outside: folders that its images may be in beside its own.

    Raises:
        DataError: it has another form; names the line.
    """
    text, remarks = read_text(file)
    if file.suffix.lower() == ".json" and text.lstrip().startswith("["):
        raise DataError(f"{file} is one JSON list; write one object a line instead")
    json_lines = file.suffix.lower() in JSON_SUFFIXES or text.lstrip().startswith("{")
    names, records = (_json_records if json_lines else _csv_records)(file, text)
    if not records:
        raise DataError(f"{file} lists no images; add one line per image: path, label")
    where = str(file) if json_lines else f"{file} line 1"
    column, passed = roles(where, names, lambda key: (row.get(key, TRAIN) for _, row in records))
    rows = [_row(file, column, *record) for record in records]
    places = Places.of(file.parent, outside)
    pairs: dict[str | None, list[Pair]] = {split: [] for split in (*SPLITS, None)}
    for row in rows:
        pairs[split_of(row.split)].append(_pair(file, row, places))
    train, validation, test = (tuple(pairs[split]) for split in SPLITS)
    faults = [*remarks, *passed, *_faults(file, rows, places)]
    if validation:
        faults.append(for_validation(VALIDATION, len(validation), tested=bool(test)))
    return Listing(train, test, validation=SetApart(validation), faults=tuple(faults))


def read_class_names(file: Path) -> dict[str, str]:
    """Class names for labels, one `label = class name` a line; empty lines and # lines skipped.

    A WordNet id needs no equals sign, as in ImageNet's lists: of `n02084071 dog, domestic dog` the
    first name is taken.

    Raises:
        DataError: the file cannot be read, or a line has another form.
    """
    renamed: dict[str, str] = {}
    for number, line in enumerate(read_text(file)[0].splitlines(), start=1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        label, equals, name = (part.strip() for part in line.partition("="))
        wnid, *words = line.split(maxsplit=1)
        if words and WORDNET_ID.fullmatch(wnid) and wnid != label:
            label, equals, name = wnid, "=", words[0].partition(",")[0].strip()
        if not (label and equals and name) or label in renamed:
            raise DataError(
                f"{file} line {number}: {line.strip()[:60]!r}; needed: label = class name, each "
                "label once"
            )
        renamed[label] = name
    return renamed


def _csv_records(file: Path, text: str) -> tuple[Sequence[str], list[_Record]]:
    (_, names), *lines = read_cells(file, text, fits) or [(1, [])]
    keys = [plain(name) for name in names]
    for number, cells in lines:
        if any(cells[len(names) :]):
            raise DataError(
                f"{file} line {number} has {len(cells)} cells, the header {len(names)}; put text "
                "that has a separator in it between double quotes"
            )
    blank = [""] * len(keys)
    return names, [(line, dict(zip(keys, cells + blank, strict=False))) for line, cells in lines]


def _json_records(file: Path, text: str) -> tuple[Sequence[str], list[_Record]]:
    lines = enumerate(text.split("\n"), start=1)
    found = [(number, _object(file, number, line)) for number, line in lines if line.strip()]
    names = list(dict.fromkeys(name for _, record in found for name in record))
    return names, [(line, {plain(name): record[name] for name in record}) for line, record in found]


def _object(file: Path, number: int, line: str) -> dict[str, Any]:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{file} line {number}: not valid JSON ({error})") from error
    if not isinstance(record, dict):
        raise DataError(f"{file} line {number}: {line.strip()[:60]!r}; needed: an object")
    return record


def _row(file: Path, column: Mapping[Column, str], number: int, record: Mapping[str, Any]) -> _Row:
    def word(role: Column, default: str = "") -> str:
        value = record.get(column[role], default) if role in column else default
        return _word(f"{file} line {number}", role, value)

    path = word("path")
    if "\\" in path and not (file.parent / path).is_file():
        path = path.replace("\\", "/")  # as Windows writes it
    return _Row(number, path, word("label"), word("split", TRAIN))


def _word(where: str, role: Column, value: Any) -> str:
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if not isinstance(value, str):
        raise DataError(f"{where}: {role} {str(value)[:60]} is no text; path, label and split are")
    if "\0" in value or not encodable(value):
        raise DataError(f"{where}: {role} {ascii(value)[:60]} is no text in Unicode; rename it")
    return value.strip()


def _faults(file: Path, rows: list[_Row], places: Places) -> Iterator[Fault]:
    seen: dict[Path, int] = {}
    for row in rows:
        where = f"{file} line {row.line}"
        path = file.parent / row.path
        if not row.path or not row.label:
            sentence = f"{where}: path {row.path!r}, label {row.label!r}; both are needed"
            yield Fault("line without path or label", where, sentence)
        elif split_of(row.split) is None:
            sentence = f"{where}: split {row.split!r}; allowed: {', '.join(SPLITS)} and the like"
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
