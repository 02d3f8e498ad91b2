"""What a reader found before it is judged: labelled pictures, class names, and what is wrong.

`Listing.dataset()` makes a dataset of it or refuses; `check.py` reports all of it.
"""

import os
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

from craft_tuner.data.class_names import heard, no_words
from craft_tuner.data.dataset import Dataset, Item, SetApart, composed, spoken
from craft_tuner.data.pictures import Picture
from craft_tuner.errors import DataError

Pair = tuple[str, Picture]
"""A label and a picture that has it."""


class Fault(NamedTuple):
    """One thing that a reader cannot use: its kind, what it is called, and the whole sentence.

    Where it is no `problem`, the rest can be used without it.
    """

    kind: str
    name: str
    sentence: str
    problem: bool = True


@dataclass(frozen=True)
class Listing:
    """Labelled pictures of a source, none of them opened.

    `labels` are the classes in order; without them the labels of `train` are, in order of their
    names, and so are the pictures. `names` are class names of labels for which `spoken(label)` is
    not what should be said. `validation`, `closed` and `outside` are those of `Dataset`.
    """

    train: tuple[Pair, ...]
    test: tuple[Pair, ...] = ()
    labels: tuple[str, ...] = ()
    names: Mapping[str, str] = field(default_factory=dict)
    validation: SetApart = field(default_factory=SetApart)
    closed: bool = False
    faults: tuple[Fault, ...] = ()
    outside: tuple[Path, ...] = ()

    def classes(self) -> tuple[str, ...]:
        """The labels in order, those of test pictures alone included."""
        if self.labels:
            return self.labels
        return tuple(sorted({label for label, _ in (*self.train, *self.test)}, key=composed))

    def class_name(self, label: str) -> str:
        """What is said of a label."""
        return self.names.get(label) or spoken(label)

    def missing(self) -> tuple[list[str], list[str]]:
        """Classes without a picture to train on, and without one to test on.

        A split that has no picture at all lacks no class.
        """
        train = {label for label, _ in self.train}
        test = {label for label, _ in self.test}
        labels = self.classes()
        untrained = [label for label in labels if self.train and label not in train]
        return untrained, [label for label in labels if self.test and label not in test]

    def dataset(self) -> Dataset:
        """The dataset.

        Raises:
            DataError: the reader found a fault, a class is in one split only, or the class names
                are not usable.
        """
        _refuse(problems(self.faults))
        _check_splits(*self.missing())
        index = {label: number for number, label in enumerate(self.classes())}
        names = tuple(self.class_name(label) for label in index)
        said = [*_by_kind(self.faults), *no_words(names)]
        return Dataset(
            class_names=names,
            train=self._items(self.train, index),
            test=self._items(self.test, index),
            closed=self.closed,
            remarks=tuple(_counted(kind, found) for kind, found in said),
            validation=self.validation,
            labels=tuple(index),
            outside=self.outside,
        )

    def renamed(self, names: Mapping[str, str]) -> "Listing":
        """The same with other class names for some labels.

        Raises:
            DataError: a label does not exist.
        """
        labels = self.classes()
        for label in sorted(names):
            if label not in labels:
                raise DataError(
                    f"the class names file names {label!r}, the dataset has no such class; "
                    f"its classes: {', '.join(labels[:10])}{', ...' if len(labels) > 10 else ''}"
                )
        return replace(self, names={**self.names, **names})

    def _items(self, pairs: tuple[Pair, ...], index: Mapping[str, int]) -> tuple[Item, ...]:
        items = (Item(picture, index[label]) for label, picture in pairs)
        if self.labels:
            return tuple(items)
        return tuple(sorted(items, key=lambda item: (item.label, item.picture.name)))


def problems(faults: Iterable[Fault]) -> list[Fault]:
    """The faults that a dataset cannot be used with."""
    return [fault for fault in faults if fault.problem]


def remarks(faults: Iterable[Fault]) -> list[str]:
    """What else was found, counted: a sentence for each kind."""
    return [_counted(kind, names) for kind, names in _by_kind(faults)]


def passed_over(what: str, path: Path) -> Fault:
    """The remark on a file or folder that is not read."""
    return Fault(what, shown(path), f"{shown(path)}: {what}", problem=False)


def for_validation(name: str, count: int, *, tested: bool) -> Fault:
    """The remark on the split for validation, as its source calls it."""
    way = "" if tested else "; a fit is tested on what is called test"
    kind = f"for validation, used with --validation split{way}"
    sentence = f"{name} has {count:,} images {kind}"
    return Fault(kind, f"{name}, {count:,} images", sentence, problem=False)


def shown(path: Path) -> str:
    """The path as text that can be written: bytes that are not UTF-8 as backslash escapes."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def distinct_names(labels: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Class names by label, from (label, class name); a name that is taken gets its label added.

    ImageNet has two classes called `missile`; an answer must say which. What CLIP's tokenizer makes
    equal is taken too.
    """
    names: dict[str, str] = {}
    taken: set[tuple[str, ...]] = set()
    for label, name in labels:
        said = heard(spoken(name))
        names[label] = f"{name} ({label})" if said in taken else name
        taken.add(said)
    return names


def some(names: Sequence[str], *, shown: int = 3) -> str:
    """The first few names, quoted, and how many more there are."""
    more = f" and {len(names) - shown:,} more" if len(names) > shown else ""
    return ", ".join(repr(name) for name in names[:shown]) + more


def _by_kind(faults: Iterable[Fault]) -> list[tuple[str, list[str]]]:
    """The names of what is no problem."""
    kinds: dict[str, list[str]] = defaultdict(list)
    for fault in faults:
        if not fault.problem:
            kinds[fault.kind].append(fault.name)
    return list(kinds.items())


def _counted(kind: str, names: Sequence[str]) -> str:
    return f"{kind} ({len(names):,}): {some(names)}"


def _refuse(faults: Sequence[Fault]) -> None:
    if faults:
        more = len(faults) - 1
        others = f" ({more:,} more like it: `craft-tuner data check` lists them)" if more else ""
        raise DataError(faults[0].sentence + others)


def _check_splits(untrained: list[str], untested: list[str]) -> None:
    if untrained:
        raise DataError(
            f"{_have(untrained)} test images and no training image; add some, or remove it from "
            "test"
        )
    if untested:
        raise DataError(
            f"{_have(untested)} no test image; add at least one, or remove the whole test split "
            "to train without a final test"
        )


def _have(labels: list[str]) -> str:
    return f"class {some(labels)} has" if len(labels) == 1 else f"classes {some(labels)} have"
