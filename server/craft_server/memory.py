"""Giving freed memory back to the system.

A model that answers requests of ever new shapes frees blocks of ever new sizes, and glibc keeps
them: a server grows by hundreds of megabytes that nobody uses (docs/performance.md). Asking glibc
for them now and then costs milliseconds; forbidding it to keep them made every pass slower.
"""

import ctypes
import sys


def give_back() -> bool:
    """Return what the C library keeps for later; False where it cannot be asked to."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
    return trim is not None and bool(trim(0))
