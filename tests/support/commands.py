"""`craft-server ARGUMENTS` in the test's process: the fixture `craft_server` runs it."""

from collections.abc import Callable
from typing import NamedTuple


class Ran(NamedTuple):
    """What a command did."""

    code: int
    out: str
    err: str


Run = Callable[..., Ran]
