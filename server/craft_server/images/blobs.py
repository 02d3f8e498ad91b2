"""Image bytes by the SHA-256 of their content, in a folder or an object store.

Owns the port, a folder, an object store, and what it takes for bytes to survive a power cut.
"""

import hashlib
import os
import secrets
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import unquote, urlsplit

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

        A blob that is there already is written again, so that the time it takes does not
        reveal that. No
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


_STORES = {
    "s3": "s3fs",
    "gs": "gcsfs",
    "gcs": "gcsfs",
    "az": "adlfs",
    "abfs": "adlfs",
    "memory": "fsspec",
}
"""URL schemes of stores whose puts are atomic, and the package that opens each."""


def place_for(place: Path | str) -> Blobs:
    """The blobs in a folder, or at a URL such as s3://bucket/prefix.

    A file:// URL is a folder: a plain file system needs the care that `BlobFolder` takes.

    Raises:
        ValueError: nothing here can open the URL; the message says what to do.
    """
    if isinstance(place, Path):
        return BlobFolder(place)
    parts = urlsplit(place)
    if parts.scheme == "file" and not parts.netloc:
        return BlobFolder(Path(unquote(parts.path)))
    return BlobBucket(place)


class BlobBucket:
    """Blobs below a URL, one object each; see `craft_server.images.blobs.Blobs`.

    Credentials and endpoints come from where the store's own library looks for them.

    Args:
        url: as in s3://bucket/prefix.

    Raises:
        ValueError: the URL is of no store that will do, or its package is not installed.
    """

    def __init__(self, url: str) -> None:
        scheme, _, path = url.partition("://")
        if scheme not in _STORES or not path.strip("/"):
            allowed = ", ".join(f"{name}://" for name in ("file", *_STORES))
            raise ValueError(
                f"image_url {url!r} cannot be used; needed: a bucket and prefix behind one of "
                f"{allowed}"
            )
        self._files = _open(scheme, url)
        self._root = path.strip("/")
        self._writers = ThreadPoolExecutor(WRITERS, thread_name_prefix="blobs")

    def read(self, digest: str) -> bytes:
        """The bytes of a blob, checked against its name."""
        try:
            data: bytes = self._files.cat_file(self._path(digest))
        except FileNotFoundError:
            raise
        except Exception as error:  # each store has its own, down to its HTTP client's
            raise BlobsDown("the image store does not answer") from error
        if hashlib.sha256(data).hexdigest() != digest:
            raise OSError(f"{len(data)} bytes of another content stand under this name")
        return data

    def write(self, contents: Mapping[str, bytes]) -> None:
        """Keep bytes; see `Blobs.write`."""
        puts = [self._writers.submit(self._put, *one) for one in contents.items()]
        try:
            for put in puts:
                put.result()
        except Exception as error:
            raise BlobsDown("the image store takes no files; none of these is kept") from error
        finally:
            for put in puts:
                put.cancel()

    def close(self) -> None:
        """Let running writes finish and end the threads."""
        self._writers.shutdown()

    def _path(self, digest: str) -> str:
        return f"{self._root}/{digest[:2]}/{digest}"

    def _put(self, digest: str, data: bytes) -> None:
        self._files.pipe_file(self._path(digest), data)


def _open(scheme: str, url: str) -> Any:
    import fsspec  # noqa: PLC0415 - takes a while, and a folder needs none of it

    try:
        return fsspec.filesystem(scheme, use_listings_cache=False)
    except ImportError as error:
        raise ValueError(
            f"image_url {url!r} needs the package {_STORES[scheme]}, which is not installed"
        ) from error
