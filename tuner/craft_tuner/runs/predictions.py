"""What each test image was taken for, in predictions.csv of a run.

Owns the file's columns. One line a test image, in the order of the test split:

    name         the picture's, as the dataset calls it
    label        its class
    zero_shot    the class that each way takes it for; empty where a way was not asked
    prompt_only
    adapted
    probability  of the last way that was asked, given to its answer

Text that a spreadsheet would take for a formula stands behind an apostrophe (`csv_text`).
"""

import csv
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from craft_tuner import csv_text
from craft_tuner import files as durable
from craft_tuner.blackbox import FloatArray, IntArray
from craft_tuner.errors import RunError

PREDICTIONS = "predictions.csv"
WAYS = ("zero_shot", "prompt_only", "adapted")
COLUMNS = ("name", "label", *WAYS, "probability")

_ROWS = 4096
"""So many rows of logits at a time, to need little memory beside them."""


@dataclass(frozen=True, slots=True)
class Predicted:
    """One line; class names, None where a way was not asked."""

    name: str
    label: str
    zero_shot: str | None
    prompt_only: str | None
    adapted: str | None
    probability: float | None


@dataclass
class Answers:
    """Listens to an evaluation: keeps of each way's logits what predictions.csv says of them."""

    taken: dict[str, IntArray] = field(default_factory=dict)
    """Predicted classes int64 (N,) by way."""
    probability: FloatArray | None = None
    """Of the last way's answers, float32 (N,)."""

    def __call__(self, way: str, logits: FloatArray) -> None:
        """Take the answers from a way's logits (N, K)."""
        self.taken[way] = logits.argmax(axis=1)
        starts = range(0, len(logits), _ROWS)
        blocks = [_highest(logits[start : start + _ROWS]) for start in starts]
        self.probability = np.concatenate(blocks)


def _highest(logits: FloatArray) -> FloatArray:
    """The largest probability of each row: exp(l_max - logsumexp l) = 1 / sum exp(l - l_max)."""
    highest: FloatArray = 1 / np.exp(logits - logits.max(axis=1, keepdims=True)).sum(axis=1)
    return highest


def table(
    answers: Answers, names: Sequence[str], labels: IntArray, class_names: Sequence[str]
) -> list[Predicted]:
    """One line per picture, in order.

    Args:
        answers: of one evaluation, N images.
        names: of the N pictures.
        labels: int64 (N,).
        class_names: K of them.
    """
    columns = [
        [class_names[index] for index in answers.taken[way].tolist()]
        if way in answers.taken
        else [None] * len(names)
        for way in WAYS
    ]
    chances = [None] * len(names) if answers.probability is None else answers.probability.tolist()
    truths = [class_names[index] for index in labels.tolist()]
    return [Predicted(*row) for row in zip(names, truths, *columns, chances, strict=True)]


def write(directory: Path, lines: Sequence[Predicted]) -> None:
    """Write predictions.csv into a run, whole."""
    table = [csv_text.line(COLUMNS)]
    for line in lines:
        chance = "" if line.probability is None else f"{line.probability:.4f}"
        ways = [getattr(line, way) or "" for way in WAYS]
        cells = map(csv_text.written, (line.name, line.label, *ways))
        table.append(csv_text.line([*cells, chance]))
    durable.replace(directory / PREDICTIONS, "".join(table).encode())


def read(directory: Path) -> list[Predicted]:
    """The lines of a run's predictions.csv; none if it has no such file.

    Raises:
        RunError: the file is not what `write` writes.
    """
    file = directory / PREDICTIONS
    if not file.exists():
        return []
    try:
        with file.open(encoding="utf-8", newline="") as text:
            rows = csv.DictReader(text, strict=True)
            if tuple(rows.fieldnames or ()) == COLUMNS:
                return [_line(row) for row in rows]
        reason: object = f"its columns are not {', '.join(COLUMNS)}"
    except (csv.Error, TypeError, ValueError) as error:
        reason = error
    raise RunError(
        f"{file} is damaged: {reason}; write it anew with `craft-tuner fit --resume {directory}`, "
        "which buys nothing twice"
    )


def _line(row: dict[str, str]) -> Predicted:
    if None in row or None in row.values():
        raise ValueError(f"a line has not {len(COLUMNS)} columns: {list(row.values())}")
    name, label, *ways = (csv_text.read(row[column]) for column in COLUMNS[:-1])
    before, between, after = (way or None for way in ways)
    chance = float(row["probability"]) if row["probability"] else None
    return Predicted(name, label, before, between, after, chance)
