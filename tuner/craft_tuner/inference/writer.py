"""What is written of answers: the likeliest classes of each picture, as lines of JSON or as CSV.

Owns rows, the two formats and a file that grows batch by batch: a batch is written and flushed as
it is answered, so that what stops later loses nothing.

    {"name": "a.jpg", "label": "cat", "probability": 0.9}
    {"name": "a.jpg", "label": "cat", "probability": 0.9, "top": [{"label": "cat", ...}, ...]}

    name,label,probability
    name,label,probability,label_2,probability_2

In CSV, text that a spreadsheet would take for a formula stands behind an apostrophe (`csv_text`).
Control characters are escapes in JSON, and in CSV for standard output, which may be a terminal. A
file is its writer's alone.
"""

import csv
import io
import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TextIO

from craft_tuner import csv_text
from craft_tuner import files as durable
from craft_tuner.blackbox import FloatArray
from craft_tuner.errors import UsageError, json_printable, printable
from craft_tuner.heads.softmax import softmax
from craft_tuner.inference.predict import Answer

Form = Literal["jsonl", "csv"]


@dataclass(frozen=True)
class Row:
    """A picture and its likeliest classes with their probabilities, the likeliest first."""

    name: str
    ranked: tuple[tuple[str, float], ...]


def rows(answer: Answer, class_names: Sequence[str], *, top: int = 1) -> list[Row]:
    """One row per picture of an answer, with `top` classes, or all if there are fewer."""
    return [
        Row(picture.name, _ranked(chances, class_names, top))
        for picture, row in zip(answer.pictures, answer.logits, strict=True)
        for chances in softmax(row[None])
    ]


@dataclass(frozen=True)
class AnswerWriter:
    """Where rows go: a file, or standard output if `out` is None, with `top` classes each.

    With `resume`, the lines that the file has are kept; else they are gone as soon as it is opened.
    """

    out: Path | None
    form: Form = "jsonl"
    top: int = 1
    resume: bool = False

    def written(self) -> frozenset[str]:
        """Names of the pictures that it has already; a last line that was cut short is dropped.

        Raises:
            UsageError: it has lines of another form, or is not to be read.
        """
        if self.out is None or not (self.resume and self.out.exists()):
            return frozenset()
        try:
            lines = durable.keep_lines(self.out, sys.maxsize)
            names = (
                _csv_names(lines, self.top) if self.form == "csv" else _json_names(lines, self.top)
            )
            return frozenset(names)
        except (ValueError, KeyError, TypeError, csv.Error) as error:
            raise UsageError(
                f"{self.out} has lines that are not what --format {self.form} --top {self.top} "
                "writes; resume with the options it was begun with, or choose another --out"
            ) from error
        except OSError as error:
            raise UsageError(f"cannot read {self.out}: {error.strerror}") from error

    @contextmanager
    def open(self) -> Iterator[TextIO]:
        """Open it for `write`.

        Raises:
            UsageError: the file cannot be written.
        """
        if self.out is None:
            self._begin(sys.stdout)
            yield sys.stdout
            return
        try:
            mode: Literal["a", "w"] = "a" if self.resume else "w"
            file = open(self.out, mode, encoding="utf-8", newline="", opener=durable.private)  # noqa: SIM115 - Path.open has no opener
        except OSError as error:
            raise UsageError(f"cannot write {self.out}: {error.strerror}") from error
        with file:
            if file.tell() == 0:
                self._begin(file)
            yield file

    def write(self, file: TextIO, found: Iterable[Row]) -> None:
        """Add rows in order, and flush."""
        if self.form == "csv":
            shown = printable if self.out is None else str
            file.writelines(csv_text.line(map(shown, _csv_row(each))) for each in found)
        else:
            lines = (_json_row(each, listed=self.top > 1) for each in found)
            file.writelines(f"{line}\n" for line in lines)
        file.flush()

    def _begin(self, file: TextIO) -> None:
        if self.form == "csv":
            csv.writer(file, lineterminator="\n").writerow(_columns(self.top))


def _ranked(chances: FloatArray, names: Sequence[str], top: int) -> tuple[tuple[str, float], ...]:
    order = (-chances).argsort(kind="stable")[:top]
    return tuple((names[index], float(chances[index])) for index in order)


def _columns(top: int) -> list[str]:
    more = [f"{name}_{rank}" for rank in range(2, top + 1) for name in ("label", "probability")]
    return ["name", "label", "probability", *more]


def _csv_row(row: Row) -> list[str]:
    pairs = ((csv_text.written(label), str(chance)) for label, chance in row.ranked)
    return [csv_text.written(row.name), *(value for pair in pairs for value in pair)]


def _json_row(row: Row, *, listed: bool) -> str:
    ranked = [{"label": label, "probability": probability} for label, probability in row.ranked]
    top = {"top": ranked} if listed else {}
    line = json.dumps({"name": row.name, **ranked[0], **top}, ensure_ascii=False)
    return json_printable(line)


def _csv_names(lines: Sequence[str], top: int) -> Iterator[str]:
    table = csv.reader(io.StringIO("\n".join(lines)), strict=True)
    if lines and next(table) != _columns(top):
        raise ValueError("other columns")
    yield from (csv_text.read(row[0]) for row in table)


def _json_names(lines: Sequence[str], top: int) -> Iterator[str]:
    for line in lines:
        row = json.loads(line)
        yield row["name"]
        if len(row.get("top", [0])) != top:
            raise ValueError("other classes")
