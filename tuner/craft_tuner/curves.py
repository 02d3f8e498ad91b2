"""Pictures of a run: accuracy against queries, losses against generations.

Owns what is drawn and how. Needs no display; must not know run directories or HTML.
"""

import io
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

INK = "#5b6470"
"""Lines and letters of the axes: readable on light and on dark; reports replace it in SVG."""

_LINES = {
    "heldout_accuracy": ("held-out shots (fold heads)", "#0072b2", "-"),
    "head_accuracy": ("shots, with head", "#e69f00", "--"),
    "prompt_accuracy": ("shots, prompt alone", "#8f8f8f", ":"),
    "fitness_best": ("fitness, best of the generation", "#0072b2", ":"),
    "fitness_lowest": ("fitness, best of the run", "#0072b2", "-"),
    "head_loss": ("loss of the head", "#d55e00", "-"),
}
"""Label, colour (of Okabe and Ito's palette) and style of each number drawn."""

_STYLE: Any = {
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "font.size": 9,
    "grid.alpha": 0.25,
    "grid.color": INK,
    "legend.frameon": False,
    "legend.labelcolor": INK,
    "svg.fonttype": "none",
    "svg.hashsalt": "craft-tuner",
    "xtick.color": INK,
    "ytick.color": INK,
}

Rows = Sequence[Mapping[str, float]]
"""Metrics, one mapping per generation."""


def draw(rows: Rows, *, zero_shot: float | None = None, final: float | None = None) -> Figure:
    """Two panels: accuracies against queries spent, fitness and head loss against generations.

    Args:
        rows: metrics of each generation (`craft_tuner.diagnostics.METRICS`).
        zero_shot: test accuracy before, drawn as a level.
        final: test accuracy after, drawn as a level.
    """
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(9, 4), layout="constrained")
        left, right = figure.subplots(1, 2)
        _plot(left, rows, "queries", ("heldout_accuracy", "head_accuracy", "prompt_accuracy"))
        _level(left, zero_shot, "test, zero-shot", "#8f8f8f")
        _level(left, final, "test, at the end", "#009e73")
        left.yaxis.set_major_formatter(PercentFormatter(xmax=1, decimals=0))
        _finish(left, "queries spent", "accuracy")
        _plot(right, rows, "generation", ("fitness_lowest", "fitness_best", "head_loss"))
        _finish(right, "generation", "nats")
    return figure


def render(figure: Figure, kind: str) -> bytes:
    """The figure as `svg` (transparent) or `png` (on white); equal figures give equal bytes."""
    buffer = io.BytesIO()
    with mpl.rc_context(_STYLE):
        if kind == "svg":
            figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
        else:
            figure.savefig(buffer, format="png", dpi=160, facecolor="white")
    return buffer.getvalue()


def _plot(axes: Axes, rows: Rows, x: str, names: Sequence[str]) -> None:
    for name in names:
        points = [(row[x], row[name]) for row in rows if name in row]
        if points:
            label, colour, style = _LINES[name]
            axes.plot(*zip(*points, strict=True), style, color=colour, label=label, linewidth=1.3)


def _level(axes: Axes, value: float | None, label: str, colour: str) -> None:
    if value is not None:
        axes.axhline(value, color=colour, linewidth=1, linestyle="-.", label=f"{label} {value:.1%}")


def _finish(axes: Axes, x: str, y: str) -> None:
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.grid(visible=True)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.18), ncols=2)
