"""A fit as people see it: a live line on a terminal, plain lines elsewhere, all on standard error.

Owns words and layout.
"""

import math
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Self

from rich.console import Console
from rich.filesize import decimal
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    ProgressColumn,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)
from rich.progress import Progress as Bars
from rich.table import Column

from craft_shared.messages import Budgets, Counters
from craft_tuner.errors import printable
from craft_tuner.methods.base import Progress
from craft_tuner.plan import Plan, left_of, left_words
from craft_tuner.training.traffic import Link, Traffic

PLAIN_LINES = 20
"""About so many lines stand for a whole fit where there is no terminal."""


def columns_for(console: Console) -> list[ProgressColumn]:
    """A bar's description, length, count and note; no label is cut on a narrow terminal."""
    return [
        TextColumn("{task.description}"),
        BarColumn(bar_width=24 if console.width >= 100 else 4),
        MofNCompleteColumn(),
        TextColumn("{task.fields[note]}", table_column=Column()),  # wraps, so others need not
    ]


class Screen:
    """Shows one command's progress; a context manager.

    Args:
        console: where to; `Console(stderr=True)` keeps standard output for results.
        clock: seconds that only go forward.
    """

    def __init__(self, console: Console, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._console = console
        self._clock = clock
        self._bars = Bars(
            *columns_for(console),
            TimeRemainingColumn(),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._search: TaskID | None = None
        self._first: tuple[int, float] | None = None

    def __enter__(self) -> Self:
        self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bars.stop()

    def say(self, sentence: str) -> None:
        """Print a line that stays."""
        self._console.print(printable(sentence), markup=False, highlight=False, soft_wrap=True)

    def plan(self, plan: Plan, budgets: Budgets, ahead: Counters) -> None:
        """Show what the run will spend, of what, and what will be left."""
        left = left_of(budgets)
        after = {name: value - getattr(ahead, name) for name, value in left.items()}
        self.say(plan.table())
        self.say(f"the key has {left_words(left)} left")
        if min(after.values()) >= 0:
            self.say(f"after this run: {left_words(after)}")
        else:
            self.say("that is less than this run still costs: the server will stop it")

    def traffic(self, traffic: Traffic, line: Link) -> None:
        """Show what will go over the line; how long it takes, once the rate is known."""
        if line.bytes_per_s is None:
            for sentence in _amounts(traffic, line):
                self.say(sentence)
        else:
            self.say(times(traffic, line.bytes_per_s))

    def uploading(self, total: int) -> Callable[[int], None]:
        """Show an upload of `total` pictures; call the result with how many more are done."""
        task = self._bars.add_task("upload", total=total, note="images")
        if not self._console.is_terminal:
            self.say(f"uploading {total:,} images (those that the server lacks)")

        def advance(done: int) -> None:
            self._bars.advance(task, done)

        return advance

    def reading(self, total: int) -> Callable[[], None]:
        """Show that `total` pictures are read; call the result after each."""
        task = self._bars.add_task("read", total=total, note="images")
        return lambda: self._bars.advance(task)

    def generation(self, progress: Progress) -> None:
        """Show a finished generation, and its warnings."""
        if self._first is None:
            spent = progress.metrics.get("seconds", 0.0)
            self._first = (progress.generation - 1, self._clock() - spent)
            self._search = self._bars.add_task("fit", total=progress.generations, note="")
        for warning in progress.warnings:
            self.say(f"warning: {warning}")
        if self._console.is_terminal and self._search is not None:
            self._bars.update(self._search, completed=progress.generation, note=_note(progress))
        elif self._is_due(progress):
            count = f"generation {progress.generation}/{progress.generations}"
            self.say(f"{count}  {_note(progress)}  {self._time_left(progress)}")

    def testing(self, images: int) -> None:
        """Say that the final test begins."""
        self.say(f"the adapter is saved; testing it on {images:,} images")

    def _is_due(self, progress: Progress) -> bool:
        every = max(1, progress.generations // PLAIN_LINES)
        ends = progress.generation in {1, progress.generations}
        return ends or progress.generation % every == 0

    def _time_left(self, progress: Progress) -> str:
        start, since = self._first or (0, self._clock())
        done = progress.generation - start
        left = (self._clock() - since) / done * (progress.generations - progress.generation)
        return f"{timedelta(seconds=round(left))} left"


def _amounts(traffic: Traffic, line: Link) -> Iterator[str]:
    wait = timedelta(seconds=math.ceil(line.round_trip_s * traffic.requests))
    yield (
        f"to send: {traffic.pictures:,} images of about {decimal(traffic.picture_bytes)} (those "
        f"that the server lacks), prompts of {decimal(traffic.prompt_bytes)}"
    )
    half = "; --dtype float16 halves that" if traffic.dtype == "float32" else ""
    yield f"to receive: logits of {decimal(traffic.logit_bytes)} in {traffic.dtype}{half}"
    yield (
        f"a round trip takes {line.round_trip_s * 1000:.0f} ms: {traffic.requests:,} calls wait "
        f"{wait} for the line"
    )


def times(traffic: Traffic, rate: float) -> str:
    """How long all of it takes on a line of so many bytes a second."""
    up, down = (
        timedelta(seconds=math.ceil(size / rate))
        for size in (traffic.picture_bytes + traffic.prompt_bytes, traffic.logit_bytes)
    )
    return (
        f"the line takes {decimal(round(rate))}/s: about {up} to send all, {down} to receive if "
        "replies come as fast as images go"
    )


def _note(progress: Progress) -> str:
    """Loss, held-out accuracy, queries: what decides whether to wait."""
    parts = []
    if "fitness_lowest" in progress.metrics:
        parts.append(f"loss {progress.metrics['fitness_lowest']:.4f}")
    heldout = progress.metrics.get("heldout_accuracy")
    if heldout is not None:
        parts.append(f"held-out {heldout:.1%}")
    left = progress.queries_planned - progress.queries
    parts.append(f"queries {progress.queries:,} spent, {left:,} left")
    return "  ".join(parts)
