"""Device tasks: what the scheduler runs, until when, and what comes back.

Owns their values: a task is a function and what it is called with.
"""

import time
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, NamedTuple, TypeVar

from craft_shared.errors import Code, Refusal

T = TypeVar("T")

Launch = Callable[[Sequence[Any]], Sequence[Callable[[], T]]]
"""Starts work on items and gives, for each, a function that waits for the item's result.

On a device that computes beside the host the next batch is launched before the last one is waited
for; elsewhere launching is all the work and waiting takes no time.
"""

RETRY_AFTER_S = 2


@dataclass(frozen=True)
class DeviceTask(Generic[T]):
    """One piece of device work; `size` counts against `most_together` where groups are merged."""

    owner: str
    launch: Launch[T]
    item: Any = None
    group: Hashable | None = None
    size: int = 1

    @staticmethod
    def alone(owner: str, job: Callable[[], T]) -> "DeviceTask[T]":
        """A plain function, run by itself."""

        def launch(_: Sequence[None]) -> list[Callable[[], T]]:
            value = job()
            return [lambda: value]

        return DeviceTask(owner, launch)


class Deadline:
    """Until when a request has to be done, from now on."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._end = time.monotonic() + seconds

    @property
    def left_s(self) -> float:
        """Seconds left, at least 0."""
        return max(0.0, self._end - time.monotonic())

    def passed(self, where: str) -> Refusal:
        """The refusal of a request whose time ended at some place."""
        detail = f"not finished after {self._seconds:g} s; the time ended {where}"
        return Refusal(Code.DEADLINE_EXCEEDED, detail, retry_after_s=RETRY_AFTER_S)


class Done(NamedTuple, Generic[T]):
    """A result and the seconds it took, waiting and running; when it ended, by `monotonic`."""

    value: T
    waited_s: float
    ran_s: float
    ended: float
