"""Pictures of runs: losses and accuracies against queries spent.

Owns what is drawn and how. Needs no display.
"""

import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from craft_tuner.runs.diagnostics import BY_PROMPTS

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

_MARKS = ("o", "s", "^", "D")

_GREY = "#767f8a"
_LOSSES = {
    "fitness_lowest": ("fitness, best of the run", COLOURS[0], "-"),
    "fitness_best": ("fitness, best of the generation", COLOURS[0], ":"),
    "head_loss": ("loss of the head", COLOURS[1], "-"),
}
_ACCURACIES = {
    "heldout_accuracy": ("held-out shots (fold heads) or validation images", COLOURS[0], "-"),
    "head_accuracy": ("shots, with head", COLOURS[1], "--"),
    "prompt_accuracy": ("shots, prompt alone", _GREY, ":"),
}
"""Label, colour and style of each number drawn."""

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

    @property
    def by_prompts(self) -> list[tuple[int, float]]:
        """Prompts per image and the held-out accuracy of a bank's head on so many."""
        return sorted(
            (int(name.removeprefix(BY_PROMPTS)), value)
            for name, value in (self.rows[-1] if self.rows else {}).items()
            if name.startswith(BY_PROMPTS)
        )


@dataclass(frozen=True)
class Panel:
    """One picture: its title, and what it shows, in words."""

    title: str
    words: str
    figure: Figure


def draw(curve: Curve) -> Figure:
    """Both panels of one run side by side."""
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(2 * _WIDTH, _HEIGHT), layout="constrained")
        left, right = figure.subplots(1, 2)
        _accuracies(left, curve)
        _losses(right, curve)
    return figure


def panels(curves: Sequence[Curve]) -> Iterator[Panel]:
    """The pictures of a page, each a figure of its own: two of one run, three that compare runs.

    One more where a bank says what fewer prompts an image would give. Runs that are compared have
    no legend: run i has colour i % 8 and dash i // 8.
    """
    yield from _by_queries(curves)
    spoken = [f"{curve.name}: {said}" for curve in curves if (said := _prompts_in_words(curve))]
    if spoken:
        words = f"held-out accuracy by prompts per image. {'; '.join(spoken)}."
        yield _panel("Held-out accuracy against prompts per image", words, _prompts, curves)


def _by_queries(curves: Sequence[Curve]) -> Iterator[Panel]:
    if len(curves) == 1:
        [curve] = curves
        yield _panel("Loss", _words(curves, "fitness_lowest", "lowest loss"), _losses, curve)
        words = _words(curves, "heldout_accuracy", "held-out accuracy")
        yield _panel("Accuracy on the shots", words, _accuracies, curve)
        return
    words = _words(curves, "fitness_lowest", "lowest loss")
    yield _panel("Loss, best so far", words, _compared, curves, "fitness_lowest")
    words = _words(curves, "heldout_accuracy", "held-out accuracy")
    yield _panel("Held-out accuracy on the shots", words, _compared, curves, "heldout_accuracy")
    tests = [
        f"{curve.name}: {curve.final:.1%} after {curve.queries:,}"
        for curve in curves
        if curve.final is not None and curve.queries is not None
    ]
    words = f"test accuracy against queries. {'; '.join(tests) or 'Nothing was tested'}."
    yield _panel("Test accuracy against queries", words, _tests, curves)


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


def _panel(title: str, words: str, draw_on: Any, *what: Any) -> Panel:
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(_WIDTH, _HEIGHT), layout="constrained")
        draw_on(figure.subplots(), *what)
    return Panel(title, words, figure)


def _losses(axes: Axes, curve: Curve) -> None:
    _numbers(axes, curve.rows, _LOSSES)
    _finish(axes, "loss, nats")


def _accuracies(axes: Axes, curve: Curve) -> None:
    _numbers(axes, curve.rows, _ACCURACIES)
    for value, label, colour in (
        (curve.zero_shot, "test, zero-shot", _GREY),
        (curve.final, "test, at the end", COLOURS[2]),
    ):
        if value is not None:
            axes.axhline(value, color=colour, lw=1, ls="-.", label=f"{label} {value:.1%}")
    _finish(axes, "accuracy", share=True)


def _compared(axes: Axes, curves: Sequence[Curve], number: str) -> None:
    for index, curve in enumerate(curves):
        colour, dash = style_of(index)
        _numbers(axes, curve.rows, {number: ("_", colour, dash)})
    _finish(axes, "loss, nats" if number == "fitness_lowest" else "accuracy", share="acc" in number)


def _tests(axes: Axes, curves: Sequence[Curve]) -> None:
    levels = sorted({curve.zero_shot for curve in curves if curve.zero_shot is not None})
    for level in levels:
        axes.axhline(level, color=_GREY, lw=1, ls="-.")
    if levels:
        axes.text(
            0.01,
            levels[-1],
            "zero-shot",
            transform=axes.get_yaxis_transform(),
            va="bottom",
            color=INK,
            fontsize=8,
        )
    for index, curve in enumerate(curves):
        if curve.final is not None and curve.queries is not None:
            mark = _MARKS[index // len(COLOURS) % len(_MARKS)]
            axes.plot(curve.queries, curve.final, mark, ms=7, color=style_of(index)[0])
    axes.set_xlim(left=0)
    _finish(axes, "accuracy", share=True)


def _prompts(axes: Axes, curves: Sequence[Curve]) -> None:
    for index, curve in enumerate(curves):
        colour, dash = style_of(index)
        if points := curve.by_prompts:
            axes.plot(*zip(*points, strict=True), dash, marker="o", ms=4, color=colour, lw=1.4)
    axes.set_xlim(left=0)
    _finish(axes, "accuracy", share=True, x="prompts per image")


def _prompts_in_words(curve: Curve) -> str:
    return ", ".join(f"{accuracy:.1%} with {count}" for count, accuracy in curve.by_prompts)


def _numbers(
    axes: Axes, rows: Sequence[Mapping[str, float]], styles: Mapping[str, tuple[str, str, str]]
) -> None:
    for name, (label, colour, dash) in styles.items():
        points = [(row["queries"], row[name]) for row in rows if name in row]
        if points:
            axes.plot(*zip(*points, strict=True), dash, color=colour, label=label, lw=1.4)


def _finish(axes: Axes, y: str, *, share: bool = False, x: str = "queries spent") -> None:
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.grid(visible=True)
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    axes.xaxis.set_major_formatter("{x:,.0f}")
    if share:
        axes.yaxis.set_major_formatter(PercentFormatter(xmax=1, decimals=0))
    if axes.get_legend_handles_labels()[0]:
        axes.legend(fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.2), ncols=2)


def _words(curves: Sequence[Curve], number: str, what: str) -> str:
    """First and last value of each run, for those who cannot see the picture."""
    found = []
    for curve in curves:
        values = [row[number] for row in curve.rows if number in row]
        if values:
            found.append(f"{curve.name}: {values[0]:.3f} to {values[-1]:.3f}")
    return f"{what} against queries spent. {'; '.join(found) or 'No generation was recorded'}."
