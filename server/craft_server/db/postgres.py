"""Connections to Postgres that give up: none waits longer than the thread's patience allows.

Owns what a client does about a server that is stopped, frozen or unreachable. The server's own
timeouts, which are set here too, do not fire in a process that does not run. psycopg waits for its
socket a tenth of a second at a time. A connection that is out of time there is closed, so that the
pool drops it and the server undoes what it had begun; what came of a commit is then unknown.
"""

import time
from collections.abc import Generator
from typing import Any, TypeVar

import psycopg

from craft_server.db.patience import until

T = TypeVar("T")

_TOLD_SHARE = 0.9
"""The server's timeouts are a little shorter than the client's: its refusal keeps a connection."""

_IDLE_SHARE = 2.0
"""A process that froze within a transaction lets go of its rows after so many timeouts."""

_SET = (
    "SELECT set_config('statement_timeout', %(told)s, false),"
    " set_config('lock_timeout', %(told)s, false),"
    " set_config('idle_in_transaction_session_timeout', %(idle)s, false)"
)


class Line(psycopg.Connection[Any]):
    """A connection whose every wait ends with the thread's patience."""

    def wait(self, gen: Any, *args: Any, **options: Any) -> Any:
        """Wait as psycopg does, or close the connection.

        Raises:
            OperationalError: the server did not answer in time.
        """
        try:
            return super().wait(_patiently(gen), *args, **options)
        except _OutOfTime:
            self.pgconn.finish()
            raise

    @classmethod
    def _connect_gen(cls, *args: Any, **options: Any) -> Any:
        return _patiently(super()._connect_gen(*args, **options))


class _OutOfTime(psycopg.OperationalError):
    """The server did not answer in time."""


def connect(*args: Any, timeout_s: float, **options: Any) -> Line:
    """Connect within the thread's patience; the server itself ends what takes `timeout_s`.

    Raises:
        OperationalError: there is no such server, or it does not answer.
        ValueError: the URL has an option that there is not.
    """
    try:
        line = Line.connect(*args, **options)
    except psycopg.ProgrammingError as error:  # an option in the URL that there is not
        raise ValueError(f"database_url cannot be used: {str(error).strip()}") from error
    milliseconds = {"told": _TOLD_SHARE * timeout_s, "idle": _IDLE_SHARE * timeout_s}
    try:
        line.execute(_SET, {name: str(round(1000 * each)) for name, each in milliseconds.items()})
        line.commit()
    except BaseException:
        line.close()
        raise
    return line


def _patiently(steps: Any) -> Generator[Any, Any, Any]:
    """Psycopg's steps of one exchange, for as long as there is time; it resumes them often."""
    end = until()
    try:
        wanted = next(steps)
        while True:
            ready = yield wanted
            if time.monotonic() >= end:
                raise _OutOfTime("the server did not answer in time")
            wanted = steps.send(ready)
    except StopIteration as done:
        return done.value
