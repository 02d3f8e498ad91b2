"""Reading the paper's datasets where CoOp's users have them: one function for each form of layout.

    split          a JSON file {"train": [[path, label, class name], ...], "val": ..., "test": ...}
    variants       FGVC-Aircraft: variants.txt, images_variant_{train,val,test}.txt
    train-val      ImageNet: train/WNID/*, val/WNID/*; names in classnames.txt
    numbered       ImageNetV2: folders 0, 1, ...: lines of classnames.txt
    class-folders  the other shifted sets: WNID/*; names in classnames.txt

Pickles that CoOp leaves beside them are never opened: a pickle is a program. Images are listed, not
opened; those that an index names and the disk lacks are faults.
"""

import json
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from craft_tuner.data.benchmarks import BENCHMARKS, Benchmark
from craft_tuner.data.dataset import SetApart, spoken
from craft_tuner.data.folders import class_folders, class_pairs, folder_pairs
from craft_tuner.data.listing import Fault, Listing, Pair, distinct_names, some
from craft_tuner.data.pictures import FilePicture
from craft_tuner.data.places import OUTSIDE, Places
from craft_tuner.errors import DataError

SPLITS = ("train", "val", "test")


def list_benchmark(name: str, root: Path, outside: Iterable[Path] = ()) -> Listing:
    """List a dataset of the paper; `root` is the folder that holds all of them.

    Its index and its images are in its own folder below `root`, or in the folders `outside`.

    Raises:
        DataError: no dataset has this name, or its folder or index is missing or of another form.
    """
    benchmark = find_benchmark(name)
    base = root / benchmark.folder
    images = base / benchmark.images
    if not images.is_dir():
        raise DataError(
            f"{benchmark.title} has its images in {images}, which is no folder; ROOT in "
            "coop:NAME@ROOT is the folder that holds the datasets' folders, as CoOp's DATASETS.md "
            "lays them out"
        )
    places = Places.of(base, outside)
    if not places.holds(images):
        raise DataError(places.refusal(images))
    return _FORMS[benchmark.form](benchmark, base, images, places)


def find_benchmark(name: str) -> Benchmark:
    """The dataset of this name; hyphens count as underscores.

    Raises:
        DataError: there is none.
    """
    found = BENCHMARKS.get(name.lower().replace("-", "_"))
    if found is None:
        raise DataError(f"no dataset is called {name!r}; there are: {', '.join(BENCHMARKS)}")
    return found


# --- split files --------------------------------------------------------------------------------


def _split(benchmark: Benchmark, base: Path, images: Path, places: Places) -> Listing:
    file = base / benchmark.index
    try:
        splits = json.loads(_text(file, places))
    except (ValueError, RecursionError) as error:
        raise DataError(f"{file} is not valid JSON ({error}); fetch it again") from error
    if not isinstance(splits, dict) or not set(SPLITS) <= splits.keys():
        raise DataError(f"{file} has another form; needed: an object with {', '.join(SPLITS)}")
    rows = {split: [_row(file, row) for row in _rows(file, splits[split])] for split in SPLITS}
    names: dict[int, str] = {}
    for _, label, name in (row for split in SPLITS for row in rows[split]):
        if names.setdefault(label, name) != name:
            raise DataError(f"{file}: label {label} is called {names[label]!r} and {name!r}")
    keys = distinct_names((str(label), names[label]) for label in sorted(names))
    pairs = {
        split: [(keys[str(label)], path) for path, label, _ in rows[split]] for split in SPLITS
    }
    return _indexed(images, pairs, labels=tuple(keys.values()), places=places)


def _rows(file: Path, rows: Any) -> Iterator[Any]:
    if not isinstance(rows, list):
        raise DataError(f"{file}: a split is {str(rows)[:40]!r}; needed: a list")
    yield from rows


def _row(file: Path, row: Any) -> tuple[str, int, str]:
    match row:
        case [str(path), int(label), str(name)] if not isinstance(label, bool):
            return path, label, name
        case _:
            raise DataError(f"{file}: {str(row)[:60]!r}; needed: [path, label, class name]")


def _variants(benchmark: Benchmark, base: Path, images: Path, places: Places) -> Listing:
    labels = tuple(line for line in _lines(base / benchmark.index, places) if line)
    pairs: dict[str, list[tuple[str, str]]] = {}
    for split in SPLITS:
        file = base / f"images_variant_{split}.txt"
        rows = [line.partition(" ") for line in _lines(file, places) if line]
        strange = sorted({label for _, _, label in rows} - set(labels))
        if strange:
            raise DataError(f"{file} has {some(strange)}, not in {benchmark.index} beside it")
        pairs[split] = [(label, f"{stem}.jpg") for stem, _, label in rows]
    return _indexed(images, pairs, labels=labels, places=places)


