"""Which reader reads what `--data` names.

photos/                     class folders
photos.csv, photos.jsonl    a manifest
coop:NAME@ROOT              a dataset of the paper, laid out as CoOp has it below ROOT
hf:OWNER/NAME               a dataset of the Hugging Face Hub
digits                      scikit-learn's handwritten digits
"""

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from craft_tuner.data.benchmarks import BENCHMARKS, Benchmark
from craft_tuner.data.class_names import WORDNET_ID
from craft_tuner.data.dataset import Dataset, encodable
from craft_tuner.data.digits import load_digits
from craft_tuner.data.folders import list_folders
from craft_tuner.data.hugging_face import list_hub
from craft_tuner.data.layouts import find_benchmark, list_benchmark
from craft_tuner.data.listing import Listing, distinct_names, shown
from craft_tuner.data.tables import list_table, read_class_names
from craft_tuner.errors import DataError, disk_errors_as

DIGITS = "digits"
COOP = "coop:"
HUB = "hf:"


def read_dataset(
    source: str, *, class_names: Path | None = None, outside: Iterable[Path] = ()
) -> Dataset:
    """Read a dataset; no image is opened.

    Args:
        source: what `--data` names; see the module.
        class_names: a file of `label = class name` lines.
        outside: folders that its images may be in beside its own.

    Raises:
        DataError: there is nothing at `source`, or its reader refuses it.
    """
    return list_source(source, class_names=class_names, outside=outside).dataset()


def list_source(
    source: str, *, class_names: Path | None = None, outside: Iterable[Path] = ()
) -> Listing:
    """List a dataset without judging it; otherwise as `read_dataset`.

    A file of ImageNet's names may name more WordNet ids than the dataset has.
    """
    listing = list_splits(source, outside)
    if listing.validation.pairs and not (listing.train or listing.test):
        raise DataError(
            f"{source} has images for validation alone; call them train to train on them"
        )
    if class_names is None:
        return listing
    check_name(str(class_names))
    names, labels = read_class_names(class_names), set(listing.classes())
    ids = {label: name for label, name in names.items() if WORDNET_ID.fullmatch(label)}
    others = {label: name for label, name in names.items() if label not in ids}
    known = ((label, name) for label, name in ids.items() if label in labels)
    return listing.renamed(others | distinct_names(known))


def list_splits(source: str, outside: Iterable[Path] = ()) -> Listing:
    """The same of a source that may have any splits, one for validation alone too."""
    check_name(source)
    folders = tuple(outside)
    with disk_errors_as(DataError, f"cannot read the dataset {source!r}"):
        return replace(_list(source, folders), outside=folders)


def absolute(source: str) -> str:
    """The source as it reads from any working directory.

    Raises:
        DataError: it is empty, or its name is not UTF-8.
    """
    check_name(source)
    if source.startswith(COOP):
        name, root = _parts(source)
        return f"{COOP}{name}@{root.absolute()}"
    return source if source.startswith(HUB) or source == DIGITS else str(Path(source).absolute())


def title(source: str) -> str:
    """A short name for a source, fit for a folder's name."""
    if source.startswith(COOP):
        return _parts(source)[0]
    return Path(source.removeprefix(HUB)).stem


def benchmark_of(source: str) -> Benchmark | None:
    """The dataset of the paper that a source names, if it names one."""
    return find_benchmark(_parts(source)[0]) if source.startswith(COOP) else None


def _list(source: str, outside: tuple[Path, ...]) -> Listing:
    path = Path(source)
    if source.startswith(COOP):
        return list_benchmark(*_parts(source), outside)
    if source.startswith(HUB):
        return list_hub(source.removeprefix(HUB), outside)
    if source == DIGITS and not path.exists():
        return _digits()
    if path.is_dir():
        return list_folders(path, outside)
    if path.is_file():
        return list_table(path, outside)
    raise DataError(
        f"there is no dataset at {source!r}; give a folder of class folders, a CSV or JSONL file "
        f"with path, label and maybe split, coop:NAME@ROOT (NAME: {', '.join(BENCHMARKS)}), "
        f"hf:OWNER/NAME, or {DIGITS!r}"
    )


def check_name(source: str) -> None:
    """Make sure that a path is given and can be written down.

    Raises:
        DataError: it is empty, or not UTF-8.
    """
    if not source.strip():
        raise DataError(f"the dataset is {source!r}; give a folder, a file, or a name to --data")
    if not encodable(source):
        raise DataError(f"the name of {shown(Path(source))} is not UTF-8; rename it")


def _parts(source: str) -> tuple[str, Path]:
    """Name and root of `coop:NAME@ROOT`; without a root, the working directory."""
    name, _, root = source.removeprefix(COOP).partition("@")
    return name, Path(root or ".").expanduser()


def _digits() -> Listing:
    dataset = load_digits()
    names = dataset.class_names
    train, test = (
        tuple((names[item.label], item.picture) for item in items)
        for items in (dataset.train, dataset.test)
    )
    return Listing(train, test, labels=names)
