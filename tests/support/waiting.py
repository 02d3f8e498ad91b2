"""Commands that are slow on purpose: what is slow goes on only once somebody has been told of it.

No time is measured. A `Heard` stream stands for standard error; a server that `waits`, or a
function that is `slow`, waits until something new was written to it, and fails if nothing is.
"""

import importlib
import io
import threading

from craft_tuner.commands import progress
from tests.support.tuner_server import FakeServer

PATIENCE_S = 30.0
"""After which nothing will be said any more."""


class Heard(io.StringIO):
    """A stream that can be waited for; says that it is a terminal, or not."""

    def __init__(self, *, terminal):
        super().__init__()
        self._terminal = terminal
        self._changed = threading.Condition()
        self.waits = {}
        """What was written during each wait, by what waited."""

    def isatty(self):
        return self._terminal

    def write(self, text):
        with self._changed:
            written = super().write(text)
            self._changed.notify_all()
        return written

    def wait(self, who):
        """Wait for a whole line, or for a live one."""
        with self._changed:
            before = len(self.getvalue())
            mark = "\r" if self._terminal else "\n"
            told = self._changed.wait_for(lambda: mark in self.getvalue()[before:], PATIENCE_S)
            assert told, f"nothing was said while {who} was at work"
            self.waits[who] = self.getvalue()[before:]


class WaitingServer(FakeServer):
    """Answers once a person was told that it is being waited for."""

    def __init__(self, heard, **options):
        super().__init__(**options)
        self._heard = heard

    def answer(self, asked):
        self._heard.wait(f"{asked.method} {asked.path.partition('/set_')[0]}")
        return super().answer(asked)


def hurry(patch):
    """What is said after seconds is said at once."""
    patch.setattr(progress, "QUIET_S", 0.01)
    patch.setattr(progress, "TICK_S", 0.002)


def slow(patch, heard, places):
    """The first call of each function, `module.name`, waits."""
    for place in places:
        module, _, name = place.rpartition(".")
        _slow(patch, heard, importlib.import_module(f"craft_tuner.{module}"), name, place)


def _slow(patch, heard, module, name, place):
    original = getattr(module, name)

    def waiting(*arguments, **options):
        if place not in heard.waits:
            heard.wait(place)
        return original(*arguments, **options)

    patch.setattr(module, name, waiting)
