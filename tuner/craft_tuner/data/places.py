"""Which folders a dataset's files may come from, and how a file is opened there and nowhere else.

A dataset is often another's work: a row `../../.ssh/id_rsa`, a link called 1.png or a class folder
that is a link would make the tuner read, and send, what was never meant. So a file belongs to the
dataset's own folder once all links are followed, or to a folder that its user allows by name
(`--allow-outside`). What is opened is what was judged: no link is followed on the way to it.
"""

import os
import stat
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, Self

from craft_tuner.errors import PictureError

OUTSIDE = "file outside the dataset"
"""The kind of a reader's fault."""

_READ = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
"""Without waiting: to open a pipe would wait for a writer."""
_FOLDER = getattr(os, "O_PATH", os.O_RDONLY) | os.O_DIRECTORY | os.O_CLOEXEC


@dataclass(frozen=True)
class Places:
    """The folders that files may be in, without links; the first is the dataset's own."""

    folders: tuple[Path, ...]
    _known: dict[Path, bool] = field(default_factory=dict, compare=False, repr=False)
    """Folders judged before: a manifest names a million files in a few of them."""

    @classmethod
    def of(cls, own: Path, also: Iterable[Path] = ()) -> Self:
        """The dataset's folder, and those that its user allows beside it."""
        return cls(tuple(Path(os.path.realpath(folder)) for folder in (own, *also)))

    def holds(self, path: Path) -> bool:
        """Whether a file or folder is in one of the folders once its links are followed."""
        parent = path.parent
        if parent not in self._known:
            self._known[parent] = self.folder_of(os.path.realpath(parent)) is not None
        if self._known[parent] and path.name != ".." and not path.is_symlink():
            return True
        return self.folder_of(os.path.realpath(path)) is not None

    def folder_of(self, real: str) -> Path | None:
        """The folder that a path without links is in; None: it is in none of them."""
        path = Path(real)
        return next((folder for folder in self.folders if path.is_relative_to(folder)), None)

    def refusal(self, path: Path, what: str = "") -> str:
        """Why a path is not read, what is allowed, and what allows it; `what` names it first."""
        real = Path(os.path.realpath(path))
        leads = f"{what or path} is {real}, " if str(real) != what else f"{what} is "
        return (
            f"{leads}outside the dataset's folder {self.folders[0]}, and is not read; put the file "
            f"there, or allow its folder by name: --allow-outside {real.parent}"
        )


def open_file(path: Path, name: str, places: Places | None) -> BinaryIO:
    """Open a regular file for reading, in one of the places; anywhere if there are none.

    Args:
        path: of the file; links are followed first and judged by where they lead.
        name: what people call the picture.
        places: None for a path that the user has named.

    Raises:
        PictureError: it is elsewhere, a pipe, a device or empty, or cannot be opened.
    """
    try:
        descriptor = os.open(path, _READ) if places is None else _descend(path, name, places)
    except OSError as error:
        raise PictureError(
            f"cannot read the image {path}: {error.strerror}; restore the file or take "
            "it out of the dataset",
            picture=name,
        ) from error
    try:
        _check(os.fstat(descriptor), path, name)
    except PictureError:
        os.close(descriptor)
        raise
    return os.fdopen(descriptor, "rb")


def _descend(path: Path, name: str, places: Places) -> int:
    """Open what is there now, folder by folder, no link followed: nothing can be swapped."""
    real = os.path.realpath(path)
    folder = places.folder_of(real)
    if folder is None:
        raise PictureError(places.refusal(path, name), picture=name)
    *folders, last = Path(real).relative_to(folder).parts or (".",)
    here = os.open(folder, _FOLDER)
    try:
        for each in folders:
            below = os.open(each, _FOLDER | os.O_NOFOLLOW, dir_fd=here)
            os.close(here)
            here = below
        return os.open(last, _READ | os.O_NOFOLLOW, dir_fd=here)
    finally:
        os.close(here)


def _check(status: os.stat_result, path: Path, name: str) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise PictureError(
            f"the image {path} is no regular file (a folder, pipe or device); replace or remove it",
            picture=name,
        )
    if status.st_size == 0:
        raise PictureError(
            f"the image {path} is empty (0 bytes); replace or remove it", picture=name
        )
