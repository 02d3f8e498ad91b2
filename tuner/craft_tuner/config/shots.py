"""How many training images of each class: a number, at most a number, or all."""

import operator
from typing import Annotated

from pydantic import BeforeValidator

MOST = 10_000
"""The largest number that may be said."""

_ALL = "all"
_UP_TO = "up to "


def most(shots: int | str) -> int:
    """How many images of a class are taken at most."""
    if isinstance(shots, int):
        return shots
    return 10**9 if shots == _ALL else int(shots.removeprefix(_UP_TO))


def takes_fewer(shots: int | str) -> bool:
    """Whether a class that has fewer gives those; else it is refused."""
    return isinstance(shots, str)


def read_shots(value: object) -> int | str:
    """A number of shots as it is kept.

    Raises:
        ValueError: it is none; says what is needed.
    """
    words = " ".join(value.lower().split()) if isinstance(value, str) else ""
    digits = words.removeprefix(_UP_TO)
    if words == _ALL:
        return words
    if digits.isascii() and digits.isdigit() and 1 <= int(digits[:9]) <= MOST:
        return int(digits) if digits == words else f"{_UP_TO}{int(digits)}"
    if not isinstance(value, str | bool | float):
        try:
            number = operator.index(value)  # type: ignore[arg-type]
        except TypeError:
            number = 0
        if 1 <= number <= MOST:
            return number
    raise ValueError(f'needed: 1 to {MOST:,}, "up to N" or "all"')


Shots = Annotated[int | str, BeforeValidator(read_shots)]
