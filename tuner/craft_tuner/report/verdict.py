"""What a run came to, in one sentence: gained, made worse, did not help, or cannot be told.

Owns the sentence that stands at the head of the page, report.md, the model card and at the end of a
fit, and the numbers behind it. It rests on test images alone, answered by zero-shot and by the
adapter; an interval that few images leave wide is said as such.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from craft_tuner.report import intervals
from craft_tuner.report.comparison import state
from craft_tuner.report.intervals import Interval
from craft_tuner.report.read import RunRecord, read_run
from craft_tuner.report.table import count, percent, points

NEGLIGIBLE = 0.02
"""A gain whose interval ends below this share did not help."""
SURE = 0.05
"""Largest p of McNemar's exact test at which a difference counts."""

Kind = Literal[
    "gained", "made_worse", "did_not_help", "cannot_be_told", "alone", "not_tested", "not_finished"
]


@dataclass(frozen=True)
class Difference:
    """How two ways of answering differ on the same images; shares in [-1, 1]."""

    points: float
    low: float
    high: float
    interval: str
    """Name of the interval."""
    gained: int | None = None
    """Images that only the second way has right; None where answers are not kept."""
    lost: int | None = None
    p: float | None = None
    """Of McNemar's exact test."""

    @property
    def sign(self) -> int:
        """1 or -1 where interval and test agree that there is a difference, else 0."""
        if self.p is not None and self.p > SURE:
            return 0
        return int(self.low > 0) - int(self.high < 0)

    @property
    def words(self) -> str:
        """Points with their interval, and the test where it says otherwise than the interval."""
        apart = (self.low > 0 or self.high < 0) and not self.sign
        tested = f", but p = {self.p:.2g} by McNemar's exact test" if apart else ""
        return f"{points(self.points)} points, 95% interval {spoken(self)}{tested}"


@dataclass(frozen=True)
class Verdict:
    """The sentence and what it rests on; None where not measured."""

    kind: Kind
    sentence: str
    images: int = 0
    """Test images."""
    zero_shot: float | None = None
    accuracy: float | None = None
    """Of the run's last way."""
    held_out: float | None = None
    """Accuracy on images that choices are made on."""
    seen: str | None = None
    """What that is worth, in a sentence."""
    difference: Difference | None = None
    """The last way against zero-shot."""
    prompt_alone: str | None = None
    """What is to be said where the prompt without its head does better."""


def verdict_of(path: Path) -> str:
    """The sentence of a run directory, finished or not.

    Raises:
        RunError: it holds no run, or a damaged one.
    """
    return verdict(read_run(path)).sentence


def verdict(run: RunRecord) -> Verdict:
    """What came of a run."""
    score = run.score(run.final or "")
    if score is None or not score["images"]:
        return _untested(run)
    found = Verdict(
        "alone",
        "",
        images=score["images"],
        zero_shot=run.accuracy("zero_shot"),
        accuracy=run.accuracy(run.final),
        held_out=run.held_out,
        seen=_seen(run),
        prompt_alone=_prompt_alone(run),
    )
    change = difference(run, "zero_shot", "adapted")
    if change is None:
        return replace(found, sentence=_alone(run, found))
    kind = _kind(change)
    return replace(found, kind=kind, difference=change, sentence=_sentence(kind, found, change))


def difference(run: RunRecord, before: str, after: str) -> Difference | None:
    """The second way against the first, paired where predictions are kept; None: not measured."""
    old, new = run.score(before), run.score(after)
    if not (old and new and new["images"]):
        return None
    change, images = (new["correct"] - old["correct"]) / new["images"], new["images"]
    asked = [line for line in run.predictions if getattr(line, before) and getattr(line, after)]
    if len(asked) != images or old["images"] != images:
        limits = intervals.unpaired(old["correct"], new["correct"], images)
        return Difference(change, *limits, intervals.UNPAIRED)
    rights = [(getattr(x, before) == x.label, getattr(x, after) == x.label) for x in asked]
    gained, lost = rights.count((False, True)), rights.count((True, False))
    return Difference(
        (gained - lost) / images,
        *intervals.paired(gained, lost, images),
        intervals.PAIRED,
        gained,
        lost,
        intervals.mcnemar(gained, lost),
    )


def spoken(limits: Difference | Interval) -> str:
    """Both ends of a difference's interval in points."""
    return f"{points(limits.low)} to {points(limits.high)}"


def _kind(change: Difference) -> Kind:
    if change.sign:
        return "gained" if change.sign > 0 else "made_worse"
    return "did_not_help" if change.high <= NEGLIGIBLE else "cannot_be_told"


def _sentence(kind: Kind, found: Verdict, change: Difference) -> str:
    tested = images_in_words(found.images)
    now, before = percent(found.accuracy, 1), percent(found.zero_shot, 1)
    amount = f"{now} of {tested} right, {before} by zero-shot: {change.words}"
    return {
        "gained": f"Gained: {amount}.",
        "made_worse": f"Made worse: {amount}; zero-shot is the better choice here.",
        "did_not_help": f"Did not help: {amount}.",
        "cannot_be_told": f"Cannot be told with {tested}: {now} right, {before} by zero-shot, "
        f"{change.words}; more test images would tell.",
    }[kind]


def _alone(run: RunRecord, found: Verdict) -> str:
    score = run.score(run.final or "") or {}
    low, high = intervals.wilson(score["correct"], score["images"])
    what = f"{percent(found.accuracy, 1)} of {images_in_words(found.images)} right"
    interval = f"95% interval {percent(low, 1)} to {percent(high, 1)}"
    if run.final == "zero_shot":
        return f"Zero-shot, nothing was learnt: {what}, {interval}."
    return f"{what}, {interval}; what was gained is not known, as zero-shot was not tested."


def _untested(run: RunRecord) -> Verdict:
    held_out, seen = run.held_out, _seen(run)
    hint = f" {seen}" if seen else ""
    if run.finished:
        said = f"Cannot be told: there are no test images, so nothing was measured.{hint}"
        return Verdict("not_tested", said, held_out=held_out, seen=seen)
    said = f"Not finished: {state(run)}; nothing is tested yet.{hint}"
    return Verdict("not_finished", said, held_out=held_out, seen=seen)


def _seen(run: RunRecord) -> str | None:
    if run.held_out is None:
        return None
    return (
        f"On {run.chosen_on} {percent(run.held_out, 1)} were right; the fit made choices by them, "
        "so this may be too high."
    )


def _prompt_alone(run: RunRecord) -> str | None:
    """Said where the prompt without its head has more images right."""
    change = difference(run, "adapted", "prompt_only")
    if change is None or change.points <= 0:
        return None
    both = (
        f"{percent(run.accuracy('prompt_only'), 1)} against {percent(run.accuracy('adapted'), 1)}: "
        f"{change.words}"
    )
    if change.sign > 0:
        return f"The prompt alone is better than prompt + head, {both}."
    return (
        f"The prompt alone did better than prompt + head on these images, {both}, which so few "
        "cannot prove."
    )


def images_in_words(images: int) -> str:
    """1 test image, 1,234 test images."""
    return f"{count(images)} test image{'s' if images != 1 else ''}"
