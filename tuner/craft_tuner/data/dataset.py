"""What every reader returns: class names and labelled pictures for training and, maybe, testing.

Owns the type of a dataset and what its class names may be.
"""

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from craft_tuner.data.class_names import check_class_names
from craft_tuner.data.pictures import Picture


@dataclass(frozen=True, slots=True)
class Item:
    """One labelled picture; `label` is an index into the dataset's class names."""

    picture: Picture
    label: int


@dataclass(frozen=True)
class SetApart:
    """Labels and pictures for validation, as their source calls the classes; not judged yet.

    `refusal` says why they cannot be used; a dataset can be used without them.
    """

    pairs: tuple[tuple[str, Picture], ...] = ()
    refusal: str = ""


@dataclass(frozen=True)
class Dataset:
    """K class names with the items to train on and to test on; either may be empty.

    In a `closed` dataset an answer is one of its classes, even from an adapter that knows more:
    ImageNet-A and ImageNet-R are scored among their own 200 of ImageNet's 1,000. `remarks` are
    sentences on what its reader has passed over, or has had to guess. `validation` are the images
    that its source has set apart. For those from elsewhere, `labels` are what the source calls the
    classes (none: their names), and `outside` the folders that images may be in beside its own.

    Raises:
        DataError: fewer than two classes, or a class name that is empty, too long or, to CLIP's
            tokenizer, another's equal.
    """

    class_names: tuple[str, ...]
    train: tuple[Item, ...]
    test: tuple[Item, ...] = ()
    closed: bool = False
    remarks: tuple[str, ...] = field(default=(), compare=False)
    validation: SetApart = field(default_factory=SetApart, compare=False)
    labels: tuple[str, ...] = field(default=(), compare=False)
    outside: tuple[Path, ...] = field(default=(), compare=False)

    def __post_init__(self) -> None:
        check_class_names(self.class_names)


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


def encodable(name: str) -> bool:
    """Whether a name can be written as UTF-8: file systems and JSON may hold others."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True
