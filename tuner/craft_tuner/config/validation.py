"""Which images choices are made on: none, the source's own split, a share, or others by path."""

import os
from contextlib import suppress
from pathlib import Path
from typing import Annotated

from pydantic import BeforeValidator

NONE, SPLIT = "none", "split"


def share(validation: str) -> float | None:
    """The share of the training images that is said; None: something else is."""
    with suppress(ValueError):
        return float(validation)
    return None


def _read(value: object) -> str:
    """Paths absolute: a run that goes on from another working directory means the same images."""
    if value is None:
        return NONE
    if isinstance(value, int | float | str | os.PathLike) and not isinstance(value, bool):
        words = os.fspath(value).strip() if isinstance(value, os.PathLike) else str(value).strip()
        if words.lower() in (NONE, SPLIT):
            return words.lower()
        number = share(words.removesuffix("%"))
        if number is None and words:
            return str(Path(words).absolute())
        number = (number or 0) / (100 if words.endswith("%") else 1)
        if 0 < number < 1:
            return str(number)
    raise ValueError("a share has to be above 0 and below 1; a folder of such a name is ./NAME")


Validation = Annotated[str, BeforeValidator(_read)]
