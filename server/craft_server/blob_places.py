"""Where image bytes may be: a folder, or an object store that replicas on several hosts share.

Owns which stores will do (fsspec opens them) and what their faults mean. A put there shows the
whole object or nothing and is durable when it is answered, which is what `Blobs` asks for. Must not
know owners.
"""

import hashlib
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from craft_server.blobs import WRITERS, BlobFolder, Blobs, BlobsDown

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
    """Blobs below a URL, one object each; see `craft_server.blobs.Blobs`.

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
