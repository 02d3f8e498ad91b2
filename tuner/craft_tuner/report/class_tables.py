"""Tables of the page about classes and single images.

Owns per-class gains, confusion, what adapting gained and lost, and where runs disagree.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from craft_tuner.data.pictures import Picture
from craft_tuner.report.intervals import WILSON, wilson
from craft_tuner.report.read import RunRecord
from craft_tuner.report.table import WAYS, Cell, Row, Table, cells, count, percent, points
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
class Group:
    """Test images of one kind: how many, and those that are shown."""

    kind: str
    """gained, lost or wrong."""
    count: int
    shown: tuple[Shown, ...]


@dataclass(frozen=True)
class Turned:
    """What adapting changed in one run, and what it left wrong."""

    run: RunRecord
    groups: tuple[Group, ...]


def by_class(run: RunRecord) -> Table | None:
    """Accuracy of each class that was tested, each way, in the order of the gains."""
    ways = [way for way in WAYS if run.score(way)]
    if not ways:
        return None
    recalls = {way: _recall(run, way)[0] for way in ways}
    images, last = _recall(run, ways[-1])[1], recalls[ways[-1]]
    tested = np.flatnonzero(images)
    compared = {"zero_shot", "adapted"} <= {*ways}
    change = last - recalls["zero_shot"] if compared else -last
    largest = float(np.abs(change[tested]).max(initial=0)) or 1.0
    rows = []
    for index in tested[np.argsort(-change[tested], kind="stable")].tolist():
        number = int(images[index])
        low, high = wilson(round(float(last[index]) * number), number)
        shares = [percent(float(recalls[way][index]), 1) for way in ways]
        interval = f"{percent(low, 0)} to {percent(high, 0)}"
        gain = (_gain(float(change[index]), largest),) if compared else ()
        rows.append(
            Row(Cell(run.class_names[index]), (*cells([count(number), *shares, interval]), *gain))
        )
    titles = [
        "images",
        *(WAYS[way] for way in ways),
        "95% interval",
        *(["gain"] if compared else []),
    ]
    untested = len(images) - len(tested)
    caption = f"Accuracy by class; 95% interval ({WILSON}) of {WAYS[ways[-1]]}"
    caption += f"; {untested:,} classes have no test image" if untested else ""
    return Table(caption, (Cell("class"), *cells(titles)), tuple(rows))


def gains(runs: Runs) -> list[Table]:
    """What each class gained in several runs; one table for all with the same test set."""
    groups: dict[tuple[Any, ...], list[RunRecord]] = {}
    for run in runs:
        if run.score("zero_shot") and run.score("adapted"):
            groups.setdefault((run.data, run.class_names), []).append(run)
    return [_gains(group[0].class_names, group) for group in groups.values()]


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


def _mistakes(run: RunRecord, matrix: list[list[int]]) -> Table | None:
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
    return Table("The commonest mistakes", head, rows) if rows else None


def turned(run: RunRecord, pictures: Mapping[str, Picture]) -> Turned | None:
    """What adapting gained, lost and left wrong; None where there is nothing of it.

    Args:
        run: with its predictions.
        pictures: by name, for those of which the run has no thumbnail.
    """
    found = changed(run.predictions)
    missing = [line for line in found.shown if line.name not in run.thumbnails]
    small = {**run.thumbnails, **thumbnails(pictures, missing)}
    kinds = {"gained": found.gained, "lost": found.lost, "wrong": found.wrong}
    groups = tuple(
        Group(kind, len(lines), tuple(Shown(x, small.get(x.name)) for x in examples(lines)))
        for kind, lines in kinds.items()
        if lines
    )
    return Turned(run, groups) if groups else None


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
