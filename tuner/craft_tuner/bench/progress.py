"""A bench as people see it: a line for each cell, and how all stand in between.

Owns words, and the estimate of the time left.
"""

import time
from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Mapping
from datetime import timedelta
from statistics import mean

from craft_tuner.activity import Work

Say = Callable[[str], None]


class BenchProgress:
    """Cells done, failed and left, queries, and how long it may take.

    Args:
        say: prints a line.
        work: counts the cells.
        kinds: what each cell is, by name: cells of one kind take as long.
        queries: what they still cost, all together.
        clock: seconds that only go forward.
    """

    def __init__(
        self,
        say: Say,
        work: Work,
        kinds: Mapping[str, Hashable],
        *,
        queries: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._say, self._work, self._queries = say, work, queries
        self._clock, self._started = clock, clock()
        self._kinds, self._left = kinds, Counter(kinds.values())
        self._took: dict[Hashable, list[float]] = defaultdict(list)
        self._done = self._failed = 0

    def ended(self, name: str, how: str, *, spent: int, seconds: float | None) -> None:
        """A cell ended.

        Args:
            name: of the cell.
            how: what became of it, for people.
            spent: queries of all cells since the bench was started.
            seconds: that it took; None: it failed.
        """
        self._left[self._kinds[name]] -= 1
        self._work.advance()
        if seconds is None:
            self._failed += 1
        else:
            self._done += 1
            self._took[self._kinds[name]].append(seconds)
        self.tick(spent)
        self._say(f"{name}: {how}; {self._work.note}")

    def tick(self, spent: int) -> None:
        """Time went by."""
        failed = f"{self._failed} failed, " if self._failed else ""
        self._work.note = (
            f"{self._done} done, {failed}{self._left.total()} left, "
            f"queries {spent:,}/{self._queries:,}{self._time_left()}"
        )

    def _time_left(self) -> str:
        """From cells of the same kind, and how many there were at a time.

        Nothing before there is one of each kind that is left.
        """
        left, elapsed = +self._left, self._clock() - self._started
        if not left or not elapsed or any(kind not in self._took for kind in left):
            return ""
        at_a_time = max(1.0, sum(map(sum, self._took.values())) / elapsed)
        seconds = sum(count * mean(self._took[kind]) for kind, count in left.items())
        return f", about {timedelta(seconds=round(seconds / at_a_time))} left"
