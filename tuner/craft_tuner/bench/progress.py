"""A bench as people see it: one live line on a terminal, plain lines elsewhere.

Owns words and layout.
"""

import time
from collections.abc import Callable
from datetime import timedelta
from typing import Self

from rich.console import Console
from rich.progress import Progress

from craft_tuner.commands.progress import columns_for
from craft_tuner.errors import printable

PLAIN_EVERY_S = 60.0
"""Where there is no terminal, a line is said so often though no cell ended."""


class BenchProgress:
    """Cells done, failed and left, queries, and how long it may take; a context manager.

    Args:
        console: where to.
        cells: how many are to be done.
        queries: what they still cost, all together.
        clock: seconds that only go forward.
    """

    def __init__(
        self,
        console: Console,
        *,
        cells: int,
        queries: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._console, self._clock = console, clock
        self._cells, self._queries = cells, queries
        self._started = self._said = clock()
        self.done = self.failed = 0
        self._bars = Progress(
            *columns_for(console),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._task = self._bars.add_task("cells", total=cells, note="")

    def __enter__(self) -> Self:
        self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bars.stop()

    def ended(self, name: str, how: str, *, spent: int, failed: bool) -> None:
        """A cell ended; `spent` are the queries of all cells since the bench was started."""
        self.done, self.failed = self.done + (not failed), self.failed + failed
        if self._console.is_terminal:
            self._say(f"{name}: {how}")
        self._show(spent, plain=f"{name}: {how}; ")

    def tick(self, spent: int) -> None:
        """Time went by."""
        due = self._clock() - self._said >= PLAIN_EVERY_S
        self._show(spent, plain="" if due else None)

    def _show(self, spent: int, *, plain: str | None) -> None:
        note = self._note(spent)
        if self._console.is_terminal:
            self._bars.update(self._task, completed=self.done + self.failed, note=note)
        elif plain is not None:
            self._said = self._clock()
            self._say(f"{plain}cells {self.done + self.failed}/{self._cells}  {note}")

    def _note(self, spent: int) -> str:
        left = self._cells - self.done - self.failed
        failed = f"{self.failed} failed, " if self.failed else ""
        return (
            f"{self.done} done, {failed}{left} left  queries {spent:,}/{self._queries:,}"
            f"{self._time_left(spent)}"
        )

    def _time_left(self, spent: int) -> str:
        if not spent or spent >= self._queries:
            return ""
        seconds = (self._clock() - self._started) / spent * (self._queries - spent)
        return f"  about {timedelta(seconds=round(seconds))} left"

    def _say(self, sentence: str) -> None:
        self._console.print(printable(sentence), markup=False, highlight=False, soft_wrap=True)
