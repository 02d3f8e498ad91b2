"""Few-shot sampling: which k images of each class are the shots.

The scheme is CoOp's (https://github.com/KaiyangZhou/CoOp): one `random.Random(seed)`; classes in
label order; `sample(images of the class, k)` for each. Images are put in order of their names
first, so that the order in which a disk lists files decides nothing. Shots are not nested: 2 shots
need not contain the 1 shot of the same seed.
"""

import random
from collections.abc import Sequence

from craft_tuner.data.dataset import Dataset, Item
from craft_tuner.errors import DataError


def sample_shots(dataset: Dataset, *, shots: int, seed: int) -> tuple[Item, ...]:
    """`shots` training items of each class, class after class: K * shots items.

    Raises:
        DataError: a class has fewer training images than `shots`; names it.
    """
    rng = random.Random(seed)  # noqa: S311 - reproducible, not secret
    chosen: list[Item] = []
    for label, name in enumerate(dataset.class_names):
        items = _of_class(dataset.train, label)
        if len(items) < shots:
            raise DataError(
                f"class {name!r} has {len(items)} training image(s), {shots} shots need {shots}; "
                f"add images or use --shots {max(1, len(items))}"
            )
        chosen.extend(rng.sample(items, shots))
    return tuple(chosen)


def _of_class(items: Sequence[Item], label: int) -> list[Item]:
    mine = [item for item in items if item.label == label]
    return sorted(mine, key=lambda item: item.picture.name)
