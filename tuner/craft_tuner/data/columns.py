"""What columns of manifests are called: which one names the picture, its label, its split."""

from collections.abc import Callable, Iterable, Sequence
from pathlib import PurePosixPath
from typing import Literal

from craft_tuner.data.formats import KNOWN_ENDINGS
from craft_tuner.data.listing import Fault
from craft_tuner.data.splits import split_of
from craft_tuner.errors import DataError

Column = Literal["path", "label", "split"]

NAMES: dict[Column, tuple[str, ...]] = {
    "path": (
        *("path", "file_name", "filename", "filepath", "file_path", "file", "image", "img"),
        *("image_path", "img_path", "image_file", "image_name", "img_name", "photo", "picture"),
    ),
    "label": ("label", "class", "class_name", "label_name", "category", "target", "y", "labels"),
    "split": ("split", "set", "subset", "fold", "partition"),
}
"""The first is what a column is called here and decides where others are there too."""


SHOWN = 8
"""Names of a column that a refusal tells."""

NEEDED: tuple[Column, ...] = ("path", "label")


def plain(name: str) -> str:
    """A column's name whatever its case: `Class Name` is `class_name`."""
    return "_".join(name.strip().lower().replace("-", " ").replace("_", " ").split())


def fits(names: Sequence[str]) -> bool:
    """Whether a header has a column for the picture and one for its label."""
    return all(any(plain(name) in NAMES[column] for name in names) for column in NEEDED)


def roles(
    where: str, names: Sequence[str], values: Callable[[str], Iterable[object]]
) -> tuple[dict[Column, str], tuple[Fault, ...]]:
    """The column of each role, and remarks on columns that look like a split and are none.

    Args:
        where: the header, for messages.
        names: the columns as the manifest has them.
        values: what a column holds.

    Raises:
        DataError: a picture or a label has no column, or more than one might be it.
    """
    found = {column: _candidates(column, names) for column in NAMES}
    chosen: dict[Column, str] = {}
    for column in NEEDED:
        if len(found[column]) != 1:
            raise DataError(f"{where}: {_refusal(column, names, found[column])}")
        chosen[column] = plain(found[column][0])
    remarks = []
    for name in found["split"]:
        strange = next((value for value in values(plain(name)) if not _is_split(value)), None)
        if plain(name) == "split" or (strange is None and "split" not in chosen):
            chosen["split"] = plain(name)
        else:
            why = "another is" if strange is None else f"it has {str(strange)[:40]!r}"
            sentence = f"{where}: the column {name!r} is not read as the split: {why}"
            remarks.append(Fault("column not read as the split", name, sentence, problem=False))
    return chosen, tuple(remarks)


def _candidates(column: Column, names: Sequence[str]) -> list[str]:
    """The columns that may have a role: those of its first name, or all of its other names."""
    exact = [name for name in names if plain(name) == NAMES[column][0]]
    return exact or [name for name in names if plain(name) in NAMES[column]]


def _is_split(value: object) -> bool:
    return isinstance(value, str) and split_of(value) is not None


def _refusal(column: Column, names: Sequence[str], found: Sequence[str]) -> str:
    if found:
        which = " and ".join(map(repr, found))
        return f"the columns {which} may each be the {column}; call the right one {column}"
    if any(PurePosixPath(name).suffix.lower() in KNOWN_ENDINGS for name in names):
        return f"{list(names)} names a picture, not the columns; add a line path,label above it"
    return (
        f"columns {list(names)[:20]}; needed: path and label; call the column of the {column} so, "
        f"or {', '.join(NAMES[column][1:SHOWN])}"
    )
