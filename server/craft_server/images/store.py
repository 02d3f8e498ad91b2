"""Images: bytes by content, ownership and image sets in the transactional store.

Owns what is in the tables `images` and `image_sets`, and the threads that decode.

The same bytes of two owners share a file, but neither can notice: an id is visible to those who
uploaded it, and an upload takes the same path whether or not another owner has the bytes.
"""

import hashlib
import math
import os
import re
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from cachetools import LRUCache
from PIL.Image import Image
from sqlalchemy import Connection

from craft_server.db.store import Store
from craft_server.db.tables import image_sets, images
from craft_server.images.blobs import BlobsDown, place_for
from craft_server.images.decoding import ImageLimits, open_image
from craft_server.images.queries import find_set, insert_new, lock_owner, owned, totals
from craft_shared.errors import Code, Refusal
from craft_shared.messages import ImageSet, StoredImage

_DIGEST_BYTES = 32
_LISTED_IDS = 10
_KEPT_DIGESTS = 500_000
_SET_ID = re.compile("set_[0-9a-f]{32}")

T = TypeVar("T")


class StoredImageError(RuntimeError):
    """An image that was checked and stored cannot be opened any more: a fault of this server."""


@dataclass(frozen=True)
class ImageSetRecord:
    """A set as the service uses it: its id and the digests of its images, in order."""

    id: str
    digests: tuple[str, ...]


