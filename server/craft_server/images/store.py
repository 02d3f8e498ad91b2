"""Images: their bytes, ownership and image sets in the transactional store.

Owns what is in the table `images`, and the threads that decode.

Two owners of the same bytes share nothing, so that neither can notice the other: an id is visible
to those who uploaded it, and each has a file of its own. What older servers kept for all owners
under the digest is still read, and taken away when the last of them deletes it.
"""

import hashlib
import math
import os
import re
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from PIL.Image import Image
from sqlalchemy import Connection, bindparam, delete, select

from craft_server.db.store import Clock, Store, wall_clock
from craft_server.db.tables import images
from craft_server.images import claims, totals
from craft_server.images.blobs import BlobsDown, name_of, place_for
from craft_server.images.claims import Row
from craft_server.images.decoding import ImageLimits, open_image
from craft_server.images.queries import insert_new, owned
from craft_server.images.sets import (
    TRIES,
    ImageSetRecord,
    ImageSets,
    holder,
    missing,
    overtaken,
)
from craft_server.images.totals import Totals
from craft_shared.errors import Code, Refusal
from craft_shared.messages import ImageSet, StoredImage
from craft_shared.messages import ImageSets as ImageSetPage

__all__ = ["ImageSetRecord", "ImageStore", "StoredImageError"]

_DIGEST = re.compile("[0-9a-f]{64}")
_OF_OWNER = (images.c.owner == bindparam("of")) & (images.c.digest == bindparam("one"))
_SIZE = select(images.c.bytes).where(_OF_OWNER)
_DELETE = delete(images).where(_OF_OWNER)

T = TypeVar("T")


class StoredImageError(RuntimeError):
    """An image that was checked and stored cannot be opened any more: a fault of this server."""


