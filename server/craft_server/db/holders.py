"""Names of processes that share a database: nobody else has one while its process lives.

Owns the locks on names. What a process held is found by its name when it starts again, so two that
live must not have the same one. On SQLite the lock is the operating system's, on a file beside the
database; on Postgres it is one of a session of its own. Both end with the process, however it dies.

On SQLite, the lock of a process that died also says so to all others: its holds need not wait for
their time. A session of Postgres may end before its process does, so there it says nothing.
"""

import fcntl
import hashlib
import logging
import os
import secrets
import socket
from collections.abc import Iterable
from pathlib import Path

from sqlalchemy import text

from craft_server import private_files
from craft_server.db.store import Session, Store

_LOG = logging.getLogger(__name__)
_LONGEST = 64
"""Characters of a name, as the column of holders has them."""
_RANDOM_BYTES = 6
_LOCK = text("SELECT pg_try_advisory_lock(7232649, hashtext(:name))")


class Holder:
    """This process's name among those that share a database, until `close`.

    Attributes:
        name: nobody else's.
        recurs: the operator gave the name, so that a process before may have left something.
    """

    def __init__(self, store: Store, wanted: str = "") -> None:
        """Take the name that is wanted, or one that is like it if a live process has that one.

        Raises:
            Refusal: `not_ready`, the database does not answer.
        """
        self._names = _names_of(store)
        self.name, self.recurs = wanted or _unique(socket.gethostname()), bool(wanted)
        if not self._names.take(self.name):
            self._rename()

    def keep(self) -> bool:
        """Have the name still, or take another one; False if it is another one now."""
        if self._names.kept():
            return True
        self._rename()
        return False

    def dead(self, names: Iterable[str]) -> list[str]:
        """Those of the names whose processes are certainly dead."""
        return [name for name in names if name != self.name and self._names.is_dead(name)]

    def tidy(self) -> None:
        """Forget the dead, once nothing of theirs is left."""
        self._names.tidy()

    def close(self) -> None:
        """Give the name back."""
        self._names.close()

    def _rename(self) -> None:
        taken, self.name, self.recurs = self.name, _unique(self.name), False
        self._names.take(self.name)
        _LOG.warning(
            "another process that lives is called %r: this one is called %r, and what it holds "
            "when it dies is given back when that expires",
            taken,
            self.name,
        )


def living(database: Path) -> int:
    """How many processes that live have a name beside this SQLite database."""
    folder = _folder_of(database)
    files = list(folder.iterdir()) if folder.is_dir() else []
    return sum(_is_locked(file) for file in files)


def _is_locked(path: Path) -> bool:
    """Does a live process have this file? It is looked at for a moment, and stays."""
    file = _locked(path)
    if file is not None:
        os.close(file)
    return file is None and path.exists()


def _folder_of(database: Path) -> Path:
    return database.with_name(f"{database.name}-holders")


def _unique(start: str) -> str:
    end = f"~{secrets.token_hex(_RANDOM_BYTES)}"
    return start[: _LONGEST - len(end)] + end


def _names_of(store: Store) -> "_Files | _Session":
    if store.path is not None:
        return _Files(_folder_of(store.path))
    return _Session(store.session())


class _Files:
    """A lock file for each name, in a folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._own: tuple[Path, int] | None = None

    def take(self, name: str) -> bool:
        private_files.make_folder(self._folder)
        private_files.tighten(self._folder)
        path = self._path(name)
        file = _locked(path, os.O_CREAT)
        self._own = None if file is None else (path, file)
        return file is not None

    def kept(self) -> bool:
        return True  # the operating system takes no lock away

    def is_dead(self, name: str) -> bool:
        file = _locked(self._path(name))
        if file is None:
            return False
        os.close(file)
        return True

    def tidy(self) -> None:
        """Remove the files of the dead."""
        for path in self._folder.iterdir():
            file = _locked(path)
            if file is not None:
                path.unlink(missing_ok=True)
                os.close(file)

    def close(self) -> None:
        if self._own is not None:
            (path, file), self._own = self._own, None
            path.unlink(missing_ok=True)
            os.close(file)

    def _path(self, name: str) -> Path:
        return self._folder / hashlib.sha256(name.encode()).hexdigest()


def _locked(path: Path, flags: int = 0) -> int | None:
    """A locked file; None if another process has it, or there is none."""
    try:
        file = os.open(path, os.O_RDWR | flags, 0o600)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.path.samestat(os.fstat(file), path.stat()):  # and nobody removed it meanwhile
            return file
    except OSError:
        pass
    os.close(file)
    return None


class _Session:
    """An advisory lock of a session that is for nothing else."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._name = ""

    def take(self, name: str) -> bool:
        """Lock a name; true also if this session has it already."""
        self._name = name
        with self._session.read() as tx:
            return bool(tx.scalar(_LOCK, {"name": name}))

    def kept(self) -> bool:
        return self.take(self._name)

    def is_dead(self, _name: str) -> bool:
        return False

    def tidy(self) -> None:
        """There is nothing to remove."""

    def close(self) -> None:
        self._session.close()
