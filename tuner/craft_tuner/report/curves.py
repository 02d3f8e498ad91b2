"""Pictures of runs: losses and accuracies against queries spent.

Owns what is drawn and how. Needs no display.
"""

import io
import math
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from craft_tuner.runs.diagnostics import BY_PROMPTS, HELD_OUT

INK = "#5b6470"
"""Lines and letters of the axes; a page replaces it by the reader's colour."""
COLOURS = (
    "#0072b2",
    "#c44e00",
    "#00795a",
    "#a8437f",
    "#7a5c00",
    "#5b4bb5",
    "#8c2d2d",
    "#4a5560",
)
"""Of curves, at least 4.5 : 1 on white; a page replaces them on dark ground."""
DASHES = ("-", "--", ":", "-.")
"""Each set of eight runs has its own."""

GREY = "#767f8a"
"""Of lines to compare with."""

_MARKS = ("o", "s", "^", "D")

_LOSSES = {
    "fitness_lowest": ("fitness, best of the run", COLOURS[0], "-"),
    "fitness_best": ("fitness, best of the generation", COLOURS[0], ":"),
    "head_loss": ("loss of the head", COLOURS[1], "-"),
}
_ACCURACIES = {
    "heldout_accuracy": ("", COLOURS[0], "-"),
    "head_accuracy": ("shots, with head", COLOURS[1], "--"),
    "prompt_accuracy": ("shots, prompt alone", GREY, ":"),
}
"""Label, colour and style of each number drawn; without a label, that of the curve."""

_STYLE: Any = {
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "font.size": 9,
    "grid.alpha": 0.2,
    "grid.color": INK,
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "legend.labelcolor": INK,
    "svg.fonttype": "none",
    "svg.hashsalt": "craft-tuner",
    "xtick.color": INK,
    "ytick.color": INK,
}

_WIDTH, _HEIGHT = 4.4, 3.4
"""Of a panel in inches."""
SPAN = 0.05
"""Least height of an axis of accuracies."""


@dataclass(frozen=True)
class Curve:
    """What is drawn of one run; accuracies in [0, 1], None where not measured."""

    name: str
    rows: Sequence[Mapping[str, float]]
    """Metrics of each generation (`craft_tuner.runs.diagnostics.METRICS`)."""
    zero_shot: float | None = None
    final: float | None = None
    """Test accuracy at the end."""
    queries: int | None = None
    """That the run spent in all."""
    data: str | None = None
    """What was tested, for people."""
    test_set: Hashable = None
    """Equal for runs whose test accuracies compare."""
    chosen_on: str = HELD_OUT
    """What `heldout_accuracy` was measured on."""

    @property
    def tested(self) -> bool:
        """Whether it has a point among test accuracies."""
        return self.final is not None and self.queries is not None

    def has(self, *numbers: str) -> bool:
        """Whether any of these metrics has a point."""
        return any(self.points(number) for number in numbers)

    def points(self, number: str) -> list[tuple[float, float]]:
        """Queries spent and a metric, where it is finite."""
        return [
            (row["queries"], row[number])
            for row in self.rows
            if math.isfinite(row.get(number, math.nan))
        ]

    @property
    def by_prompts(self) -> list[tuple[int, float]]:
        """Prompts per image and the accuracy of a bank's head on so many, where it chooses."""
        return sorted(
            (int(name.removeprefix(BY_PROMPTS)), value)
            for name, value in (self.rows[-1] if self.rows else {}).items()
            if name.startswith(BY_PROMPTS) and math.isfinite(value)
        )


@dataclass(frozen=True)
class Panel:
    """One picture: its title, and what it shows, in words."""

    title: str
    words: str
    figure: Figure