class ImageStore:
    """Keeps images by content address and remembers who may see them; thread-safe.

    Args:
        store: where owners and sets are kept.
        place: where bytes are kept: a folder or a URL, see `place_for`.
        limits: what is accepted.
        decoders: threads that decode; 0 takes one per CPU.
        linger_s: how long a deleted image's bytes stay: longer than any upload or purchase takes.
        clock: the machine's.
    """

    def __init__(
        self,
        store: Store,
        place: Path | str,
        *,
        limits: ImageLimits,
        decoders: int = 0,
        linger_s: float = 1200.0,
        clock: Clock = wall_clock,
    ) -> None:
        self._store = store
        self._blobs = place_for(place)
        self._limits = limits
        self._ahead = decoders or os.cpu_count() or 1
        self._decoders = ThreadPoolExecutor(self._ahead, thread_name_prefix="decode")
        self._sets = ImageSets(store, limits)
        self._linger_us = round(linger_s * 1_000_000)
        self._clock = clock

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
        with self._store.read() as tx:
            fresh = _without(rows, owned(tx, owner, [row["digest"] for row in rows]))
        if fresh:
            self._claim(owner, list(fresh.values()), quota)
        names = (name_of(owner, row["digest"]) for row in rows)
        self._blobs.write(dict(zip(names, files, strict=True)))
        if fresh:
            self._announce(owner, list(fresh.values()))
        return [_stored(row, new=fresh.pop(row["digest"], None) is not None) for row in rows]

    def missing(self, owner: str, digests: Sequence[str]) -> list[str]:
        """Those of the digests that this owner has not uploaded, in order, once each."""
        with self._store.read() as tx:
            return missing(tx, owner, digests)

    def delete(self, owner: str, digest: str) -> None:
        """Forget an image. Its bytes go some time later, and count for the owner until then.

        Raises:
            Refusal: `unknown_image`, also where it is another owner's; `image_in_use` names a set
                of the owner that holds it; `overloaded`: others made sets all the while.
        """
        for _ in range(TRIES):
            with self._store.read() as tx:
                seen = totals.look(tx, owner)  # first: what comes later is noticed
                _check_owned(tx, owner, digest)
                set_id = holder(tx, owner, digest)
            if set_id is not None:
                detail = f"the image is in the set {set_id}: delete that first"
                raise Refusal(Code.IMAGE_IN_USE, detail, param="image")
            if self._delete(owner, digest, seen):
                return
        raise overtaken("sets of this owner were made")

    def remove_old_claims(self) -> int:
        """Take away bytes of images deleted a while ago; see `claims.remove_old`."""
        before = self._clock() - self._linger_us
        return claims.remove_old(self._store, self._blobs, before=before)

    def create_set(self, owner: str, digests: Sequence[str], *, name: str) -> ImageSet:
        """See `ImageSets.create`."""
        return self._sets.create(owner, digests, name=name)

    def describe_set(self, owner: str, identifier: str) -> ImageSet:
        """See `ImageSets.describe`."""
        return self._sets.describe(owner, identifier)

    def known_set(self, owner: str, identifier: str) -> ImageSetRecord | None:
        """See `ImageSets.known`."""
        return self._sets.known(owner, identifier)

    def known_set_count(self, owner: str, identifier: str) -> int | None:
        """See `ImageSets.known_count`."""
        return self._sets.known_count(owner, identifier)

    def count_set(self, owner: str, identifier: str) -> int:
        """See `ImageSets.count`."""
        return self._sets.count(owner, identifier)

    def find_set(self, owner: str, identifier: str) -> ImageSetRecord:
        """See `ImageSets.find`."""
        return self._sets.find(owner, identifier)

    def page_sets(self, owner: str, *, after: str, limit: int) -> ImageSetPage:
        """See `ImageSets.page`."""
        return self._sets.page(owner, after=after, limit=limit)

    def delete_set(self, owner: str, identifier: str) -> None:
        """See `ImageSets.delete`."""
        self._sets.delete(owner, identifier)

    def open(self, owner: str, digest: str) -> Image:
        """Decode an owner's image.

        Raises:
            StoredImageError: its file is gone, damaged or over today's limits.
            Refusal: `not_ready`, the place of the bytes does not answer.
        """
        try:
            return open_image(self._read(owner, digest), self._limits)
        except BlobsDown:
            raise
        except (OSError, Refusal) as error:
            detail = f"the stored image {digest} cannot be opened ({error}); restore its file"
            raise StoredImageError(detail) from error

    def decode(
        self, owner: str, digests: Iterable[str], work: Callable[[Image], T]
    ) -> list[Future[T]]:
        """Open an owner's images on the decoding threads and do `work` there, one future each."""
        return [self._decoders.submit(self._opened, owner, digest, work) for digest in digests]

    def close(self) -> None:
        """End the threads: what waits is dropped, what runs is finished."""
        self._decoders.shutdown(cancel_futures=True)
        self._blobs.close()

    def _opened(self, owner: str, digest: str, work: Callable[[Image], T]) -> T:
        return work(self.open(owner, digest))

    def _read(self, owner: str, digest: str) -> bytes:
        """The owner's bytes, or those that an older server kept for all owners."""
        try:
            data = self._blobs.read(name_of(owner, digest))
        except FileNotFoundError:
            data = self._blobs.read(digest)
        if hashlib.sha256(data).hexdigest() != digest:
            raise OSError(f"{len(data)} bytes of another content stand under this name")
        return data

    def _claim(self, owner: str, rows: list[Row], quota: int) -> None:
        """Claim what is going to be written, if the quota takes it.

        It need not survive a power cut: the bytes would be left behind, and nothing else is lost.
        """
        with self._store.together(durable=False), self._store.write() as tx:
            has = totals.lock(tx, owner)
            here = owned(tx, owner, [row["digest"] for row in rows])
            wanted = list(_without(rows, here).values())
            fresh = claims.claim(tx, owner, wanted, self._clock())
            more = Totals(images=len(fresh), bytes=sum(row["bytes"] for row in fresh))
            self._check_quota(has.images + more.images, has.bytes + more.bytes, quota, more)
            totals.add(tx, owner, more)

    def _check_quota(self, count: int, size: int, quota: int, more: Totals) -> None:
        most = self._limits.owner_images
        if more.images and (count > most or size > quota):
            detail = (
                f"this upload would make {count} images of {size} bytes; an owner may keep "
                f"{most} images of {quota} bytes"
            )
            raise Refusal(Code.TOO_LARGE, detail, param="files")

    def _announce(self, owner: str, rows: list[Row]) -> None:
        """Turn claims into images, but for those that another upload announced meanwhile."""
        with self._store.write() as tx:
            totals.lock(tx, owner)
            here = owned(tx, owner, [row["digest"] for row in rows])
            fresh = list(_without(rows, here).values())
            if not claims.redeem(tx, owner, [row["digest"] for row in fresh]):
                detail = "the files took so long to write that they were given up; send them again"
                raise Refusal(Code.DEADLINE_EXCEEDED, detail, param="files")
            if fresh:
                insert_new(tx, images, fresh)

    def _delete(self, owner: str, digest: str, seen: Totals) -> bool:
        """Turn an image that no set held when `seen` into a claim; False if sets came since."""
        with self._store.write() as tx:
            if totals.lock(tx, owner).sets_made != seen.sets_made:
                return False
            size = _check_owned(tx, owner, digest)
            tx.execute(_DELETE, {"of": owner, "one": digest})
            row = {"digest": digest, "bytes": size}
            claims.claim(tx, owner, [row], self._clock())  # counted already, as an image
            totals.add(tx, owner, Totals(images_removed=1))
            return True

    def _rows(self, owner: str, files: Sequence[bytes], end: float) -> list[Row]:
        """Decode the files a few ahead, so that uploads take turns at the decoders."""
        rows: list[Row] = []
        ahead: deque[Future[Row]] = deque()
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

    def _row(self, owner: str, index: int, data: bytes) -> Row:
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


def _without(rows: Sequence[Row], digests: set[str]) -> dict[str, Row]:
    """Those of the rows that have other digests, once each."""
    return {row["digest"]: row for row in rows if row["digest"] not in digests}


def _check_owned(tx: Connection, owner: str, digest: str) -> int:
    """The bytes of an owner's image."""
    size = None
    if _DIGEST.fullmatch(digest):  # Postgres takes no text with a NUL in it
        size = tx.execute(_SIZE, {"of": owner, "one": digest}).scalar()
    if size is None:
        detail = f"{digest!r} is not an image of this key's owner"
        raise Refusal(Code.UNKNOWN_IMAGE, detail, param="image")
    return int(size)


def _check_time(end: float, done: int, files: int) -> None:
    if time.monotonic() > end:
        detail = f"{done} of {files} files were decoded in the time of a request; send fewer"
        raise Refusal(Code.DEADLINE_EXCEEDED, detail, param="files")


def _stored(row: Row, *, new: bool) -> StoredImage:
    return StoredImage(
        id=row["digest"], bytes=row["bytes"], width=row["width"], height=row["height"], new=new
    )