class ImageStore:
    """Keeps images by content address and remembers who may see them; thread-safe.

    Args:
        store: where owners and sets are kept.
        place: where bytes are kept: a folder or a URL, see `place_for`.
        limits: what is accepted.
        decoders: threads that decode; 0 takes one per CPU.
    """

    def __init__(
        self, store: Store, place: Path | str, *, limits: ImageLimits, decoders: int = 0
    ) -> None:
        self._store = store
        self._blobs = place_for(place)
        self._limits = limits
        self._ahead = decoders or os.cpu_count() or 1
        self._decoders = ThreadPoolExecutor(self._ahead, thread_name_prefix="decode")
        self._sets: LRUCache[tuple[str, str], ImageSetRecord] = LRUCache(
            _KEPT_DIGESTS, getsizeof=lambda record: len(record.digests)
        )
        self._sets_lock = threading.Lock()

    def add(
        self,
        owner: str,
        files: Sequence[bytes],
        *,
        owner_bytes: int | None = None,
        end: float = math.inf,
    ) -> list[StoredImage]:
        """Check and keep files: all of them or, on the first fault, none.

        Bytes reach the disk before the row that announces them, so a crash leaves no dangling id.
        Bytes that are here already are written again, which repairs a file that was lost.

        Args:
            owner: who may see them.
            files: what was uploaded.
            owner_bytes: what the owner may keep, if that is less than this server allows.
            end: when to give up decoding, on the clock `time.monotonic`.

        Raises:
            Refusal: with `param` naming the file, as in `files[2]`; `not_ready`: the disk is full.
        """
        quota = self._limits.owner_bytes
        quota = quota if owner_bytes is None else min(quota, owner_bytes)
        rows = self._rows(owner, files, end)
        with self._store.read() as connection:
            fresh = self._fresh(connection, owner, rows, quota)
        self._blobs.write(dict(zip((row["digest"] for row in rows), files, strict=True)))
        if fresh:
            self._insert(owner, rows, quota)
        return [_stored(row, new=fresh.pop(row["digest"], None) is not None) for row in rows]

    def missing(self, owner: str, digests: Iterable[str]) -> list[str]:
        """Those of the digests that this owner has not uploaded, in order, once each."""
        with self._store.read() as connection:
            have = owned(connection, owner, digests)
        return [digest for digest in dict.fromkeys(digests) if digest not in have]

    def create_set(self, owner: str, digests: Sequence[str], *, name: str) -> ImageSet:
        """Name an ordered list of uploaded images; the same list gives the same set.

        Raises:
            Refusal: `unknown_image` lists ids not uploaded, `too_large` too many of them.
        """
        if len(digests) > self._limits.images_per_set:
            detail = f"{len(digests)} images, at most {self._limits.images_per_set} in one set"
            raise Refusal(Code.TOO_LARGE, detail, param="images")
        if absent := self.missing(owner, digests):
            listed = ", ".join(absent[:_LISTED_IDS])
            detail = f"{len(absent)} of {len(digests)} images are not uploaded: {listed}"
            raise Refusal(Code.UNKNOWN_IMAGE, detail, param="images")
        packed = b"".join(bytes.fromhex(digest) for digest in digests)
        identifier = f"set_{hashlib.sha256(packed).hexdigest()[:32]}"
        row = {
            "owner": owner,
            "id": identifier,
            "name": name,
            "count": len(digests),
            "digests": packed,
        }
        with self._store.read() as connection:
            kept = find_set(connection, owner, identifier)
        if kept is None:
            with self._store.write() as connection:
                insert_new(connection, image_sets, [row])
                kept = find_set(connection, owner, identifier)
        return ImageSet(id=identifier, name=kept.name, images=len(digests))

    def describe_set(self, owner: str, identifier: str) -> ImageSet:
        """A set as its owner sees it.

        Raises:
            Refusal: `unknown_image_set`, also where the set is another owner's.
        """
        row = self._set(owner, identifier)
        return ImageSet(id=row.id, name=row.name, images=row.count)

    def known_set(self, owner: str, identifier: str) -> ImageSetRecord | None:
        """A set that was used lately: sets never change, so those are kept in memory."""
        with self._sets_lock:
            return self._sets.get((owner, identifier))

    def find_set(self, owner: str, identifier: str) -> ImageSetRecord:
        """A set with its images' digests; raises like `describe_set`."""
        place = owner, identifier
        kept = self.known_set(owner, identifier)
        if kept is not None:
            return kept
        packed: bytes = self._set(owner, identifier).digests
        starts = range(0, len(packed), _DIGEST_BYTES)
        digests = tuple(packed[start : start + _DIGEST_BYTES].hex() for start in starts)
        record = ImageSetRecord(id=identifier, digests=digests)
        if len(digests) <= _KEPT_DIGESTS:
            with self._sets_lock:
                self._sets[place] = record
        return record

    def open(self, digest: str) -> Image:
        """Decode a stored image.

        Raises:
            StoredImageError: its file is gone, damaged or over today's limits.
            Refusal: `not_ready`, the place of the bytes does not answer.
        """
        try:
            return open_image(self._blobs.read(digest), self._limits)
        except BlobsDown:
            raise
        except (OSError, Refusal) as error:
            detail = f"the stored image {digest} cannot be opened ({error}); restore its file"
            raise StoredImageError(detail) from error

    def decode(self, digests: Iterable[str], work: Callable[[Image], T]) -> list[Future[T]]:
        """Open stored images on the decoding threads and do `work` there, one future each."""
        return [self._decoders.submit(self._opened, digest, work) for digest in digests]

    def close(self) -> None:
        """End the threads: what waits is dropped, what runs is finished."""
        self._decoders.shutdown(cancel_futures=True)
        self._blobs.close()

    def _opened(self, digest: str, work: Callable[[Image], T]) -> T:
        return work(self.open(digest))

    def _insert(self, owner: str, rows: list[dict[str, Any]], quota: int) -> None:
        """Announce what is still new, now that no other upload can come between."""
        with self._store.write() as connection:
            lock_owner(connection, owner)
            if fresh := self._fresh(connection, owner, rows, quota):
                insert_new(connection, images, list(fresh.values()))

    def _set(self, owner: str, identifier: str) -> Any:
        row = None
        if _SET_ID.fullmatch(identifier):  # Postgres takes no text with a NUL in it
            with self._store.read() as connection:
                row = find_set(connection, owner, identifier)
        if row is None:
            detail = f"{identifier!r} is not an image set of this key's owner"
            raise Refusal(Code.UNKNOWN_IMAGE_SET, detail, param="image_set")
        return row

    def _rows(self, owner: str, files: Sequence[bytes], end: float) -> list[dict[str, Any]]:
        """Decode the files a few ahead, so that uploads take turns at the decoders."""
        rows: list[dict[str, Any]] = []
        ahead: deque[Future[dict[str, Any]]] = deque()
        try:
            for index, data in enumerate(files):
                if len(ahead) == self._ahead:
                    rows.append(ahead.popleft().result())
                _check_time(end, index, len(files))
                ahead.append(self._decoders.submit(self._row, owner, index, data))
            rows.extend(future.result() for future in ahead)
        finally:
            for future in ahead:
                future.cancel()
        return rows

    def _row(self, owner: str, index: int, data: bytes) -> dict[str, Any]:
        try:
            width, height = open_image(data, self._limits).size
        except Refusal as refusal:
            param = f"files[{index}]"
            raise Refusal(refusal.code, f"{param}: {refusal.detail}", param=param) from refusal
        digest = hashlib.sha256(data).hexdigest()
        return {
            "owner": owner,
            "digest": digest,
            "bytes": len(data),
            "width": width,
            "height": height,
        }

    def _fresh(
        self, connection: Connection, owner: str, rows: list[dict[str, Any]], quota: int
    ) -> dict[str, dict[str, Any]]:
        """Rows that are new to the owner, by digest; refuses what would break the quota."""
        have = owned(connection, owner, [row["digest"] for row in rows])
        fresh = {row["digest"]: row for row in rows if row["digest"] not in have}
        count, total = totals(connection, owner)
        count += len(fresh)
        total += sum(row["bytes"] for row in fresh.values())
        most = self._limits.owner_images
        if fresh and (count > most or total > quota):
            detail = (
                f"this upload would make {count} images of {total} bytes; an owner may keep "
                f"{most} images of {quota} bytes"
            )
            raise Refusal(Code.TOO_LARGE, detail, param="files")
        return fresh


def _check_time(end: float, done: int, files: int) -> None:
    if time.monotonic() > end:
        detail = f"{done} of {files} files were decoded in the time of a request; send fewer"
        raise Refusal(Code.DEADLINE_EXCEEDED, detail, param="files")


def _stored(row: dict[str, Any], *, new: bool) -> StoredImage:
    return StoredImage(
        id=row["digest"], bytes=row["bytes"], width=row["width"], height=row["height"], new=new
    )
