"""Class names that benchmarks ask for, by dataset: real ones, as their lengths set the cost.

open_clip, which is large, is loaded for ImageNet's alone.
"""

import json
from pathlib import Path

_FILE = Path(__file__).parent / "class_names.json"

BY_COUNT = {10: "digits", 47: "dtd", 100: "caltech101", 397: "sun397", 1000: "imagenet"}


def names_of(dataset: str) -> list[str]:
    """The class names of `digits`, `dtd`, `caltech101`, `sun397` or `imagenet`."""
    if dataset == "imagenet":
        from open_clip.zero_shot_metadata import (  # noqa: PLC0415 - as the module says
            IMAGENET_CLASSNAMES,
        )

        return list(IMAGENET_CLASSNAMES)
    names: list[str] = json.loads(_FILE.read_text())["sets"][dataset]["names"]
    return names


def names_by_count(classes: int) -> tuple[str, list[str]]:
    """(dataset, K names): the dataset of K classes, or the first K of the next larger one."""
    dataset = BY_COUNT.get(classes) or next(
        name for count, name in sorted(BY_COUNT.items()) if count >= classes
    )
    return dataset, names_of(dataset)[:classes]
