"""What every reader returns: class names and labelled pictures for training and, maybe, testing.

Must not know where pictures come from or where they go.
"""

import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from craft_shared.limits import MAX_CLASS_NAME_CHARS
from craft_tuner.data.pictures import Picture
from craft_tuner.errors import DataError


@dataclass(frozen=True)
class Item:
    """One labelled picture; `label` is an index into the dataset's class names."""

    picture: Picture
    label: int


@dataclass(frozen=True)
class Dataset:
    """K class names with the items to train on and to test on; `test` may be empty.

    Raises:
        DataError: fewer than two classes, or a class name that is empty, too long or doubled.
    """

    class_names: tuple[str, ...]
    train: tuple[Item, ...]
    test: tuple[Item, ...] = ()

    def __post_init__(self) -> None:
        _check_class_names(self.class_names)


def labels_of(items: Sequence[Item]) -> NDArray[np.int64]:
    """(N,) int64: the labels in order."""
    return np.array([item.label for item in items], np.int64)


def pictures_of(items: Sequence[Item]) -> tuple[Picture, ...]:
    """The pictures in order."""
    return tuple(item.picture for item in items)


def spoken(folder: str) -> str:
    """The class name that a folder or label stands for: `sea_lion` reads `sea lion`."""
    return composed(" ".join(folder.replace("_", " ").split()))


def composed(name: str) -> str:
    """The name in Unicode's composed form (NFC): file systems differ in which they keep."""
    return unicodedata.normalize("NFC", name)


def assemble(
    train: Iterable[tuple[str, Picture]],
    test: Iterable[tuple[str, Picture]],
    *,
    renamed: dict[str, str] | None = None,
) -> Dataset:
    """A dataset from (label, picture) pairs; classes and items in order of their names.

    Args:
        train: pairs to train on; they define the classes.
        test: pairs to test on.
        renamed: class names for labels, where `spoken(label)` is not what should be said.

    Raises:
        DataError: a class is in one split only, or a renamed label does not exist.
    """
    train, test, renamed = list(train), list(test), renamed or {}
    labels = sorted({label for label, _ in train}, key=composed)
    _check_splits(set(labels), {label for label, _ in test})
    _check_renamed(renamed, labels)
    index = {label: number for number, label in enumerate(labels)}
    return Dataset(
        class_names=tuple(renamed.get(label) or spoken(label) for label in labels),
        train=_items(train, index),
        test=_items(test, index),
    )


def _items(pairs: list[tuple[str, Picture]], index: dict[str, int]) -> tuple[Item, ...]:
    items = [Item(picture, index[label]) for label, picture in pairs]
    return tuple(sorted(items, key=lambda item: (item.label, item.picture.name)))


def _check_splits(train: set[str], test: set[str]) -> None:
    strange = sorted(test - train)
    if strange:
        raise DataError(
            f"{_some(strange)} test images and no training image; add some, or remove it from test"
        )
    untested = sorted(train - test)
    if test and untested:
        raise DataError(
            f"{_some(untested)} no test image; add at least one, or remove the whole test split "
            "to train without a final test"
        )


def _check_renamed(renamed: dict[str, str], labels: list[str]) -> None:
    unknown = sorted(set(renamed) - set(labels))
    if unknown:
        raise DataError(
            f"the class names file names {unknown[0]!r}, the dataset has no such class; "
            f"its classes: {', '.join(labels[:10])}{', ...' if len(labels) > 10 else ''}"
        )


def _check_class_names(names: Sequence[str]) -> None:
    if len(names) < 2:
        raise DataError(f"the dataset has {len(names)} class(es) {list(names)}; needed: 2 or more")
    for name in names:
        if not name.strip() or len(name) > MAX_CLASS_NAME_CHARS:
            raise DataError(
                f"class name {name[:40]!r} has {len(name)} characters; allowed: 1 to "
                f"{MAX_CLASS_NAME_CHARS}, not spaces alone"
            )
    doubled = [name for name, count in Counter(names).items() if count > 1]
    if doubled:
        raise DataError(
            f"{names.count(doubled[0])} classes are called {doubled[0]!r} (underscores count as "
            "spaces); give each its own name"
        )


def _some(labels: list[str]) -> str:
    shown = ", ".join(repr(label) for label in labels[:3])
    more = f" and {len(labels) - 3} more" if len(labels) > 3 else ""
    return f"class {shown} has" if len(labels) == 1 else f"classes {shown}{more} have"
