"""Class folders: ROOT/train/CLASS/* with ROOT/test/CLASS/*, or ROOT/CLASS/* to train on alone.

Hidden files, and files that are no images, are passed over. Image formats that a server would
refuse are named, because passing them over would lose data without a word.
"""

import os
from collections.abc import Iterable
from pathlib import Path

from craft_tuner.data.dataset import composed
from craft_tuner.data.listing import Fault, Listing, Pair
from craft_tuner.data.pictures import IMAGE_SUFFIXES, OTHER_IMAGE_SUFFIXES, FilePicture
from craft_tuner.data.places import OUTSIDE, Places
from craft_tuner.errors import DataError


def list_folders(root: Path, outside: Iterable[Path] = ()) -> Listing:
    """List a tree of class folders: what holds train/ and maybe test/, or the class folders.

    Links that lead out of it are faults, unless they lead into one of the folders `outside`.

    Raises:
        DataError: there are no class folders.
    """
    faults: list[Fault] = []
    places = Places.of(root, outside)

    def pairs(split: Path) -> tuple[Pair, ...]:
        return tuple(class_pairs(root, split, faults, places=places))

    if not (root / "train").is_dir():
        return Listing(pairs(root), faults=tuple(faults))
    train = pairs(root / "train")
    test = pairs(root / "test") if (root / "test").is_dir() else ()
    return Listing(train, test, faults=tuple(faults))


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
        raise DataError(
            f"{split} has no class folders; needed: one folder of images per class, as in "
            f"{split / 'cat'} and {split / 'dog'}"
        )
    return [
        pair for folder in folders for pair in folder_pairs(root, folder, faults, places=places)
    ]


def class_folders(split: Path) -> list[Path]:
    """The folders in a folder, by name; hidden ones left out."""
    return [path for path in sorted(split.iterdir()) if path.is_dir() and not _hidden(path)]


def folder_pairs(root: Path, folder: Path, faults: list[Fault], *, places: Places) -> list[Pair]:
    """The pictures of one class folder; that it has none, or leads elsewhere, is a fault."""
    before = len(faults)
    files = image_files(folder, faults, places=places)
    if not files and len(faults) > before:
        return []
    if not files:
        sentence = (
            f"the class folder {folder} has no images; add JPEG, PNG or WebP files, or remove the "
            "folder"
        )
        faults.append(Fault("class without images", folder.name, sentence))
    below = composed(folder.relative_to(root).as_posix())
    label = folder.name
    return [(label, FilePicture(path, f"{below}/{composed(path.name)}", places)) for path in files]


def image_files(folder: Path, faults: list[Fault], *, places: Places) -> list[Path]:
    """The image files directly in a folder, by name; hidden files and other files left out.

    An image of a format that servers do not take is a fault, and so is a link that leads out of
    the places, be it a file or the folder itself.
    """
    if not places.holds(folder):
        faults.append(Fault(OUTSIDE, folder.name, places.refusal(folder)))
        return []
    with os.scandir(folder) as entries:  # asks the disk about no file: ImageNet has 1.3 million
        found = [(each.name, each.is_symlink()) for each in entries if each.is_file()]
    known = IMAGE_SUFFIXES | OTHER_IMAGE_SUFFIXES
    files = []
    for name, link in sorted(found):
        path = folder / name
        if name.startswith(".") or path.suffix.lower() not in known:
            continue
        if link and not places.holds(path):
            faults.append(Fault(OUTSIDE, str(path), places.refusal(path)))
        else:
            files.append(path)
    for path in files:
        if path.suffix.lower() in OTHER_IMAGE_SUFFIXES:
            sentence = f"{path} is not JPEG, PNG or WebP; convert it, or take it out"
            faults.append(Fault("format that no server takes", str(path), sentence))
    return [path for path in files if path.suffix.lower() in IMAGE_SUFFIXES]


def _hidden(path: Path) -> bool:
    return path.name.startswith(".")
