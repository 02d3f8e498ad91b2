"""Where `craft-tuner` begins and ends: Ctrl-C is one line from the first import to the last exit.

Imports nothing that takes time before it is ready for that.
"""

import os
import signal
import sys

from craft_tuner.errors import INTERRUPTED


def main() -> None:
    """Run the command line."""
    try:
        from craft_tuner.cli.main import main as run

        run()
    except KeyboardInterrupt:
        signal.signal(signal.SIGINT, _leave)
        print("craft-tuner: interrupted", file=sys.stderr)  # noqa: T201 - nothing else is loaded
        raise SystemExit(INTERRUPTED) from None
    finally:
        signal.signal(signal.SIGINT, _leave)


def _leave(*_: object) -> None:
    """What is left is the interpreter's own end, which has no words for Ctrl-C but a traceback."""
    os._exit(INTERRUPTED)
