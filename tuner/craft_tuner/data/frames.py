"""Tables in memory are no pictures: names of their columns must not be read as paths."""

from collections.abc import Iterable, Mapping
from typing import Any

from craft_tuner.errors import InputError


def refuse_named_columns(values: Any) -> None:
    """Refuse what has columns with names: a data frame, a table, a mapping, a structured array.

    A data frame whose columns are numbered holds rows of numbers like any array.

    Raises:
        InputError: says what it is, its first columns, and what to give instead.
    """
    names = [name for name in _columns(values) if isinstance(name, str)]
    if not names:
        return
    shown = ", ".join(map(repr, names[:3])) + (", ..." if names[3:] else "")
    raise InputError(
        f"X is a {type(values).__name__} with named columns ({shown}); give the one column that "
        "has the pictures or their paths, or an array without names if each row is a grey picture"
    )


def _columns(values: Any) -> Iterable[Any]:
    if isinstance(values, Mapping):
        return values
    dtype = getattr(values, "dtype", None)
    for names in (
        getattr(dtype, "names", None),
        getattr(values, "column_names", None),
        getattr(values, "columns", None),
    ):
        if names is not None and not callable(names):
            return list(names)
    return ()
