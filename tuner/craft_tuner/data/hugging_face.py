"""Datasets of the Hugging Face Hub or of its cache, by the optional package `datasets`.

The column of images and the column of class labels are found by their types. Images stay the bytes
that they were published as. Code that a dataset brings along is never run.
"""

import importlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from craft_tuner.data.dataset import spoken
from craft_tuner.data.listing import Listing, Pair, distinct_names
from craft_tuner.errors import DataError

TEST_SPLITS = ("test", "validation")
"""The first of these that exists is the test split."""


@dataclass(frozen=True, slots=True)
class RowPicture:
    """A picture in a row of a table, read when needed."""

    table: Any
    row: int
    column: str
    name: str

    def read(self) -> bytes:
        """The bytes of the file.

        Raises:
            DataError: the row holds neither bytes nor the path of a file.
        """
        cell = self.table[self.row][self.column]
        if cell.get("bytes"):
            return bytes(cell["bytes"])
        try:
            return Path(cell["path"]).read_bytes()
        except (OSError, TypeError) as error:
            raise DataError(f"the image {self.name} has no bytes ({error})") from error


def list_hub(name: str) -> Listing:
    """List a dataset by its name on the Hub, `OWNER/NAME`, or by a folder that `datasets` reads.

    Raises:
        DataError: the package is missing, or the dataset cannot be loaded or has another form.
    """
    try:
        package = importlib.import_module("datasets")
    except ImportError as error:
        raise DataError(
            "--data hf:... needs the package `datasets`: pip install 'craft-blackbox[hf]'"
        ) from error
    try:
        splits = package.load_dataset(name)
    except Exception as error:  # the package raises of many kinds, each with a sentence
        raise DataError(f"cannot load {name!r}: {error}") from error
    if "train" not in splits:
        raise DataError(f"{name!r} has the splits {', '.join(splits)}; needed: train")
    test = next((split for split in TEST_SPLITS if split in splits), None)
    image, label = _columns(name, splits["train"].features)
    feature = splits["train"].features[label]
    names = distinct_names((str(number), words) for number, words in enumerate(feature.names))

    def pairs(split: str) -> tuple[Pair, ...]:
        table = splits[split].cast_column(image, package.Image(decode=False))
        labels = enumerate(table[label])
        return tuple(
            (str(number), RowPicture(table, row, image, f"{split}/{row:07d}"))
            for row, number in labels
            if number >= 0
        )

    return Listing(
        pairs("train"),
        pairs(test) if test else (),
        labels=tuple(names),
        names={key: spoken(name) for key, name in names.items()},
    )


def _columns(name: str, features: Any) -> tuple[str, str]:
    found = []
    for kind in ("Image", "ClassLabel"):
        columns = [column for column in features if type(features[column]).__name__ == kind]
        if len(columns) != 1:
            raise DataError(
                f"{name!r} has {len(columns)} columns of type {kind} among {', '.join(features)}; "
                "needed: one. Write a JSONL manifest of it instead"
            )
        found += columns
    return found[0], found[1]
