"""What the process asks of its C libraries: settings before they load, freed memory afterwards.

Libraries read their settings from the environment, once:

    ONEDNN_PRIMITIVE_CACHE_CAPACITY   oneDNN remembers a kernel for each of the last 1,024 shapes.
                                      Requests of ever new shapes make them ever more, and the
                                      small blocks pin the freed large ones around them: 1.6 GB
                                      where 0.9 are in use. 256 hold every shape of a tower.
    GOMP_SPINCOUNT                    How long OpenMP's threads spin for the next parallel region.
                                      libgomp's 300,000 rounds last milliseconds: beside another
                                      busy process a pass took 860 ms, with 2,000 rounds 53 ms, and
                                      alone no longer than before.

An environment that says otherwise stays as it is.

A model that answers requests of ever new shapes frees blocks of ever new sizes, and glibc keeps
many of them for later (the settings above keep it from having to). Asking for the rest now and then
costs milliseconds; forbidding glibc to keep anything made every pass slower.
"""

import ctypes
import os
import sys

LIBRARY_SETTINGS = {"ONEDNN_PRIMITIVE_CACHE_CAPACITY": "256", "GOMP_SPINCOUNT": "2000"}


_SWITCH_S = 0.0005
"""After so long another thread has the interpreter. A purchase changes threads and calls into
SQLite some twenty times, and for each it waits for the interpreter: while the event loop is busy
with refusals, Python's 5 ms make that a tenth of a second, and another owner's ten purchases a
second wait ever longer (3.3 s after 4 s); with 0.5 ms they waited 0.1 to 0.9 s."""


def share_interpreter() -> None:
    """Let threads take turns at the interpreter more often than by default."""
    sys.setswitchinterval(_SWITCH_S)


def configure_libraries() -> None:
    """Set what is not set; call it before torch is imported."""
    for name, value in LIBRARY_SETTINGS.items():
        os.environ.setdefault(name, value)


def trim_memory() -> bool:
    """Return what the C library keeps for later; False where it cannot be asked to."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
    return trim is not None and bool(trim(0))
