"""How sure the answers were against how often they were right.

Owns the bins of the reliability diagram and the expected calibration error (Naeini et al. 2015):
the mean over images of |share right - mean probability| of their bin.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MultipleLocator, PercentFormatter
from numpy.typing import NDArray

from craft_tuner.report.curves import COLOURS, GREY, Panel, panel, style_of
from craft_tuner.report.intervals import Interval, wilson
from craft_tuner.report.read import RunRecord
from craft_tuner.report.table import count, percent, points

BINS = 10
"""Of equal width."""
FEW = 20
"""Fewer images have no interval: resampled, they say nothing."""
_RESAMPLES = 500


@dataclass(frozen=True)
class Bin:
    """Answers with a probability between two tenths."""

    images: int
    right: int
    probability: float
    """Mean of theirs."""

    @property
    def share(self) -> float:
        """Of them that is right."""
        return self.right / self.images


@dataclass(frozen=True)
class Calibration:
    """Of the answers of a run's last way; shares in [0, 1]."""

    images: int
    bins: tuple[Bin, ...]
    """Those with an image."""
    ece: float
    interval: Interval | None
    """Of `ece`: 95 % of resampled test images (percentile bootstrap); None of fewer than `FEW`."""
    probability: float
    """Mean of all answers'."""
    right: int

    @property
    def sentence(self) -> str:
        """The error, and in which direction the answers are off."""
        low, high = wilson(self.right, self.images)
        gap = self.right / self.images - self.probability
        if self.probability > high:
            found = f"Answers are surer than they are right, by {points(-gap)[1:]} points."
        elif self.probability < low:
            found = f"Answers are more often right than they are sure, by {points(gap)[1:]} points."
        else:
            found = "Mean probability and accuracy differ by no more than so few images explain."
        ends = "too few images for an interval"
        if self.interval:
            ends = "95% bootstrap interval {} to {}".format(*(percent(x, 1) for x in self.interval))
        return (
            f"ECE {percent(self.ece, 1)} in {BINS} bins ({ends}). {found} "
            "On few images ECE is above 0 even where probabilities are right."
        )


Drawn = tuple[int, str, Calibration]
"""A run among those of a page: its place, its name, and what was found."""


def calibration(run: RunRecord) -> Calibration | None:
    """Of a run's predictions; None where no probability is kept."""
    answered = [
        (line.probability, getattr(line, run.final or "") == line.label)
        for line in run.predictions
        if run.final and line.probability is not None and 0 <= line.probability <= 1
    ]
    if not answered:
        return None
    chance = np.array([each[0] for each in answered], np.float64)
    right = np.array([each[1] for each in answered], np.float64)
    place = np.minimum((chance * BINS).astype(np.int64), BINS - 1)
    return Calibration(
        images=len(chance),
        bins=tuple(_bins(chance, right, place)),
        ece=_ece(chance, right, place),
        interval=_bootstrap(chance, right, place) if len(chance) >= FEW else None,
        probability=float(chance.mean()),
        right=int(right.sum()),
    )


def diagram(found: Sequence[Drawn]) -> Panel:
    """The reliability diagram of one run, with intervals, or of several, without."""
    spoken = "; ".join(
        f"{name}: "
        + ", ".join(
            f"{count(each.images)} images {percent(each.probability, 0)} sure and "
            f"{percent(each.share, 0)} right"
            for each in calibrated.bins
        )
        for _, name, calibrated in found
    )
    return panel("Reliability diagram", f"share right by probability. {spoken}.", _draw, found)


def _ece(
    chance: NDArray[np.float64], right: NDArray[np.float64], place: NDArray[np.int64]
) -> float:
    gaps = np.bincount(place, right - chance, minlength=BINS)
    return float(np.abs(gaps).sum() / len(chance))


def _bootstrap(
    chance: NDArray[np.float64], right: NDArray[np.float64], place: NDArray[np.int64]
) -> Interval:
    draw = np.random.RandomState(1)
    rows = (draw.randint(0, len(chance), len(chance)) for _ in range(_RESAMPLES))
    tried = [_ece(chance[each], right[each], place[each]) for each in rows]
    low, high = np.percentile(tried, [2.5, 97.5])
    return Interval(float(low), float(high))


def _bins(
    chance: NDArray[np.float64], right: NDArray[np.float64], place: NDArray[np.int64]
) -> Sequence[Bin]:
    return [
        Bin(int(mine.sum()), int(right[mine].sum()), float(chance[mine].mean()))
        for mine in (place == index for index in range(BINS))
        if mine.any()
    ]


def _draw(axes: Axes, found: Sequence[Drawn]) -> None:
    axes.plot([0, 1], [0, 1], ls="--", lw=1, color=GREY, label="as sure as right")
    for index, _, each in found:
        colour, dash = style_of(index)
        sure, shares = zip(*((one.probability, one.share) for one in each.bins), strict=True)
        if len(found) > 1:
            axes.plot(sure, shares, dash, marker="o", ms=4, color=colour, lw=1.4)
        else:
            _with_intervals(axes, each.bins)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(MultipleLocator(0.2))
        axis.set_major_formatter(PercentFormatter(xmax=1, decimals=0))
    axes.set(xlim=(-0.03, 1.03), ylim=(-0.03, 1.03), xlabel="probability", ylabel="right")
    axes.grid(visible=True)
    axes.legend(fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.2), ncols=2)


def _with_intervals(axes: Axes, bins: Sequence[Bin]) -> None:
    sure, shares = [one.probability for one in bins], np.array([one.share for one in bins])
    reach = np.abs(np.array([wilson(one.right, one.images) for one in bins]).T - shares)
    axes.errorbar(sure, shares, reach, fmt="none", ecolor=COLOURS[0], elinewidth=1, capsize=2)
    most = max(one.images for one in bins)
    sizes = [16 + 90 * one.images / most for one in bins]
    axes.scatter(sure, shares, sizes, color=COLOURS[0], label="answers (larger: more), Wilson")
