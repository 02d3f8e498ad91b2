"""Class folders: ROOT/train/CLASS/* with ROOT/test/CLASS/*, or ROOT/CLASS/* to train on alone.

Hidden files, and files that are no images, are passed over. Image formats that a server would
refuse are named, because passing them over would lose data without a word.
"""

from collections.abc import Iterator
from pathlib import Path

from craft_tuner.data.dataset import Dataset, assemble, composed
from craft_tuner.data.pictures import (
    IMAGE_SUFFIXES,
    OTHER_IMAGE_SUFFIXES,
    FilePicture,
    Picture,
)
from craft_tuner.errors import DataError


def read_folders(root: Path, *, renamed: dict[str, str] | None = None) -> Dataset:
    """Read a tree of class folders; no image is opened.

    Args:
        root: the folder that holds train/ and maybe test/, or the class folders themselves.
        renamed: class names for folder names (default: underscores read as spaces).

    Raises:
        DataError: no classes, an empty class, a class in one split only, or a format that servers
            do not take.
    """
    if (root / "train").is_dir():
        train = list(_pairs(root, root / "train"))
        test = list(_pairs(root, root / "test")) if (root / "test").is_dir() else []
        return assemble(train, test, renamed=renamed)
    return assemble(list(_pairs(root, root)), [], renamed=renamed)


def image_files(folder: Path) -> list[Path]:
    """The image files directly in a folder, by name; hidden files and other files left out.

    Raises:
        DataError: an image of a format that servers do not take.
    """
    files = [path for path in sorted(folder.iterdir()) if path.is_file() and not _hidden(path)]
    for path in files:
        if path.suffix.lower() in OTHER_IMAGE_SUFFIXES:
            raise DataError(f"{path} is not JPEG, PNG or WebP; convert it, or take it out")
    return [path for path in files if path.suffix.lower() in IMAGE_SUFFIXES]


def _pairs(root: Path, split: Path) -> Iterator[tuple[str, Picture]]:
    folders = [path for path in sorted(split.iterdir()) if path.is_dir() and not _hidden(path)]
    if not folders:
        raise DataError(
            f"{split} has no class folders; needed: one folder of images per class, as in "
            f"{split / 'cat'} and {split / 'dog'}"
        )
    for folder in folders:
        files = image_files(folder)
        if not files:
            raise DataError(
                f"the class folder {folder} has no images; add JPEG, PNG or WebP files, or "
                "remove the folder"
            )
        for path in files:
            yield folder.name, FilePicture(path, composed(path.relative_to(root).as_posix()))


def _hidden(path: Path) -> bool:
    return path.name.startswith(".")
