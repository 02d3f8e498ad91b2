"""A command as people see it: a live line on a terminal, plain lines elsewhere, on standard error.

Owns words and layout, and that nobody waits for long without a word: a thread looks at what is
being done (`craft_tuner.activity`) and says it where nothing else was said.
"""

import math
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from datetime import timedelta
from typing import Self

from rich.console import Console, Group
from rich.filesize import decimal
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Column, Table
from rich.text import Text

from craft_shared.messages import Budgets, Counters
from craft_tuner.activity import Activity, Work, watching
from craft_tuner.errors import printable
from craft_tuner.methods.base import Progress
from craft_tuner.plan import Plan, left_of, left_words
from craft_tuner.training.traffic import Link, Traffic

PLAIN_LINES = 20
"""About so many lines stand for a whole fit where there is no terminal."""

QUIET_S = 3.0
"""After so long without a word it is said what is being done."""

TICK_S = 0.25
"""How often it is looked whether it is time to, and how often a live line changes."""

_WIDE = 100
"""Columns from which a live line has a bar."""


class Screen:
    """Shows one command's progress; a context manager.

    Args:
        console: where to; `Console(stderr=True)` keeps standard output for results.
        clock: seconds that only go forward.
        since: time of the clock when the command began; None: it begins now.
    """

    def __init__(
        self,
        console: Console,
        *,
        clock: Callable[[], float] = time.monotonic,
        since: float | None = None,
    ) -> None:
        self._console = console
        self._clock = clock
        self._activity = Activity(clock, on_idle=self._hide, at_once=self._say_at_once)
        self._said = self._activity.started = clock() if since is None else since
        self._first: tuple[int, float] | None = None
        self._live: Live | None = None
        self._lock = threading.RLock()

    def __enter__(self) -> Self:
        self._part = self.part()
        self._part.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self._part.__exit__(None, None, None)

    @contextmanager
    def part(self) -> Iterator[None]:
        """What is done within the block is shown here, and over after it."""
        before = tuple(self._activity.works)
        try:
            with watching(self._activity):
                yield
        finally:
            self._activity.end(*(work for work in self._activity.works if work not in before))

    def beat(self) -> None:
        """Show what is being done, if it is time to; any thread may call it at any time.

        On a terminal that is a live line, elsewhere a line after `QUIET_S` seconds without one.
        """
        with self._lock:
            if self._is_lively and self._activity.works:
                self._show()
            elif self._clock() - self._said >= QUIET_S:
                self.say(f"still {self._activity}")

    @property
    def _is_lively(self) -> bool:
        """Whether lines can change; on a terminal without a cursor to move they cannot."""
        return self._console.is_terminal and not self._console.is_dumb_terminal

    def _say_at_once(self) -> None:
        if self._is_lively:
            self.beat()
        else:
            self.say(str(self._activity.works[-1]))

    def _show(self) -> None:
        if self._live is None:
            self._live = Live(
                console=self._console,
                get_renderable=self._works,
                auto_refresh=False,
                transient=True,
                redirect_stdout=sys.stdout.isatty(),
            )
            self._live.start()
        self._live.refresh()

    def _hide(self) -> None:
        with self._lock:
            if self._live is not None:
                self._live.stop()
                self._live = None

    def _works(self) -> Group:
        now, works = self._clock(), tuple(self._activity.works)
        return Group(*(_row(work, now, wide=self._console.width >= _WIDE) for work in works))

    def say(self, sentence: str) -> None:
        """Print a line that stays."""
        self._said = self._clock()
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
        if not self._is_lively:
            self.say(f"uploading {total:,} images (those that the server lacks)")
        return self._counting("uploading", total)

    def reading(self, total: int) -> Callable[[], None]:
        """Show that `total` pictures are read; call the result after each."""
        advance = self._counting("reading", total)
        return lambda: advance(1)

    def _counting(self, words: str, images: int) -> Callable[[int], None]:
        work = self._activity.begin(Work(words, images, "images"))

        def advance(more: int) -> None:
            work.advance(more)
            if work.done >= images:
                self._activity.end(work)

        return advance

    def generation(self, progress: Progress) -> None:
        """Show a finished generation, and its warnings."""
        if self._first is None:
            spent = progress.metrics.get("seconds", 0.0)
            self._first = (progress.generation - 1, self._clock() - spent)
        for warning in progress.warnings:
            self.say(f"warning: {warning}")
        note = f"{_note(progress)}  {self._time_left(progress)}"
        for work in self._activity.works[-1:]:
            work.note = note
        if not self._is_lively and self._is_due(progress):
            self.say(f"generation {progress.generation}/{progress.generations}  {note}")

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
        return f"{_spell(left)} left"


