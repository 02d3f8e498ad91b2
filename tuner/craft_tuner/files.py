"""Writes that survive a kill or a power cut: replace a file whole, or append whole lines.

Owns the order of write, flush and rename.
"""

import os
from pathlib import Path


def replace(path: Path, content: bytes) -> None:
    """Make `content` the content of `path`; a reader sees the old or the new, never a part."""
    temporary = path.with_name(path.name + ".tmp")
    with temporary.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
    _sync_directory(path.parent)


def append(path: Path, line: str) -> None:
    """Add one line (given without its end) and wait until the disk has it."""
    created = not path.exists()
    with path.open("ab") as file:
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
    lines = path.read_bytes().splitlines(keepends=True)
    whole = [line for line in lines if line.endswith(b"\n")][:count]
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
