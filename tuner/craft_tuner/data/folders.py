"""Class folders: ROOT/train/CLASS/* with ROOT/test/CLASS/*, or ROOT/CLASS/* to train on alone.

A picture is told by what is in it. Split folders have usual names (`splits.py`). Whatever else lies
there is passed over, named and counted: losing data without a word would be worse.
"""

import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from craft_tuner.data.dataset import SetApart, composed, encodable
from craft_tuner.data.formats import KNOWN_ENDINGS, is_image
from craft_tuner.data.listing import (
    Fault,
    Listing,
    Pair,
    for_validation,
    passed_over,
    problems,
    shown,
)
from craft_tuner.data.pictures import FilePicture
from craft_tuner.data.places import OUTSIDE, Places, open_file
from craft_tuner.data.splits import TEST, TRAIN, VALIDATION, split_of
from craft_tuner.errors import DataError, PictureError

HIDDEN = "hidden, passed over"
"""What is said of files and folders whose name begins with a dot."""

INSIDE = "folder within a class folder, passed over"

_METADATA = ("metadata.csv", "metadata.jsonl")
"""Hugging Face's tables beside images."""


def list_folders(root: Path, outside: Iterable[Path] = ()) -> Listing:
    """List a tree of class folders: what holds split folders, or the class folders.

    Links that lead out of it are faults, unless they lead into one of the folders `outside`.

    Raises:
        DataError: there are no class folders, or two folders are the same split.
    """
    faults: list[Fault] = []
    places = Places.of(root, outside)

    def pairs(split: Path | None) -> tuple[Pair, ...]:
        return tuple(class_pairs(root, split, faults, places=places)) if split else ()

    splits = split_folders(root, places)
    if not splits:
        return Listing(pairs(root), faults=tuple(faults))
    train, test = pairs(splits.get(TRAIN)), pairs(splits.get(TEST))
    faults += (
        passed_over("folder beside the splits, passed over", folder)
        for folder in class_folders(root)
        if folder not in splits.values()
    )
    validation, apart = splits.get(VALIDATION), SetApart()
    if validation:
        apart = _set_apart(root, validation, faults, places)
        name, tested = f"{validation.name}/", TEST in splits
        faults.append(for_validation(name, len(apart.pairs), tested=tested))
    return Listing(train, test, validation=apart, faults=tuple(faults))


def split_folders(root: Path, places: Places) -> dict[str, Path]:
    """The folders that hold splits; none where the folders of `root` are classes.

    A class may be called train, as may a folder of pictures: splits hold class folders, or there
    is nothing but splits.

    Raises:
        DataError: two folders are the same split.
    """
    folders = class_folders(root)
    named = [(split_of(folder.name), folder) for folder in folders]
    found: dict[str, Path] = {}
    for split, folder in named:
        if split is not None and split in found:
            raise DataError(
                f"{found[split]} and {folder} are both for {split}; rename or remove one of them"
            )
        if split is not None:
            found[split] = folder
    train = found.get(TRAIN)
    holds_classes = train and (not places.holds(train) or class_folders(train))
    return found if holds_classes or len(found) == len(folders) else {}


def _set_apart(root: Path, split: Path, faults: list[Fault], places: Places) -> SetApart:
    """The pictures of the validation split; what is wrong with it matters to who uses it."""
    found: list[Fault] = []
    try:
        pairs = class_pairs(root, split, found, places=places)
    except DataError as error:
        return SetApart(refusal=error.message)
    faults += (fault for fault in found if not fault.problem)
    wrong = problems(found)
    return SetApart(tuple(pairs), wrong[0].sentence if wrong else "")


def class_pairs(root: Path, split: Path, faults: list[Fault], *, places: Places) -> list[Pair]:
    """The pictures of the class folders in `split`, named by their paths below `root`.

    Raises:
        DataError: there are no class folders.
    """
    if not places.holds(split):
        faults.append(Fault(OUTSIDE, split.name, places.refusal(split)))
        return []
    folders = class_folders(split)
    if not folders:
        raise DataError(f"{split} has no class folders; {_needed(split)}")
    faults += (
        passed_over(reason, Path(each.path))
        for each in sorted(_entries(split), key=lambda entry: entry.name)
        if (reason := _why_beside(each))
    )
    return [
        pair for folder in folders for pair in folder_pairs(root, folder, faults, places=places)
    ]