_SCREEN: ContextVar[Screen | None] = ContextVar("screen", default=None)


@contextmanager
def open_screen(*, since: float | None = None) -> Iterator[Screen]:
    """The screen of this command, on standard error; within another it is that one.

    `since` is the time of `time.monotonic` when the command began, if that is not now.
    """
    screen = _SCREEN.get()
    if screen is not None:
        with screen.part():
            yield screen
        return
    over = threading.Event()
    with Screen(Console(stderr=True), since=since) as screen:
        beats = threading.Thread(target=_beat, args=(screen, over), daemon=True)
        token = _SCREEN.set(screen)
        beats.start()
        try:
            yield screen
        finally:
            over.set()
            beats.join()
            _SCREEN.reset(token)


def _beat(screen: Screen, over: threading.Event) -> None:
    with suppress(OSError, ValueError):  # nobody reads standard error any more, or it is closed
        while not over.wait(TICK_S):
            screen.beat()


def _row(work: Work, now: float, *, wide: bool) -> Text | Table:
    """One work as a live line; on a narrow terminal it wraps, and no word is cut."""
    left = work.left_s(now)
    count = f"{work.done:,}/{work.total:,} {work.unit}" if work.total is not None else ""
    spell = f"{_spell(now - work.started)}" if left is None else f"{_spell(left)} left"
    said = "  ".join(filter(None, [count, work.note or spell]))
    if not (wide and work.total):
        return Text(f"{work.words}  {said}", overflow="fold", no_wrap=False)
    grid = Table.grid(Column(), Column(), Column(overflow="fold"), padding=(0, 1))
    grid.add_row(work.words, ProgressBar(total=work.total, completed=work.done, width=24), said)
    return grid


def _spell(seconds: float) -> timedelta:
    return timedelta(seconds=round(seconds))


def _amounts(traffic: Traffic, line: Link) -> Iterator[str]:
    wait = timedelta(seconds=math.ceil(line.round_trip_s * traffic.requests))
    yield (
        f"to send: {traffic.pictures:,} images of about {decimal(traffic.picture_bytes)} (those "
        f"that the server lacks), prompts of {decimal(traffic.prompt_bytes)}"
    )
    smaller = _smaller(traffic) if traffic.dtype == "float32" else ""
    yield f"to receive: logits of {decimal(traffic.logit_bytes)} in {traffic.dtype}{smaller}"
    yield (
        f"a round trip takes {line.round_trip_s * 1000:.0f} ms: {traffic.requests:,} calls wait "
        f"{wait} for the line"
    )


def _smaller(traffic: Traffic) -> str:
    """What makes replies smaller, after those of float32."""
    if not traffic.int16_bytes:
        return "; --dtype float16 halves that"
    if traffic.int16_bytes >= traffic.logit_bytes:
        return ""
    return f"; --dtype int16 makes that {decimal(traffic.int16_bytes)}"


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
        parts.append(f"{'validation' if progress.validated else 'held-out'} {heldout:.1%}")
    left = progress.queries_planned - progress.queries
    parts.append(f"queries {progress.queries:,} spent, {left:,} left")
    return "  ".join(parts)