def draw(curve: Curve) -> Figure | None:
    """What there is of one run, side by side; None where nothing is."""
    drawn = [draw_on for draw_on, numbers in _OF_ONE if curve.has(*numbers)]
    if not drawn:
        return None
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(len(drawn) * _WIDTH, _HEIGHT), layout="constrained")
        for axes, draw_on in zip(
            figure.subplots(1, len(drawn), squeeze=False)[0], drawn, strict=True
        ):
            draw_on(axes, curve)
    return figure


def panels(curves: Sequence[Curve]) -> Iterator[Panel]:
    """The pictures of a page, each a figure of its own; one without a point is left out.

    Runs that are compared have no legend: run i has colour i % 8 and dash i // 8. Test accuracies
    stand in one picture only if they were measured on the same test set.
    """
    yield from _of_one(curves[0]) if len(curves) == 1 else _side_by_side(curves)
    spoken = [f"{curve.name}: {said}" for curve in curves if (said := _prompts_in_words(curve))]
    if spoken:
        what = _chosen_on(curves)
        words = f"accuracy on {what} by prompts per image. {'; '.join(spoken)}."
        yield panel(f"Accuracy on {what} against prompts per image", words, _prompts, curves)


def _of_one(curve: Curve) -> Iterator[Panel]:
    if curve.has(*_LOSSES):
        words = _words([curve], "fitness_lowest", "lowest loss")
        yield panel("Loss", words, _losses, curve)
    if curve.has(*_ACCURACIES):
        what = _chosen_on([curve])
        words = _words([curve], "heldout_accuracy", f"accuracy on {what}")
        title = "Accuracy on the shots" if what == HELD_OUT else f"Accuracy on shots and {what}"
        yield panel(title, words, _accuracies, curve)


def _chosen_on(curves: Sequence[Curve]) -> str:
    """What choices were made on, of curves that have points of it."""
    return " or ".join(
        dict.fromkeys(c.chosen_on for c in curves if c.has("heldout_accuracy") or c.by_prompts)
    )


def _side_by_side(curves: Sequence[Curve]) -> Iterator[Panel]:
    what = f"accuracy on {_chosen_on(curves)}"
    for number, title, spoken in (
        ("fitness_lowest", "Loss, best so far", "lowest loss"),
        ("heldout_accuracy", what.capitalize(), what),
    ):
        if any(curve.has(number) for curve in curves):
            yield panel(title, _words(curves, number, spoken), _compared, curves, number)
    groups = list(dict.fromkeys(curve.test_set for curve in curves if curve.tested))
    for group in groups:
        mine = [
            (index, curve)
            for index, curve in enumerate(curves)
            if curve.tested and curve.test_set == group
        ]
        said = (f"{each.name}: {each.final:.1%} after {each.queries:,}" for _, each in mine)
        words = f"test accuracy against queries. {'; '.join(said)}."
        on = f", {mine[0][1].data}" if len(groups) > 1 else ""
        yield panel(f"Test accuracy against queries{on}", words, _tests, mine)


def render(figure: Figure, kind: str) -> bytes:
    """The figure as `svg` (transparent) or `png` (on white); equal figures give equal bytes."""
    buffer = io.BytesIO()
    with mpl.rc_context(_STYLE):
        if kind == "svg":
            figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
        else:
            figure.savefig(buffer, format="png", dpi=160, facecolor="white")
    return buffer.getvalue()


def style_of(index: int) -> tuple[str, str]:
    """Colour and dash of a run among several."""
    return COLOURS[index % len(COLOURS)], DASHES[index // len(COLOURS) % len(DASHES)]


def panel(title: str, words: str, draw_on: Any, *what: Any) -> Panel:
    """A picture that `draw_on(axes, *what)` draws."""
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(_WIDTH, _HEIGHT), layout="constrained")
        draw_on(figure.subplots(), *what)
    return Panel(title, words, figure)


def _losses(axes: Axes, curve: Curve) -> None:
    _numbers(axes, curve, _LOSSES)
    _finish(axes, "loss, nats")


