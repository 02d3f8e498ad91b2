"""What waits for a device, and who is next: owners share its time, groups may go together.

Owns the order. An entry has an owner, a group and a size.

Start-time fair queueing (Goyal, Vin and Cheng, SIGCOMM 1996) by the seconds that entries took: next
is the owner who has had least of the device. Who comes anew begins where the one just served stood,
so nobody saves up time, and waits for no more than what runs.
"""

import threading
from collections import OrderedDict, deque
from collections.abc import Hashable, Iterator, Sequence
from typing import Generic, Protocol, TypeVar


class Entry(Protocol):
    """What the queue needs to know of what waits in it."""

    @property
    def owner(self) -> str:
        """Whose it is; owners take turns."""
        ...

    @property
    def group(self) -> Hashable | None:
        """Entries of equal groups may be taken together; None goes alone."""
        ...

    @property
    def size(self) -> int:
        """What it adds to a batch."""
        ...


E = TypeVar("E", bound=Entry)


class FairQueue(Generic[E]):
    """First come, first served for each owner; owners by the time they had. Thread-safe.

    Owners of equal times take turns. An owner with a thousand entries delays another owner's next
    by the one that runs.
    """

    def __init__(self, *, most_together: int) -> None:
        """Take up to `most_together` of size in one batch; 0 takes entries one at a time."""
        self._most_together = most_together
        self._queues: OrderedDict[str, deque[E]] = OrderedDict()
        self._had: dict[str, float] = {}
        """Seconds of the device, of owners who wait or who are ahead of `_now`."""
        self._now = 0.0
        """What the owner served last had had."""
        self._changed = threading.Condition()
        self._closed = False

    def __len__(self) -> int:
        with self._changed:
            return sum(map(len, self._queues.values()))

    def put(self, entries: Sequence[E]) -> bool:
        """Queue entries behind each other; False if the queue is closed."""
        with self._changed:
            if not self._closed:
                for entry in entries:
                    if entry.owner not in self._queues:
                        self._queues[entry.owner] = deque()
                        self._had[entry.owner] = max(self._now, self._had.get(entry.owner, 0))
                    self._queues[entry.owner].append(entry)
                self._changed.notify()
            return not self._closed

    def withdraw(self, entries: Sequence[E], *, unless_begun: bool = False) -> int:
        """Take entries out again; gives how many were still there.

        With `unless_begun`, nothing is taken out if any of them is not there any more.
        """
        with self._changed:
            there = [entry for entry in entries if entry in self._queues.get(entry.owner, ())]
            if unless_begun and len(there) < len(entries):
                return 0
            for entry in there:
                self._queues[entry.owner].remove(entry)
                self._drop_if_empty(entry.owner)
            return len(there)

    def take(self, *, wait: bool) -> list[E] | None:
        """The next batch; [] if nothing waits and `wait` is False; None, once closed and empty."""
        with self._changed:
            while wait and not self._queues and not self._closed:
                self._had.clear()
                self._now = 0.0
                self._changed.wait()
            if not self._queues:
                return None if wait else []
            owner = min(self._queues, key=self._had.__getitem__)
            self._now = self._had[owner]
            first = self._next(owner)
            return [first, *self._companions(first)]

    def charge(self, owner: str, seconds: float) -> None:
        """Say how long an entry of an owner took: it waits behind others for that long."""
        with self._changed:
            self._had[owner] = max(self._now, self._had.get(owner, 0)) + seconds
            waiting = self._queues
            self._had = {o: s for o, s in self._had.items() if o in waiting or s > self._now}

    def close(self) -> list[E]:
        """Take nothing more and wake who waits in `take`; gives what was still queued."""
        with self._changed:
            self._closed = True
            left = [entry for queue in self._queues.values() for entry in queue]
            self._queues.clear()
            self._changed.notify_all()
            return left

    def _next(self, owner: str) -> E:
        """The owner's first entry; the owner then stands at the end of the turn."""
        entry = self._queues[owner].popleft()
        self._queues.move_to_end(owner)
        self._drop_if_empty(owner)
        return entry

    def _companions(self, first: E) -> Iterator[E]:
        """Whatever stands first in a queue, is of the same group, and still fits."""
        if first.group is None:
            return
        size = first.size
        for owner in list(self._queues):
            while owner in self._queues:
                entry = self._queues[owner][0]
                if entry.group != first.group or size + entry.size > self._most_together:
                    break
                size += entry.size
                yield self._next(owner)

    def _drop_if_empty(self, owner: str) -> None:
        if not self._queues[owner]:
            del self._queues[owner]
