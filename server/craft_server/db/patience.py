"""How long a thread may still wait for the database: from the beginning of its transaction.

Owns the one clock that a transaction, its connection and the pool's look at that connection share.
"""

import math
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager


class _Until(threading.local):
    at = math.inf


_until = _Until()


@contextmanager
def patience(seconds: float) -> Iterator[None]:
    """Within the block, this thread waits so long for the database, or less if it was less."""
    before = _until.at
    _until.at = min(before, time.monotonic() + seconds)
    try:
        yield
    finally:
        _until.at = before


def until() -> float:
    """When this thread's patience ends, on the clock `time.monotonic`; infinite outside a block."""
    return _until.at