def _accuracies(axes: Axes, curve: Curve) -> None:
    _numbers(axes, curve, _ACCURACIES)
    for value, label, colour in (
        (curve.zero_shot, "test, zero-shot", GREY),
        (curve.final, "test, at the end", COLOURS[2]),
    ):
        if value is not None:
            axes.axhline(value, color=colour, lw=1, ls="-.", label=f"{label} {value:.1%}")
    _finish(axes, "accuracy", share=True)


_OF_ONE: Sequence[tuple[Callable[[Axes, Curve], None], Mapping[str, Any]]] = (
    (_accuracies, _ACCURACIES),
    (_losses, _LOSSES),
)
"""Pictures of one run, and the metrics that they need one of."""


def _compared(axes: Axes, curves: Sequence[Curve], number: str) -> None:
    for index, curve in enumerate(curves):
        colour, dash = style_of(index)
        _numbers(axes, curve, {number: ("_", colour, dash)})
    _finish(axes, "loss, nats" if number == "fitness_lowest" else "accuracy", share="acc" in number)


def _tests(axes: Axes, curves: Sequence[tuple[int, Curve]]) -> None:
    levels = sorted({curve.zero_shot for _, curve in curves if curve.zero_shot is not None})
    for level in levels:
        axes.axhline(level, color=GREY, lw=1, ls="-.")
    if levels:
        place: Any = {"transform": axes.get_yaxis_transform(), "va": "bottom"}
        axes.text(0.01, levels[-1], "zero-shot", color=INK, fontsize=8, **place)
    for index, curve in curves:
        mark = _MARKS[index // len(COLOURS) % len(_MARKS)]
        axes.plot(curve.queries or 0, curve.final or 0, mark, ms=7, color=style_of(index)[0])
    _finish(axes, "accuracy", share=True)


def _prompts(axes: Axes, curves: Sequence[Curve]) -> None:
    for index, curve in enumerate(curves):
        colour, dash = style_of(index)
        if points := curve.by_prompts:
            axes.plot(*zip(*points, strict=True), dash, marker="o", ms=4, color=colour, lw=1.4)
    _finish(axes, "accuracy", share=True, x="prompts per image")


def _prompts_in_words(curve: Curve) -> str:
    return ", ".join(f"{accuracy:.1%} with {count}" for count, accuracy in curve.by_prompts)


def _numbers(axes: Axes, curve: Curve, styles: Mapping[str, tuple[str, str, str]]) -> None:
    for name, (label, colour, dash) in styles.items():
        if points := curve.points(name):
            mark = "o" if len(points) == 1 else ""
            x, y = zip(*points, strict=True)
            axes.plot(x, y, dash, marker=mark, color=colour, label=label or curve.chosen_on, lw=1.4)


def _finish(axes: Axes, y: str, *, share: bool = False, x: str = "queries spent") -> None:
    """Name and number the axes: from 0 queries on, never so near that two numbers read alike."""
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.grid(visible=True)
    axes.set_xlim(0, max(1, axes.get_xlim()[1]))
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.yaxis.set_major_locator(MaxNLocator(5))
    if share:
        low, high = axes.get_ylim()
        wider = max(0.0, SPAN - (high - low)) / 2
        axes.set_ylim(max(-0.02, low - wider), min(1.02, high + wider))
        axes.yaxis.set_major_formatter(PercentFormatter(xmax=1))
    else:
        axes.ticklabel_format(axis="y", useOffset=False)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.2), ncols=2)


def _words(curves: Sequence[Curve], number: str, what: str) -> str:
    """First and last value of each run, for those who cannot see the picture."""
    found = []
    for curve in curves:
        values = [value for _, value in curve.points(number)]
        if values:
            first, last = f"{values[0]:.3f}", f"{values[-1]:.3f}"
            found.append(f"{curve.name}: {first}" + (f" to {last}" if len(values) > 1 else ""))
    return f"{what} against queries spent. {'; '.join(found) or 'none'}."
