"""What a command is doing, for those who wait: named works, one within another.

Code anywhere says `with doing("comparing heads", total=124, unit="fits") as work:` and counts with
`work.advance()`. Who shows it looks from another thread (`craft_tuner.commands.progress`). Where
nobody watches, as in the library, it costs nothing.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field


@dataclass(eq=False)
class Work:
    """Something that takes time, and how much of it is done."""

    words: str
    """As in "still ...": `uploading`."""
    total: int | None = None
    """None: not known."""
    unit: str = "steps"
    """Of `total`, in the plural."""
    started: float = 0.0
    """Seconds of the clock."""
    done: int = 0
    first: int = 0
    """How much was done already when it began."""
    note: str = ""
    """What else is worth saying."""

    def advance(self, more: int = 1) -> None:
        """So much more is done."""
        self.done += more

    def left_s(self, now: float) -> float | None:
        """Seconds that the rest takes at the rate so far; None where that is not known."""
        if self.total is None or self.done <= self.first:
            return None
        return (now - self.started) / (self.done - self.first) * (self.total - self.done)

    def __str__(self) -> str:
        count = "" if self.total is None else f", {self.done:,} of {self.total:,} {self.unit}"
        return self.words + count + (f" ({self.note})" if self.note else "")


@dataclass
class Activity:
    """The works of a command that go on now, the outermost first."""

    clock: Callable[[], float] = time.monotonic
    """Seconds that only go forward."""
    on_idle: Callable[[], None] = lambda: None
    """Called when the last work has ended."""
    at_once: Callable[[], None] = lambda: None
    """Called when one began that is to be said at once."""
    works: list[Work] = field(default_factory=list)
    started: float = field(init=False)

    def __post_init__(self) -> None:
        self.started = self.clock()

    def begin(self, work: Work) -> Work:
        """A work goes on until `end`."""
        work.started = self.clock()
        self.works.append(work)
        return work

    def end(self, *ended: Work | None) -> None:
        """Works are over, if they are not already."""
        self.works[:] = [work for work in self.works if work not in ended]
        if not self.works:
            self.on_idle()

    def __str__(self) -> str:
        """What is done, how much of it, and for how long: `uploading, 3 of 9 images, 35 s`."""
        works = tuple(self.works)
        since = works[0].started if works else self.started
        words = ": ".join(map(str, works)) or "at work"
        return f"{words}, {self.clock() - since:.0f} s"


_WATCHED: ContextVar[Activity | None] = ContextVar("activity", default=None)


@contextmanager
def watching(activity: Activity) -> Iterator[None]:
    """What `doing` says within the block, in this thread, is of this activity."""
    before = _WATCHED.set(activity)
    try:
        yield
    finally:
        _WATCHED.reset(before)


@contextmanager
def doing(
    words: str,
    *,
    total: int | None = None,
    unit: str = "steps",
    done: int = 0,
    at_once: bool = False,
) -> Iterator[Work]:
    """Say what the block does; its work counts how much is done.

    Args:
        words: what, as in "still ...".
        total: how much there is to do.
        unit: of what, in the plural.
        done: how much is done already.
        at_once: whether it is said before it begins: it stops other threads, as imports can.
    """
    work, activity = Work(words, total, unit, done=done, first=done), _WATCHED.get()
    if activity is None:
        yield work
        return
    activity.begin(work)
    if at_once:
        activity.at_once()
    try:
        yield work
    finally:
        activity.end(work)
