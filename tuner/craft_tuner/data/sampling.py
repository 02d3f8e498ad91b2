"""Few-shot sampling: which k images of each class are the shots.

One `random.Random(seed)`; class after class, `sample(images of the class, k)`. What differs between
the schemes is the order of classes and images, and what becomes of a class with fewer than k:

    names   classes by label, images by name, so that no file's or disk's order decides; refused
    coop    both as the dataset lists them, as CoOp does with its split files; all are taken
    craft   the same, as the authors of CraFT do; k are drawn with repetition

Shots are not nested: 2 shots need not contain the 1 shot of the same seed. Decision 0017.
"""

import random
from collections.abc import Sequence
from typing import Literal

from craft_tuner.data.dataset import Dataset, Item
from craft_tuner.errors import DataError

Sampling = Literal["names", "coop", "craft"]


def sample_shots(
    dataset: Dataset,
    *,
    shots: int,
    seed: int,
    sampling: Sampling = "names",
    fewer: bool = False,
) -> tuple[Item, ...]:
    """`shots` training items of each class, class after class: K * shots items, as a rule.

    With `fewer`, a class that has fewer gives all of its own, whatever the scheme.

    Raises:
        DataError: a class has fewer training images than `shots` and the scheme refuses that, or
            it has none; names it.
    """
    if not dataset.train:
        raise DataError("the dataset has test images alone; use it with `craft-tuner evaluate`")
    rng = random.Random(seed)
    chosen: list[Item] = []
    for label, items in _by_class(dataset, sampling):
        if len(items) >= shots:
            chosen.extend(rng.sample(items, shots))
        elif items and (fewer or sampling == "coop"):
            chosen.extend(items)
        elif items and sampling == "craft":
            chosen.extend(rng.choices(items, k=shots))
        else:
            raise DataError(
                f"class {dataset.class_names[label]!r} has {len(items)} training image(s), {shots} "
                f"shots need {shots}; add images, use --shots {max(1, len(items))}, or take what "
                f"there is with fit --shots 'up to {shots}'"
            )
    return tuple(chosen)


def _by_class(dataset: Dataset, sampling: Sampling) -> list[tuple[int, Sequence[Item]]]:
    found: dict[int, list[Item]] = {}
    if sampling == "names":
        found = {label: [] for label in range(len(dataset.class_names))}
    for item in dataset.train:
        found.setdefault(item.label, []).append(item)
    if sampling == "names":
        for items in found.values():
            items.sort(key=lambda item: item.picture.name)
    return list(found.items())
