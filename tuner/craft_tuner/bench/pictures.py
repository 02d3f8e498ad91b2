"""curves.png: accuracy against queries, a panel for each dataset and number of shots.

A point is the test accuracy that a run reached with all its queries, mean over seeds with its
deviation; points of a method at several budgets are joined. The thin line is what the runs could
see on their way: accuracy on validation images or on shots that are held out, else on the shots
themselves.
"""

from collections.abc import Mapping, Sequence
from statistics import fmean, stdev
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from craft_tuner.bench.records import Record, columns_of, rows_of, select, shots_words

Histories = Mapping[str, Sequence[Mapping[str, float]]]
"""Metrics of each run, one mapping a generation, by the run's name."""

SEEN = ("heldout_accuracy", "prompt_accuracy")
"""What the thin line shows: the first of these that a run has."""

_CAPTION = "points: test accuracy at the end; thin: on shots or validation images on the way"

_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000", "#8f8f8f")
"""Okabe and Ito's palette, but for its yellow, and a grey; markers tell methods beyond it apart."""

_MARKERS = "os^Dv"


def draw(records: Sequence[Record], histories: Histories) -> Figure:
    """All panels; datasets from top to bottom, shots from left to right."""
    datasets = list(dict.fromkeys(one.data for one in records))
    columns = columns_of(records)
    size = (1.5 + 3.2 * len(columns), 1.2 + 2.8 * len(datasets))
    figure = Figure(figsize=size, layout="constrained")
    panels = figure.subplots(len(datasets), len(columns), squeeze=False, sharey="row")
    methods = list(dict.fromkeys(one.method for one in records))
    for row, data in zip(panels, datasets, strict=True):
        for axes, shots in zip(row, columns, strict=True):
            for line in rows_of(records):
                some = select(records, line, data=data, shots=shots)
                _thin(
                    axes,
                    [histories[one.run] for one in some if one.run in histories],
                    _colour(methods.index(line.method)),
                )
            for place, method in enumerate(methods):
                _points(axes, _entries(records, method, data, shots), place, method)
            _finish(axes, f"{data}, {shots_words(shots)}")
        row[0].set_ylabel("accuracy")
    figure.suptitle(_CAPTION, fontsize=8)
    handles: dict[str, Any] = {}
    for axes in panels.flat:
        handles |= dict(zip(*reversed(axes.get_legend_handles_labels()), strict=True))
    if handles:
        places = list(handles.values())
        figure.legend(places, list(handles), loc="outside lower center", ncols=5)
    return figure


def mean_curve(
    histories: Sequence[Sequence[Mapping[str, float]]],
) -> tuple[list[float], list[float]]:
    """Queries and mean accuracy over runs, as far as the shortest of them goes."""
    name = next(
        (name for name in SEEN if any(name in row for rows in histories for row in rows)), None
    )
    runs = [[row for row in rows if name in row] for rows in histories] if name else []
    length = min(map(len, runs), default=0)
    steps = range(length) if name else ()
    return (
        [fmean(rows[step]["queries"] for rows in runs) for step in steps],
        [fmean(rows[step][name or ""] for rows in runs) for step in steps],
    )


def _thin(axes: Axes, histories: Sequence[Sequence[Mapping[str, float]]], colour: str) -> None:
    queries, accuracies = mean_curve(histories)
    if queries:
        axes.plot(queries, accuracies, color=colour, linewidth=0.7, alpha=0.4)


def _entries(
    records: Sequence[Record], method: str, data: str, shots: int | str | None
) -> list[tuple[float, float, float]]:
    """Queries, mean accuracy and deviation at each budget that has a result."""
    found = []
    for line in rows_of(records):
        if line.method != method:
            continue
        some = select(records, line, data=data, shots=shots)
        spent = [one.queries for one in some if one.accuracy is not None and one.queries]
        accuracies = [one.accuracy for one in some if one.accuracy is not None]
        if spent:
            spread = stdev(accuracies) if len(accuracies) > 1 else 0.0
            found.append((fmean(spent), fmean(accuracies), spread))
    return sorted(found)


def _points(
    axes: Axes, entries: Sequence[tuple[float, float, float]], place: int, method: str
) -> None:
    if not entries:
        return
    queries, means, spreads = zip(*entries, strict=True)
    axes.errorbar(
        queries,
        means,
        yerr=spreads,
        color=_colour(place),
        label=method,
        linewidth=1.2,
        marker=_MARKERS[place // len(_COLOURS) % len(_MARKERS)],
        markersize=4.5,
        capsize=2,
    )


def _colour(place: int) -> str:
    return _COLOURS[place % len(_COLOURS)]


def _finish(axes: Axes, title: str) -> None:
    axes.set_title(title, fontsize=9)
    axes.set_xlabel("queries")
    axes.set_xscale("log")
    axes.yaxis.set_major_formatter(PercentFormatter(xmax=1, decimals=0))
    axes.grid(visible=True, alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
