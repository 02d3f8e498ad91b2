"""Datasets of the Hugging Face Hub or of its cache, by the optional package `datasets`.

The column of images and the column of class labels are found by their types. Images stay the bytes
that they were published as; a row that names a file is read where the dataset was downloaded to,
and nowhere else. Code that a dataset brings along is never run.
"""

import importlib
import io
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from craft_tuner.data.dataset import SetApart, spoken
from craft_tuner.data.listing import Listing, Pair, distinct_names, for_validation
from craft_tuner.data.pictures import read_stored
from craft_tuner.data.places import Places, open_file
from craft_tuner.data.splits import VALIDATION, split_of
from craft_tuner.errors import DataError, PictureError

TEST_SPLITS = ("test", "validation")
"""The first of these that exists is the test split."""


@dataclass(frozen=True, slots=True)
class RowPicture:
    """A picture in a row of a table, read when needed."""

    table: Any
    row: int
    column: str
    name: str
    places: Places

    def open(self) -> BinaryIO:
        """The bytes of the row, or the file that it names.

        Raises:
            PictureError: it holds neither, or the file is not in one of the places.
        """
        cell = self.table[self.row][self.column]
        if cell.get("bytes"):
            return io.BytesIO(cell["bytes"])
        if not isinstance(cell.get("path"), str):
            raise PictureError(
                f"the image {self.name} has neither bytes nor a path", picture=self.name
            )
        return open_file(Path(cell["path"]), self.name, self.places)

    def read(self) -> bytes:
        """All of it."""
        return read_stored(self, self.name)


def list_hub(name: str, outside: Iterable[Path] = ()) -> Listing:
    """List a dataset by its name on the Hub, `OWNER/NAME`, or by a folder that `datasets` reads.

    Its rows may name files in that folder, or where the package keeps what it downloads, or in the
    folders `outside`.

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
    other = next((one for one in splits if split_of(one) == VALIDATION and one != test), None)
    image, label = _columns(name, splits["train"].features)
    feature = splits["train"].features[label]
    names = distinct_names((str(number), words) for number, words in enumerate(feature.names))
    own, *more = _folders(package, name)
    places = Places.of(own, [*more, *outside])

    def pairs(split: str) -> tuple[Pair, ...]:
        table = splits[split].cast_column(image, package.Image(decode=False))
        labels = enumerate(table[label])
        return tuple(
            (str(number), RowPicture(table, row, image, f"{split}/{row:07d}", places))
            for row, number in labels
            if number >= 0
        )

    validation = pairs(other) if other else ()
    found = [for_validation(other, len(validation), tested=bool(test))] if other else []
    return Listing(
        pairs("train"),
        pairs(test) if test else (),
        labels=tuple(names),
        names={key: spoken(name) for key, name in names.items()},
        validation=SetApart(validation),
        faults=tuple(found),
    )


def _folders(package: Any, name: str) -> list[Path]:
    """Where a dataset's own files are: its folder, or what was downloaded of it."""
    if Path(name).is_dir():
        return [Path(name)]
    config = getattr(package, "config", None)
    home = Path(getattr(config, "HF_CACHE_HOME", "~/.cache/huggingface")).expanduser()
    hub = Path(os.environ.get("HF_HUB_CACHE") or home / "hub")
    downloads = getattr(config, "DOWNLOADED_DATASETS_PATH", None)
    folders = [hub / f"datasets--{name.replace('/', '--')}"]
    return [*folders, Path(downloads)] if downloads else folders


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