def class_folders(split: Path) -> list[Path]:
    """The folders in a folder, by name; hidden ones left out."""
    return sorted(
        split / each.name
        for each in _entries(split)
        if _is_folder(each) and not each.name.startswith(".")
    )


def folder_pairs(root: Path, folder: Path, faults: list[Fault], *, places: Places) -> list[Pair]:
    """The pictures of one class folder.

    That it has none, leads elsewhere, or has a name that is not UTF-8 is a fault.
    """
    if not encodable(folder.name):
        faults.append(_not_text(folder))
        return []
    before = len(faults)
    files = image_files(folder, faults, places=places)
    if not files and problems(faults[before:]):
        return []
    if not files:
        sentence = f"the class folder {folder} has no images; add some, or remove the folder"
        faults.append(Fault("class without images", folder.name, sentence))
    faults += (_not_text(path) for path in files if not encodable(path.name))
    below = composed(folder.relative_to(root).as_posix())
    return [
        (folder.name, FilePicture(path, f"{below}/{composed(path.name)}", places))
        for path in files
        if encodable(path.name)
    ]


def image_files(
    folder: Path, faults: list[Fault], *, places: Places, nested: bool = False
) -> list[Path]:
    """The image files directly in a folder, by name.

    What ends as no picture does is opened: its content decides. What is hidden, no picture or a
    link to nothing is passed over and remarked, and so are folders unless `nested`: then the caller
    goes there. A link that leads out of the places is a fault, be it a file or the folder itself.
    """
    if not places.holds(folder):
        faults.append(Fault(OUTSIDE, shown(Path(folder.name)), places.refusal(folder)))
        return []
    files = []
    for entry in sorted(_entries(folder), key=lambda entry: entry.name):
        path = folder / entry.name
        if reason := _why_left_out(entry):
            if not (nested and reason == INSIDE):
                faults.append(passed_over(reason, path))
        elif entry.is_symlink() and not places.holds(path):
            faults.append(Fault(OUTSIDE, shown(path), places.refusal(path)))
        elif path.suffix.lower() in KNOWN_ENDINGS or _shows(path, places):
            files.append(path)
        else:
            faults.append(passed_over("no picture, passed over", path))
    return files


def _shows(path: Path, places: Places) -> bool:
    with suppress(PictureError), open_file(path, shown(path), places) as file:
        return is_image(file)
    return False


def _why_left_out(entry: os.DirEntry[str]) -> str:
    """Why an entry of a class folder is passed over; empty if it may be a picture."""
    if entry.name.startswith("."):
        return HIDDEN
    if _is_folder(entry):
        return INSIDE
    if _is_file(entry):
        return ""
    return "link to nothing, passed over" if entry.is_symlink() else "no regular file, passed over"


def _why_beside(entry: os.DirEntry[str]) -> str:
    """Why an entry beside class folders is passed over; empty if it is one, or of no interest."""
    if entry.name.startswith("."):
        return HIDDEN
    known = Path(entry.name).suffix.lower() in KNOWN_ENDINGS
    return "beside the class folders, passed over" if known and not _is_folder(entry) else ""


def _is_folder(entry: os.DirEntry[str]) -> bool:
    return Path(entry.path).is_dir() if entry.is_symlink() else entry.is_dir()


def _is_file(entry: os.DirEntry[str]) -> bool:
    return Path(entry.path).is_file() if entry.is_symlink() else entry.is_file()


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    """What is in a folder. The disk is asked about no file: ImageNet has 1.3 million."""
    try:
        with os.scandir(folder) as entries:
            return list(entries)
    except OSError as error:
        raise DataError(f"cannot read the folder {shown(folder)}: {error.strerror}") from error


def _not_text(path: Path) -> Fault:
    sentence = f"the name of {shown(path)} is not UTF-8; rename it"
    return Fault("name that is not UTF-8", shown(path), sentence)


def _needed(split: Path) -> str:
    """What to do about a folder without class folders."""
    table = next((split / name for name in _METADATA if (split / name).is_file()), None)
    if table:
        return f"give the table that describes its images: {table}"
    return f"needed: one folder of images per class, as in {split / 'cat'} and {split / 'dog'}"
