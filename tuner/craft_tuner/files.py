"""Writes that survive a kill or a power cut: replace a file whole, or append whole lines.

Owns the order of write, flush and rename, and who may read: what is made here is its maker's alone
(answers, purchases, pictures), unless it is made to be handed on.
"""

import errno
import os
import re
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any


def handed_on(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of a fit for an adapter or a page: of a folder or file, its name alone."""
    named = settings.get("validation")
    if not (isinstance(named, str) and Path(named).is_absolute()):
        return dict(settings)
    return {**settings, "validation": Path(named).name}


def private(path: str, flags: int) -> int:
    """An opener for `open`: what it creates, nobody else may read, whatever the umask says."""
    return os.open(path, flags, 0o600)


def private_folder(path: Path) -> None:
    """Make a folder that nobody else may enter; its parents, and one that is there, stay as usual.

    Raises:
        OSError: it cannot be made.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with suppress(FileExistsError):
        path.mkdir(mode=0o700)
    if not path.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(path))


def replace(path: Path, content: bytes, *, shared: bool = False) -> None:
    """Make `content` the content of `path`; a reader sees the old or the new, never a part.

    A `shared` file is one to hand on: others may read it as far as the umask says.
    """
    temporary = path.with_name(path.name + ".tmp")
    temporary.unlink(missing_ok=True)  # what a kill left would keep its mode
    with open(temporary, "wb", opener=None if shared else private) as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
    _sync_directory(path.parent)


def append(path: Path, line: str) -> None:
    """Add one line (given without its end) and wait until the disk has it."""
    created = not path.exists()
    with open(path, "ab", opener=private) as file:
        file.write(line.encode() + b"\n")
        file.flush()
        os.fsync(file.fileno())
    if created:
        _sync_directory(path.parent)


def keep_lines(path: Path, count: int) -> list[str]:
    """Cut a file back to its first `count` whole lines and return them; fewer if it has fewer.

    What follows, a line torn by a kill included, is gone for good.
    """
    if not path.exists():
        return []
    whole = re.findall(rb"[^\n]*\n", path.read_bytes())[:count]
    length = sum(len(line) for line in whole)
    if length != path.stat().st_size:
        with path.open("r+b") as file:
            file.truncate(length)
            os.fsync(file.fileno())
    return [line[:-1].decode() for line in whole]


def _sync_directory(directory: Path) -> None:
    """A rename or a new name is on disk only when its directory is."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
