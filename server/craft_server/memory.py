"""Keeping a server's memory to what it uses.

A model that answers requests of ever new shapes frees blocks of ever new sizes, and glibc keeps
them: a server grows by hundreds of megabytes that nobody uses (docs/performance.md). Two things
help. oneDNN remembers a compiled kernel for each of the last 1,024 shapes, small blocks that pin
the large ones around them: a quarter of that still holds every shape of a tower in use. And asking
glibc for the rest now and then costs milliseconds. Forbidding it to keep anything made every pass
slower.
"""

import ctypes
import os
import sys

_ONEDNN = "ONEDNN_PRIMITIVE_CACHE_CAPACITY"
_SHAPES = 256


def bound_caches() -> None:
    """Bound what libraries remember of shapes; call it before torch is first used.

    An environment that says otherwise stays as it is.
    """
    os.environ.setdefault(_ONEDNN, str(_SHAPES))


def give_back() -> bool:
    """Return what the C library keeps for later; False where it cannot be asked to."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
    return trim is not None and bool(trim(0))