def _indexed(
    images: Path,
    pairs: dict[str, list[tuple[str, str]]],
    *,
    labels: tuple[str, ...],
    places: Places,
) -> Listing:
    """A listing of (label, path) pairs by split; a fault of validation is for who uses it."""
    faults: list[Fault] = []
    wrong: list[Fault] = []
    train = tuple(_found(images, pairs["train"], faults, places))
    test = tuple(_found(images, pairs["test"], faults, places))
    validation = tuple(_found(images, pairs["val"], wrong, places))
    apart = SetApart(validation, wrong[0].sentence if wrong else "")
    return Listing(train, test, labels=labels, validation=apart, faults=tuple(faults))


def _found(
    images: Path, pairs: Iterable[tuple[str, str]], faults: list[Fault], places: Places
) -> Iterator[Pair]:
    for label, name in pairs:
        below = PurePosixPath(name)
        if below.is_absolute() or ".." in below.parts:
            raise DataError(f"the index of {images} names {name!r}, which is not inside it")
        path = images / below
        if not places.holds(path):
            faults.append(Fault(OUTSIDE, name, places.refusal(path)))
        elif not path.is_file():
            sentence = f"there is no image at {path}; restore it: the split file names it"
            faults.append(Fault("missing file", name, sentence))
        yield label, FilePicture(path, name, places)


# --- ImageNet and its shifted sets --------------------------------------------------------------


def _train_val(benchmark: Benchmark, base: Path, images: Path, places: Places) -> Listing:
    names = _class_names(benchmark, base, places)
    faults: list[Fault] = []
    splits = []
    for split in ("train", "val"):
        if not (images / split).is_dir():
            raise DataError(f"there is no folder {images / split}; ImageNet has train and val")
        splits.append(tuple(class_pairs(images, images / split, faults, places=places)))
    train, test = splits
    labels = tuple(sorted({label for label, _ in (*train, *test)}))
    return _named(Listing(train, test, labels=labels, faults=tuple(faults)), names, base)


def _numbered(benchmark: Benchmark, base: Path, images: Path, places: Places) -> Listing:
    names = _class_names(benchmark, base, places)
    faults: list[Fault] = []
    pairs: list[Pair] = []
    for number, label in enumerate(names):
        folder = images / str(number)
        if folder.is_dir():
            found = folder_pairs(images, folder, faults, places=places)
            pairs += ((label, picture) for _, picture in found)
        else:
            sentence = f"there is no folder {folder}; it holds the images of {names[label]!r}"
            faults.append(Fault("missing class folder", folder.name, sentence))
    return Listing((), tuple(pairs), labels=tuple(names), names=names, faults=tuple(faults))


def _folders(benchmark: Benchmark, base: Path, images: Path, places: Places) -> Listing:
    names = _class_names(benchmark, base, places)
    faults: list[Fault] = []
    test = tuple(class_pairs(images, images, faults, places=places))
    labels = tuple(folder.name for folder in class_folders(images))
    listing = Listing((), test, labels=labels, closed=benchmark.closed, faults=tuple(faults))
    return _named(listing, names, base)


def _named(listing: Listing, names: dict[str, str], base: Path) -> Listing:
    strange = [label for label in listing.labels if label not in names]
    if strange:
        raise DataError(f"classnames.txt of {base} has no line for {some(strange)}")
    return listing.renamed({label: names[label] for label in listing.labels})


def _class_names(benchmark: Benchmark, base: Path, places: Places) -> dict[str, str]:
    """Class names by WordNet id, in the file's order; ImageNet's own serve its shifted sets."""
    own = base / benchmark.index
    shared = base.parent / BENCHMARKS["imagenet"].folder / benchmark.index
    if own.is_file() or not shared.is_file():
        lines = _lines(own, places)
    else:
        lines = _lines(shared, Places.of(shared.parent, places.folders[1:]))
    parts = (line.partition(" ") for line in lines if line)
    return distinct_names((wnid, spoken(name)) for wnid, _, name in parts)


_FORMS = {
    "split": _split,
    "variants": _variants,
    "train-val": _train_val,
    "numbered": _numbered,
    "class-folders": _folders,
}


def _lines(file: Path, places: Places) -> list[str]:
    return [line.strip() for line in _text(file, places).splitlines()]


def _text(file: Path, places: Places) -> str:
    """An index of the dataset: what it says becomes class names, which are sent."""
    if not places.holds(file):
        raise DataError(places.refusal(file))
    try:
        return file.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise DataError(
            f"cannot read {file}: {error.strerror}; CoOp's DATASETS.md says where it is from"
        ) from error
    except UnicodeDecodeError as error:
        raise DataError(f"{file} is not UTF-8 text; fetch it again") from error
