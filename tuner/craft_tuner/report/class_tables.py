"""Tables of the page about classes and single images.

Owns per-class gains, confusion, what adapting gained and lost, and where runs disagree.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from craft_tuner.data.pictures import Picture
from craft_tuner.report.read import RunRecord
from craft_tuner.report.table import Cell, Row, Table, cells, count, percent, points
from craft_tuner.runs.predictions import Predicted
from craft_tuner.runs.thumbnails import changed, examples, thumbnails

MATRIX_CLASSES = 20
"""With more classes, the commonest mistakes are listed in place of the whole matrix."""
UPRIGHT_CHARS = 4
"""Longer class names stand on end above the matrix."""
MISTAKES = 10
GAIN_CLASSES = 30
"""With more classes, only the ends of the list of gains are shown."""
ENDS = 12
DRAWN_RUNS = 4
"""Gains of more runs are numbers without bars, so that they stand side by side."""

Runs = Sequence[RunRecord]


@dataclass(frozen=True)
class Shown:
    """One test image on the page: its picture, if there is one, and what was said of it."""

    line: Predicted
    picture: str | None
    """A data URI."""


@dataclass(frozen=True)
class Turned:
    """What adapting changed in one run."""

    run: RunRecord
    gained: int
    lost: int
    gained_shown: tuple[Shown, ...]
    lost_shown: tuple[Shown, ...]


def gains(runs: Runs) -> list[Table]:
    """Accuracy of each class before and after; one table for all runs with the same classes."""
    groups: dict[tuple[str, ...], list[RunRecord]] = {}
    for run in runs:
        if run.score("zero_shot") and run.score("adapted"):
            groups.setdefault(run.class_names, []).append(run)
    return [_gains(names, group) for names, group in groups.items()]


def _gains(names: tuple[str, ...], runs: Runs) -> Table:
    before = np.stack([_recall(run, "zero_shot")[0] for run in runs])
    after = np.stack([_recall(run, "adapted")[0] for run in runs])
    images = _recall(runs[0], "adapted")[1]
    change = after - before
    tested = np.flatnonzero(images)
    order = tested[np.argsort(-change.mean(axis=0)[tested], kind="stable")]
    largest = float(np.abs(change[:, tested]).max()) or 1.0
    drawn = largest if len(runs) <= DRAWN_RUNS else None
    columns: dict[str, Callable[[int], Cell]] = {
        "images": lambda index: Cell(count(int(images[index])), "n")
    }
    if (before == before[0]).all():
        columns["zero-shot"] = lambda index: Cell(percent(float(before[0, index]), 1), "n")
    if len(runs) == 1:
        columns["adapted"] = lambda index: Cell(percent(float(after[0, index]), 1), "n")
    rows = [
        Row(
            Cell(names[index]),
            (
                *(column(index) for column in columns.values()),
                *(_gain(gain, drawn) for gain in change[:, index].tolist()),
            ),
        )
        for index in order.tolist()
    ]
    if len(rows) > GAIN_CLASSES:
        blank = (Cell(""),) * len(rows[0].cells)
        between = Row(Cell(f"… {len(rows) - 2 * ENDS:,} classes between"), blank)
        rows = [*rows[:ENDS], between, *rows[-ENDS:]]
    titles = ["gain"] if len(runs) == 1 else [f"gain, {run.name}" for run in runs]
    head = (Cell("class"), *cells([*columns, *titles]))
    return Table("Accuracy by class; gains in points over zero-shot", head, tuple(rows))


def _gain(gain: float, largest: float | None) -> Cell:
    return Cell(points(gain), "n", None if largest is None else gain / largest)


def _recall(run: RunRecord, way: str) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Accuracy float64 (K,) and images int64 (K,) of each class; 0 where it has none."""
    matrix = np.array((run.score(way) or {})["confusion"], np.int64)
    images = matrix.sum(axis=1)
    return matrix.diagonal() / np.maximum(images, 1), images


def confusion(run: RunRecord) -> Table | None:
    """The whole matrix of the run's last way, or its commonest mistakes if classes are many."""
    scored, names = run.score(run.final or ""), run.class_names
    if scored is None:
        return None
    matrix: list[list[int]] = scored["confusion"]
    if len(names) > MATRIX_CLASSES:
        return _mistakes(run, matrix)
    rows = tuple(
        Row(Cell(names[true]), tuple(_entry(row, taken, true=true) for taken in range(len(row))))
        for true, row in enumerate(matrix)
    )
    kind = "n column long" if max(map(len, names)) > UPRIGHT_CHARS else "n column"
    head = (Cell("is, taken for"), *cells(names, kind))
    return Table("Images by class (row) and answer (column)", head, rows)


def _entry(row: Sequence[int], taken: int, *, true: int) -> Cell:
    share = row[taken] / max(sum(row), 1)
    return Cell(str(row[taken] or "·"), "n hit" if taken == true else "n miss", share)


def _mistakes(run: RunRecord, matrix: list[list[int]]) -> Table:
    names = run.class_names
    wrong = sorted(
        (-number, true, taken)
        for true, row in enumerate(matrix)
        for taken, number in enumerate(row)
        if number and taken != true
    )
    rows = tuple(
        Row(Cell(names[true]), (Cell(names[taken]), Cell(count(-number), "n")))
        for number, true, taken in wrong[:MISTAKES]
    )
    head = (Cell("is"), Cell("taken for"), Cell("images", "n"))
    return Table("The commonest mistakes", head, rows)


def turned(run: RunRecord, pictures: Mapping[str, Picture]) -> Turned | None:
    """What adapting gained and lost; None where zero-shot or the adapter was not tested.

    Args:
        run: with its predictions.
        pictures: by name, for those of which the run has no thumbnail.
    """
    found = changed(run.predictions)
    if found is None:
        return None
    missing = [line for line in found.shown if line.name not in run.thumbnails]
    small = {**run.thumbnails, **thumbnails(pictures, missing)}
    gained, lost = (
        tuple(Shown(line, small.get(line.name)) for line in examples(lines))
        for lines in (found.gained, found.lost)
    )
    return Turned(run, len(found.gained), len(found.lost), gained, lost)


def disagreements(runs: Runs) -> Table | None:
    """How many images one run has right and another wrong; only of runs with the same test."""
    groups: dict[tuple[tuple[str, str], ...], list[RunRecord]] = {}
    for run in runs:
        if run.predictions and run.final:
            same = tuple((line.name, line.label) for line in run.predictions)
            groups.setdefault(same, []).append(run)
    group = max(groups.values(), key=len, default=[])
    if len(group) < 2:
        return None
    right = [
        np.array([getattr(line, run.final or "") == line.label for line in run.predictions])
        for run in group
    ]
    rows = tuple(
        Row(
            Cell(run.name),
            tuple(
                Cell("·" if one is other else count(int((one & ~other).sum())), "n")
                for other in right
            ),
        )
        for run, one in zip(group, right, strict=True)
    )
    head = (Cell("right, wrong in"), *cells([run.name for run in group]))
    return Table("Images that one run has right and another wrong", head, rows)
