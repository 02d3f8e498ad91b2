"""Class folders: ROOT/train/CLASS/* with ROOT/test/CLASS/*, or ROOT/CLASS/* to train on alone.

A picture is told by what is in it. Whatever else lies there is left out, named and counted: passing
it over would lose data without a word.
"""

import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from craft_tuner.data.dataset import composed
from craft_tuner.data.formats import KNOWN_ENDINGS, is_image
from craft_tuner.data.listing import Fault, Listing, Pair, left_out
from craft_tuner.data.pictures import FilePicture
from craft_tuner.data.places import OUTSIDE, Places, open_file
from craft_tuner.errors import DataError, PictureError

_FOLDER = "a folder in a class folder"


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
    names = {folder.name for folder in folders}
    faults += (
        left_out("hidden" if _hidden(path) else "beside the class folders", str(path))
        for path in sorted(split.iterdir())
        if path.name not in names and (_hidden(path) or path.suffix.lower() in KNOWN_ENDINGS)
    )
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
    if not files and not all(fault.left_out for fault in faults[before:]):
        return []
    if not files:
        sentence = f"the class folder {folder} has no images; add some, or remove the folder"
        faults.append(Fault("class without images", folder.name, sentence))
    below = composed(folder.relative_to(root).as_posix())
    label = folder.name
    return [(label, FilePicture(path, f"{below}/{composed(path.name)}", places)) for path in files]


def image_files(
    folder: Path, faults: list[Fault], *, places: Places, deep: bool = False
) -> list[Path]:
    """The image files directly in a folder, by name.

    What ends as no picture does is opened: its content decides. What is hidden, no picture or a
    broken link is left out by name, and so are folders unless `deep`: then the caller goes there.
    A link that leads out of the places is a fault, be it a file or the folder itself.
    """
    if not places.holds(folder):
        faults.append(Fault(OUTSIDE, folder.name, places.refusal(folder)))
        return []
    with os.scandir(folder) as entries:  # asks the disk about no file: ImageNet has 1.3 million
        found = sorted((each.name, _kind(each), each.is_symlink()) for each in entries)
    files = []
    for name, kind, link in found:
        path = folder / name
        if kind == _FOLDER and deep:
            continue
        if kind:
            faults.append(left_out(kind, str(path)))
        elif link and not places.holds(path):
            faults.append(Fault(OUTSIDE, str(path), places.refusal(path)))
        elif path.suffix.lower() in KNOWN_ENDINGS or _shows(path, places):
            files.append(path)
        else:
            faults.append(left_out("not a picture", str(path)))
    return files


def _kind(entry: "os.DirEntry[str]") -> str:
    """Why an entry of a folder is no picture; empty if it may be one."""
    if entry.name.startswith("."):
        return "hidden"
    if entry.is_dir():
        return _FOLDER
    if entry.is_file():
        return ""
    return "broken link" if entry.is_symlink() else "no regular file"


def _shows(path: Path, places: Places) -> bool:
    with suppress(PictureError), open_file(path, str(path), places) as file:
        return is_image(file)
    return False


def _hidden(path: Path) -> bool:
    return path.name.startswith(".")
