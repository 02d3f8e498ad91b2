"""Giving freed memory back to the system.

A model that answers requests of ever new shapes frees blocks of ever new sizes, and glibc keeps
many of them for later (environment.py keeps it from having to). Asking for the rest now and then
costs milliseconds; forbidding glibc to keep anything made every pass slower.
"""

import ctypes
import sys


def give_back() -> bool:
    """Return what the C library keeps for later; False where it cannot be asked to."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
    return trim is not None and bool(trim(0))
