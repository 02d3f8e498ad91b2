"""Which directory a run may have: one of its own, that nobody works on, with the same settings."""

import errno
import fcntl
import os
from pathlib import Path

from craft_tuner.config.fit_config import FitConfig, fields
from craft_tuner.errors import RunError

CONFIG = "config.json"
LOCK = "lock"


def hold(path: Path) -> int:
    """Lock a directory for this process; the descriptor that holds the lock until it is closed.

    Raises:
        RunError: another process works on it.
        OSError: it cannot be written.
    """
    descriptor = os.open(path / LOCK, os.O_RDWR | os.O_CREAT, 0o600)
    _lock(descriptor, path)
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
    return descriptor


def check_free(path: Path) -> None:
    """Make sure that a directory is there or can be made, and that nobody works on it.

    Raises:
        RunError: another process works on it.
        OSError: it is no directory, or may not be written.
    """
    there = nearest(path)
    if not there.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(there))
    if not os.access(there, os.W_OK | os.X_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(there))
    if (path / LOCK).exists():
        descriptor = os.open(path / LOCK, os.O_RDONLY)
        _lock(descriptor, path)
        os.close(descriptor)


def nearest(path: Path) -> Path:
    """The path, or the nearest above it that there is.

    Raises:
        OSError: its name is too long, say.
    """
    for each in (path, *path.absolute().parents):
        try:
            each.lstat()
        except (FileNotFoundError, NotADirectoryError):
            continue
        return each
    return path


def check_unused(path: Path) -> None:
    """Make sure that a directory has nothing in it.

    Raises:
        RunError: it holds a run or other files.
    """
    if (path / CONFIG).exists():
        raise RunError(
            f"{path} already holds a run; go on with --resume {path}, or choose another directory"
        )
    own = {LOCK, f"{CONFIG}.tmp"}
    foreign = sorted(file.name for file in path.iterdir() if file.name not in own)
    if foreign:
        raise RunError(f"{path} holds other files ({foreign[0]}); choose a new directory")


def check_config(path: Path, *, was: FitConfig, now: FitConfig | None) -> None:
    """Make sure that a run has the settings that are asked for, if any are.

    Raises:
        RunError: it has others; they are named.
    """
    if now is None:
        return
    changed = [
        f"{name} {getattr(was, name, None)!r} -> {getattr(now, name, None)!r}"
        for name in fields(was.method)
        if getattr(was, name, None) != getattr(now, name, None)
    ]
    if changed:
        raise RunError(
            f"{path} was started with other settings ({', '.join(changed)}); resume without these "
            "flags, or start a new run"
        )


def _lock(descriptor: int, path: Path) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        holder = os.pread(descriptor, 32, 0).decode().strip() or "unknown"
        os.close(descriptor)
        raise RunError(
            f"{path} is in use by process {holder}; wait for it, or stop it and try again"
        ) from error
