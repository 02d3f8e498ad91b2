"""Bytes of images by name, in a folder or an object store.

Each owner has bytes of its own: to replace a file takes a little longer than to make one, so a file
that owners shared would tell each that the other has it (docs/decisions/0025).

Owns the names, the port, a folder, an object store, and what it takes for bytes to survive a power
cut.
"""

import hashlib
import os
import re
import secrets
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import unquote, urlsplit

from craft_server import private_files
from craft_shared.errors import Code, Refusal

WRITERS = 8
"""Blobs written at a time."""

_RETRY_AFTER_S = 5


class BlobsDown(Refusal):
    """`not_ready`: the place of the bytes does not work now; the same request may work later."""

    def __init__(self, detail: str) -> None:
        super().__init__(Code.NOT_READY, detail, retry_after_s=_RETRY_AFTER_S)


def name_of(owner: str, digest: str) -> str:
    """The name of an owner's bytes, 64 hexadecimal digits.

    Servers before this one took the digest itself, for all owners.
    """
    return hashlib.sha256(f"{owner}\0{digest}".encode()).hexdigest()


class Blobs(Protocol):
    """Bytes by name; thread-safe, and safe with other processes on the same place."""

    def read(self, name: str) -> bytes:
        """The bytes of a blob, which the caller holds against their digest.

        Raises:
            OSError: it is not there.
            BlobsDown: the place does not answer.
        """
        ...

    def write(self, contents: Mapping[str, bytes]) -> None:
        """Keep bytes by name; when this returns, they survive a power cut.

        A blob that is there already is written again. No reader ever sees half of one.

        Raises:
            BlobsDown: not all are kept; what is kept is whole.
        """
        ...

    def remove(self, name: str) -> None:
        """Take bytes away, if they are there; the caller knows that nobody needs them.

        Raises:
            BlobsDown: they could not be taken away.
        """
        ...

    def close(self) -> None:
        """Let running writes finish and end the threads."""
        ...


_SHARD = re.compile("[0-9a-f]{2}")
"""A folder of the blobs whose names begin so."""


class BlobFolder:
    """Blobs in a folder, one file each; see `Blobs`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        private_files.tighten_own(folder, _SHARD)  # and all below, without a look at each file
        self._writers = ThreadPoolExecutor(WRITERS, thread_name_prefix="blobs")

    def read(self, name: str) -> bytes:
        """The bytes of a blob; raises OSError if it is not here or cannot be read."""
        return self._path(name).read_bytes()

    def write(self, contents: Mapping[str, bytes]) -> None:
        """Keep bytes; see `Blobs.write`. Nothing half written is left if the disk is full."""
        try:
            list(self._writers.map(self._write, contents.keys(), contents.values()))
            # Syncing a file makes its bytes durable, not the name that `replace` gave it: without
            # this the store could announce, after a power cut, a name that the folder has lost.
            # One sync of each folder for all its files, after the last: the first takes longest.
            touched = {self._path(name).parent for name in contents}
            list(self._writers.map(_sync_folder, [self._folder, *touched]))
        except OSError as error:
            detail = f"the image store takes no files ({error.strerror}); none of these is kept"
            raise BlobsDown(detail) from error

    def remove(self, name: str) -> None:
        """Take bytes away; see `Blobs.remove`."""
        try:
            self._path(name).unlink(missing_ok=True)
        except OSError as error:
            detail = f"the image store gives up no files ({error.strerror})"
            raise BlobsDown(detail) from error

    def close(self) -> None:
        """Let running writes finish and end the threads."""
        self._writers.shutdown()

    def _path(self, name: str) -> Path:
        return self._folder / name[:2] / name

    def _write(self, name: str, data: bytes) -> None:
        path = self._path(name)
        private_files.make_folder(path.parent)
        draft = path.with_name(f".{name}.{secrets.token_hex(8)}")
        try:
            with open(draft, "wb", opener=private_files.opener) as file:
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
    folder = folder_of(place)
    return BlobBucket(str(place)) if folder is None else BlobFolder(folder)


def folder_of(place: Path | str) -> Path | None:
    """The folder that a place is, if it is one."""
    if isinstance(place, Path):
        return place
    parts = urlsplit(place)
    is_folder = parts.scheme == "file" and not parts.netloc
    return Path(unquote(parts.path)) if is_folder else None


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

    def read(self, name: str) -> bytes:
        """The bytes of a blob; see `Blobs.read`."""
        try:
            data: bytes = self._files.cat_file(self._path(name))
        except FileNotFoundError:
            raise
        except Exception as error:  # each store has its own, down to its HTTP client's
            raise BlobsDown("the image store does not answer") from error
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

    def remove(self, name: str) -> None:
        """Take bytes away; see `Blobs.remove`."""
        try:
            self._files.rm_file(self._path(name))
        except FileNotFoundError:
            return
        except Exception as error:
            raise BlobsDown("the image store gives up no files") from error

    def close(self) -> None:
        """Let running writes finish and end the threads."""
        self._writers.shutdown()

    def _path(self, name: str) -> str:
        return f"{self._root}/{name[:2]}/{name}"

    def _put(self, name: str, data: bytes) -> None:
        self._files.pipe_file(self._path(name), data)


def _open(scheme: str, url: str) -> Any:
    import fsspec  # noqa: PLC0415 - takes a while, and a folder needs none of it

    try:
        return fsspec.filesystem(scheme, use_listings_cache=False)
    except ImportError as error:
        raise ValueError(
            f"image_url {url!r} needs the package {_STORES[scheme]}, which is not installed; "
            f"pip install {_STORES[scheme]}"
        ) from error
