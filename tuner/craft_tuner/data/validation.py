"""Images that choices are made on: the source's own split, a folder or table, or a share of train.

Owns that they have the dataset's classes, and which images a share is.
"""

import os
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from craft_tuner.data.dataset import Dataset, Item, SetApart, spoken
from craft_tuner.data.listing import problems, some
from craft_tuner.data.sources import list_splits
from craft_tuner.errors import DataError
from craft_tuner.seeds import Stream, stream

_OTHERS = "name a folder or table, or a share of the training images such as 0.2"


def own_split(dataset: Dataset) -> tuple[Item, ...]:
    """The images that the dataset's source has set apart.

    Raises:
        DataError: there are none, or they cannot be used.
    """
    apart = dataset.validation
    if not (apart.pairs or apart.refusal):
        raise DataError(f"--validation split: the dataset has no images for validation; {_OTHERS}")
    return _labelled(apart, dataset, "the validation split")


def read_validation(source: str, dataset: Dataset) -> tuple[Item, ...]:
    """The images of a folder of class folders or of a table; of one with splits, its validation.

    Raises:
        DataError: they cannot be used, or have other classes than the dataset.
    """
    return _labelled(list_validation(source, dataset.outside), dataset, source)


def list_validation(source: str, outside: Iterable[Path] = ()) -> SetApart:
    """The same, not judged."""
    if not os.path.exists(source):  # noqa: PTH110 - of any text, too long for a name or not
        sentence = f"--validation: there is nothing at {source}; {_OTHERS}, or say split"
        return SetApart(refusal=sentence)
    try:
        listing = list_splits(source, outside)
    except DataError as error:
        return SetApart(refusal=error.message)
    if listing.validation.pairs or listing.validation.refusal:
        return listing.validation
    wrong = problems(listing.faults)
    refusal = wrong[0].sentence if wrong else ""
    if listing.test:
        refusal = f"--validation: {source} has test images, which are for the test alone; {_OTHERS}"
    return SetApart(listing.train, refusal)


def take_share(dataset: Dataset, share: float, *, seed: int) -> tuple[Dataset, tuple[Item, ...]]:
    """The dataset without a share of each class's training images, and these.

    They are drawn by the seed from the images in order of their names: at least one of a class that
    has two, and never all of it.
    """
    draw = stream(seed, Stream.VALIDATION)
    places: list[list[int]] = [[] for _ in dataset.class_names]
    for place, item in enumerate(dataset.train):
        places[item.label].append(place)
    taken: list[int] = []
    for mine in places:
        mine.sort(key=lambda place: dataset.train[place].picture.name)
        count = min(max(1, round(share * len(mine))), len(mine) - 1)
        if count > 0:
            taken += (mine[index] for index in draw.permutation(len(mine))[:count])
    apart = set(taken)
    rest = tuple(item for place, item in enumerate(dataset.train) if place not in apart)
    return replace(dataset, train=rest), tuple(dataset.train[place] for place in taken)


def _labelled(apart: SetApart, dataset: Dataset, what: str) -> tuple[Item, ...]:
    if apart.refusal:
        raise DataError(apart.refusal)
    index = {name: number for number, name in enumerate(dataset.class_names)}
    index |= {label: number for number, label in enumerate(dataset.labels)}
    labels = [(index.get(label, index.get(spoken(label))), label) for label, _ in apart.pairs]
    strange = list(dict.fromkeys(label for number, label in labels if number is None))
    known = {number for number, _ in labels}
    lacking = [name for number, name in enumerate(dataset.class_names) if number not in known]
    if strange:
        raise DataError(
            f"{what} has images of {some(strange)}, which the dataset has no class for; its "
            f"classes: {some(dataset.class_names, shown=10)}"
        )
    if lacking:
        raise DataError(
            f"{what} has no image of {some(lacking)}; add at least one of each class, or take a "
            "share of the training images with --validation 0.2"
        )
    return tuple(
        Item(picture, number)
        for (number, _), (_, picture) in zip(labels, apart.pairs, strict=True)
        if number is not None
    )
