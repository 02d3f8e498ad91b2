"""Image bytes by the SHA-256 of their content: what is asked of a place for them, and the folder.

Owns the port, the folder's layout and what it takes for bytes to survive a power cut. Must not know
owners, or the other places (blob_places.py).
"""

import os
import secrets
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Protocol

from craft_shared.errors import Code, Refusal

WRITERS = 8
"""Blobs written at a time."""

_RETRY_AFTER_S = 5


class BlobsDown(Refusal):
    """`not_ready`: the place of the bytes does not work now; the same request may work later."""

    def __init__(self, detail: str) -> None:
        super().__init__(Code.NOT_READY, detail, retry_after_s=_RETRY_AFTER_S)


class Blobs(Protocol):
    """Bytes by digest; thread-safe, and safe with other processes on the same place."""

    def read(self, digest: str) -> bytes:
        """The bytes of a blob.

        Raises:
            OSError: it is not there, or is damaged.
            BlobsDown: the place does not answer.
        """
        ...

    def write(self, contents: Mapping[str, bytes]) -> None:
        """Keep bytes by their digest; when this returns, they survive a power cut.

        A blob that is there already is written again, so that time tells nobody that it was. No
        reader ever sees half of one.

        Raises:
            BlobsDown: not all are kept; what is kept is whole.
        """
        ...

    def close(self) -> None:
        """Let running writes finish and end the threads."""
        ...


class BlobFolder:
    """Blobs in a folder, one file each; see `Blobs`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._writers = ThreadPoolExecutor(WRITERS, thread_name_prefix="blobs")

    def read(self, digest: str) -> bytes:
        """The bytes of a blob; raises OSError if it is not here or cannot be read."""
        return self._path(digest).read_bytes()

    def write(self, contents: Mapping[str, bytes]) -> None:
        """Keep bytes; see `Blobs.write`. Nothing half written is left if the disk is full."""
        try:
            list(self._writers.map(self._write, contents.keys(), contents.values()))
            # Syncing a file makes its bytes durable, not the name that `replace` gave it: without
            # this the store could announce, after a power cut, a name that the folder has lost.
            # One sync of each folder for all its files, after the last: the first takes longest.
            touched = {self._path(digest).parent for digest in contents}
            list(self._writers.map(_sync_folder, [self._folder, *touched]))
        except OSError as error:
            detail = f"the image store takes no files ({error.strerror}); none of these is kept"
            raise BlobsDown(detail) from error

    def close(self) -> None:
        """Let running writes finish and end the threads."""
        self._writers.shutdown()

    def _path(self, digest: str) -> Path:
        return self._folder / digest[:2] / digest

    def _write(self, digest: str, data: bytes) -> None:
        path = self._path(digest)
        path.parent.mkdir(parents=True, exist_ok=True)
        draft = path.with_name(f".{digest}.{secrets.token_hex(8)}")
        try:
            with draft.open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            draft.replace(path)
        except OSError:
            draft.unlink(missing_ok=True)  # half a file would take room that there is too little of
            raise


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
