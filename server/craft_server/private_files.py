"""Folders and files that only the account of this server may read: 0700, 0600, whatever the umask.

What exists already is tightened if it is ours to change: a folder only if there is nothing in it
but what a server makes. A server of the root account whose data lie in `/`, or in a folder of
others, must not lock these out. A mount that knows no modes, or a folder of another account, stays
as it is: that is the operator's choice and no error.
"""

import contextlib
import os
import re
import stat
from pathlib import Path

_FOLDER, _FILE = 0o700, 0o600
_OTHERS = stat.S_IRWXG | stat.S_IRWXO


def prepare(folder: Path) -> None:
    """Make or tighten a data folder; if it cannot be made, whoever needs it will say so."""
    with contextlib.suppress(OSError):
        make_folder(folder)
    tighten_own(folder, re.compile(r"craft\.db.*|features\.db.*|images"))


def tighten_own(folder: Path, names: re.Pattern[str]) -> None:
    """Tighten a folder in which everything has a name that we give."""
    with contextlib.suppress(OSError):
        if all(names.fullmatch(entry.name) for entry in folder.iterdir()):
            tighten(folder)


def make_folder(folder: Path) -> None:
    """Make a folder, and those above that are missing, for this account alone."""
    if not folder.is_dir():
        make_folder(folder.parent)
        folder.mkdir(mode=_FOLDER, exist_ok=True)


def make_file(path: Path) -> None:
    """Make an empty file for this account alone, or tighten the one that is there.

    Raises:
        OSError: it cannot be made.
    """
    if path.is_file():
        tighten(path)
    elif not path.exists():
        os.close(opener(str(path), os.O_RDWR | os.O_CREAT))


def opener(path: str, flags: int) -> int:
    """For `open(..., opener=...)`: a file that is made is for this account alone."""
    return os.open(path, flags, _FILE)


def tighten(path: Path) -> None:
    """Take what others may do with a file or folder away, if it is there and ours.

    A folder with the sticky bit, such as /tmp, is shared on purpose and stays as it is.
    """
    with contextlib.suppress(OSError):
        if is_open(path) and (found := path.stat()).st_uid == os.geteuid():
            path.chmod(stat.S_IMODE(found.st_mode) & ~_OTHERS)


def is_open(path: Path) -> bool:
    """May others do something with a file or folder that is there, and is not shared on purpose?

    Raises:
        OSError: it is not there, or cannot be looked at.
    """
    found = path.stat()
    return bool(found.st_mode & _OTHERS) and not _is_shared(found)


def _is_shared(found: os.stat_result) -> bool:
    return bool(found.st_mode & stat.S_ISVTX)
