"""Where `craft-tuner` begins and ends: Ctrl-C is one line from the first import to the last exit.

Imports nothing that takes time before it is ready for that.
"""

import gc
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from craft_tuner.errors import INTERRUPTED

LOADING_S = 3.0
"""How often it is said that the program is still being loaded."""


def main() -> None:
    """Run the command line."""
    try:
        with _said_to_load():
            began = time.monotonic()
            from craft_tuner.cli.main import main as run
        run(since=began)
    except KeyboardInterrupt:
        signal.signal(signal.SIGINT, _leave)
        print("craft-tuner: interrupted", file=sys.stderr)  # noqa: T201 - nothing else is loaded
        raise SystemExit(INTERRUPTED) from None
    finally:
        signal.signal(signal.SIGINT, _leave)
        gc.freeze()  # else the interpreter looks through all of torch for cycles before it ends


@contextmanager
def _said_to_load() -> Iterator[None]:
    """What the block imports may come from a slow disk."""
    loaded = threading.Event()
    threading.Thread(target=_say_loading, args=(loaded,), daemon=True).start()
    try:
        yield
    finally:
        loaded.set()


def _say_loading(loaded: threading.Event) -> None:
    while not loaded.wait(LOADING_S):
        print("still loading the program", file=sys.stderr)  # noqa: T201 - nothing else is loaded


def _leave(*_: object) -> None:
    """What is left is the interpreter's own end, which has no words for Ctrl-C but a traceback."""
    os._exit(INTERRUPTED)
