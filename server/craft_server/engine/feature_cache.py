"""Records of encoded images on disk, so that a restart encodes nothing again.

Owns one SQLite file. It is a cache and no ledger: whatever is wrong with the file, a caller sees
images that are not there, never an error.

    records(key, digest, record)   record = what the model gave + its CRC-32, little-endian

The table `features` of older servers shared records among owners; it is dropped.

SQLite checks no page, so each record carries its own sum: a wrong feature is worse than none.
"""

import contextlib
import logging
import sqlite3
import threading
import time
import zlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from craft_server import private_files

T = TypeVar("T")

_LOG = logging.getLogger(__name__)
_BUSY_TIMEOUT_S = 1.0
_REST_S = 30.0
_DIGESTS_PER_QUERY = 500
_SUM_BYTES = 4
_DAMAGED = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}
_SCHEMA = """
PRAGMA journal_mode = WAL;
PRAGMA synchronous = NORMAL;
CREATE TABLE IF NOT EXISTS records (
    key TEXT NOT NULL, digest BLOB NOT NULL, record BLOB NOT NULL, PRIMARY KEY (key, digest)
);
"""
_PUT = """
INSERT INTO records (key, digest, record) VALUES (?, ?, ?)
ON CONFLICT (key, digest) DO UPDATE SET record = excluded.record
"""
_FIND_OLD = "SELECT 1 FROM sqlite_master WHERE name = 'features'"
_TRIM = "DELETE FROM records WHERE rowid <= (SELECT max(rowid) FROM records) - ?"
"""Row ids only grow, so the newest `capacity` of them hold at most that many records."""


class FeatureCache:
    """Records by key and image digest; thread-safe, and safe with other processes on the file.

    Args:
        path: the SQLite file; made when first needed.
        capacity: most records kept, the oldest go first; 0 keeps none and makes no file.
    """

    def __init__(self, path: Path, *, capacity: int) -> None:
        self._path = path
        self._capacity = capacity
        self._lock = threading.Lock()
        self._connection: sqlite3.Connection | None = None
        self._warned = False
        self._rests_until = 0.0

    def get(self, key: str, digests: Sequence[str]) -> dict[str, bytes]:
        """Those of the records that are here, whole."""
        return self._try(lambda connection: _get(connection, key, digests)) or {}

    def put(self, key: str, records: Mapping[str, bytes]) -> None:
        """Keep records, all in one transaction."""
        rows = [(key, bytes.fromhex(digest), _sealed(record)) for digest, record in records.items()]

        def put(connection: sqlite3.Connection) -> None:
            with connection:
                connection.executemany(_PUT, rows)
                connection.execute(_TRIM, (self._capacity,))

        self._try(put)

    @property
    def bytes(self) -> int:
        """Size of the file."""
        try:
            return self._path.stat().st_size
        except OSError:
            return 0

    def close(self) -> None:
        """Close the file; the next use opens it again."""
        with self._lock:
            self._close()

    def _try(self, work: Callable[[sqlite3.Connection], T]) -> T | None:
        """Do it, on a new file if this one is damaged; None if it cannot be done."""
        if not self._capacity:
            return None
        with self._lock:
            if time.monotonic() < self._rests_until:
                return None
            try:
                return work(self._open())
            except (sqlite3.Error, OSError) as error:
                self._give_up(error)
                return None

    def _open(self) -> sqlite3.Connection:
        if self._connection is None:
            private_files.make_folder(self._path.parent)
            private_files.make_file(self._path)
            self._connection = sqlite3.connect(
                self._path, timeout=_BUSY_TIMEOUT_S, check_same_thread=False
            )
            self._connection.executescript(_SCHEMA)
            _drop_old(self._connection)
        return self._connection

    def _give_up(self, error: Exception) -> None:
        """Take a damaged file away, so that the next use makes it anew; leave another in peace.

        A locked file makes each use wait: it is tried again only after a while.
        """
        self._close()
        if not self._warned:
            self._warned = True
            _LOG.warning("the feature cache %s fails (%s); going on without", self._path, error)
        if getattr(error, "sqlite_errorcode", 0) & 0xFF in _DAMAGED:
            for suffix in ("", "-wal", "-shm"):
                self._path.with_name(self._path.name + suffix).unlink(missing_ok=True)
        else:
            self._rests_until = time.monotonic() + _REST_S

    def _close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None


def _drop_old(connection: sqlite3.Connection) -> None:
    """Give back the room of records that nothing asks for any more."""
    if connection.execute(_FIND_OLD).fetchone():
        connection.execute("DROP TABLE IF EXISTS features")
        with contextlib.suppress(sqlite3.OperationalError):  # another process is at the file
            connection.execute("VACUUM")


def _get(connection: sqlite3.Connection, key: str, digests: Sequence[str]) -> dict[str, bytes]:
    found: dict[str, bytes] = {}
    for start in range(0, len(digests), _DIGESTS_PER_QUERY):
        some = [bytes.fromhex(digest) for digest in digests[start : start + _DIGESTS_PER_QUERY]]
        marks = ", ".join("?" * len(some))
        query = f"SELECT digest, record FROM records WHERE key = ? AND digest IN ({marks})"  # noqa: S608 - marks only
        for digest, sealed in connection.execute(query, (key, *some)):
            record, ending = sealed[:-_SUM_BYTES], sealed[-_SUM_BYTES:]
            if ending == _sum(record):
                found[digest.hex()] = record
    return found


def _sealed(record: bytes) -> bytes:
    return record + _sum(record)


def _sum(record: bytes) -> bytes:
    return zlib.crc32(record).to_bytes(_SUM_BYTES, "little")
