"""What was used last, bounded by weight: the one cache in memory that all others are made of.

Must not know what it keeps.
"""

import threading
from collections import OrderedDict
from collections.abc import Hashable, Iterable, Mapping
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class Recent(Generic[K, V]):
    """A thread-safe mapping that drops what was not used for longest.

    Args:
        capacity: most weight kept; an item heavier than that is not kept and displaces nothing.
    """

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._kept: OrderedDict[K, tuple[V, int]] = OrderedDict()
        self._weight = 0
        self._lock = threading.Lock()

    @property
    def weight(self) -> int:
        """What is kept weighs so much."""
        return self._weight

    def newest(self) -> V | None:
        """What was used last; None if nothing is kept."""
        with self._lock:
            return self._kept[next(reversed(self._kept))][0] if self._kept else None

    def get(self, keys: Iterable[K]) -> dict[K, V]:
        """Those of the keys that are kept; they are now the last used."""
        with self._lock:
            found = {key: self._kept[key][0] for key in keys if key in self._kept}
            for key in found:
                self._kept.move_to_end(key)
        return found

    def put(self, items: Mapping[K, V], *, weight: int = 1) -> None:
        """Keep items that weigh `weight` each, dropping as many as the capacity asks for."""
        if weight > self._capacity:
            return
        with self._lock:
            for key, value in items.items():
                self._weight += weight - self._kept.pop(key, (value, 0))[1]
                self._kept[key] = (value, weight)
            while self._weight > self._capacity:
                _, (_, dropped) = self._kept.popitem(last=False)
                self._weight -= dropped
