"""Pictures without labels, named one by one: files, folders, and a list of both.

Owns what a path on a command line or on standard input stands for. Opens no picture.
"""

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from craft_tuner.data.folders import image_files
from craft_tuner.data.listing import Fault, problems, remarks, shown
from craft_tuner.data.pictures import FilePicture
from craft_tuner.data.places import Places
from craft_tuner.errors import DataError, disk_errors_as

STDIN = Path("-")
"""Stands for the paths on standard input, one a line."""


@dataclass(frozen=True)
class Named:
    """The pictures that paths stand for, each once, and the paths that stand for none.

    `remarks` are sentences on what was passed over in folders.
    """

    pictures: tuple[FilePicture, ...]
    faults: tuple[Fault, ...]
    remarks: tuple[str, ...]


def find_pictures(paths: Sequence[Path], stdin: BinaryIO, *, outside: Iterable[Path] = ()) -> Named:
    """The image files named, and all those in or below the folders named, in order.

    Args:
        paths: files and folders; `-` for those that `stdin` lists, one a line.
        stdin: read to its end if `-` is among the paths; empty lines are passed over.
        outside: folders that links in the folders named may lead to. A file that is named itself
            may be a link to anywhere.

    Raises:
        DataError: the operating system refuses to look.
    """
    faults: list[Fault] = []
    found: dict[str, FilePicture] = {}
    for path in _listed(paths, stdin):
        with disk_errors_as(DataError, f"cannot read {shown(path)}"):
            places = Places.of(path, outside) if path.is_dir() else None
            files = _files(path, faults, places)
        for file in files:
            found.setdefault(shown(file), FilePicture(file, shown(file), places))
    return Named(tuple(found.values()), tuple(problems(faults)), tuple(remarks(faults)))


def _listed(paths: Iterable[Path], stdin: BinaryIO) -> Iterator[Path]:
    for path in paths:
        if path == STDIN:
            yield from (Path(os.fsdecode(line.rstrip(b"\r\n"))) for line in stdin if line.strip())
        else:
            yield path


def _files(path: Path, faults: list[Fault], places: Places | None) -> list[Path]:
    if places is not None:
        before = len(faults)
        folders = [path, *(each for each in sorted(path.rglob("*")) if _is_read(each, path))]
        found = [
            file
            for folder in folders
            for file in image_files(folder, faults, places=places, nested=True)
        ]
        if not found and not problems(faults[before:]):
            sentence = f"{shown(path)} has no images; give image files or folders of them"
            faults.append(Fault("folder without images", shown(path), sentence))
        return found
    if path.is_file():
        return [path]
    sentence = f"there is no image or folder at {shown(path)}"
    faults.append(Fault("missing file", shown(path), sentence))
    return []


def _is_read(path: Path, root: Path) -> bool:
    """Whether this is a folder below `root` and neither it nor what it is in is hidden."""
    hidden = any(part.startswith(".") for part in path.relative_to(root).parts)
    return not hidden and path.is_dir()
