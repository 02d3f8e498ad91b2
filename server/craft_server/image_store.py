"""Image bytes in a folder, ownership and image sets in the transactional store.

Owns the blob folder (files named by the SHA-256 of their bytes) and the tables `images` and
`image_sets`. Must not know models, budgets or HTTP.

The same bytes of two owners share a file, but neither can tell: an id is visible to those who
uploaded it, and an upload takes the same path whether or not another owner has the bytes.
"""

import hashlib
import os
import secrets
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL.Image import Image
from sqlalchemy import (
    BigInteger,
    Column,
    Connection,
    Integer,
    LargeBinary,
    String,
    Table,
    func,
    select,
)

from craft_server.images import ImageLimits, open_image
from craft_server.store import Store, metadata
from craft_shared.errors import Code, Refusal
from craft_shared.messages import ImageSet, StoredImage

_DIGEST_BYTES = 32
_LISTED_IDS = 10
_IDS_PER_QUERY = 1000

images = Table(
    "images",
    metadata,
    Column("owner", String, primary_key=True),
    Column("digest", String(64), primary_key=True),
    Column("bytes", BigInteger, nullable=False),
    Column("width", Integer, nullable=False),
    Column("height", Integer, nullable=False),
)

image_sets = Table(
    "image_sets",
    metadata,
    Column("owner", String, primary_key=True),
    Column("id", String(36), primary_key=True),
    Column("name", String, nullable=False),
    Column("count", Integer, nullable=False),
    Column("digests", LargeBinary, nullable=False),
)


@dataclass(frozen=True)
class ImageSetRecord:
    """A set as the service uses it: its id and the digests of its images, in order."""

    id: str
    digests: tuple[str, ...]


class ImageStore:
    """Keeps images by content address and remembers who may see them."""

    def __init__(self, store: Store, folder: Path, *, limits: ImageLimits) -> None:
        self._store = store
        self._folder = folder
        self._limits = limits

    def add(self, owner: str, files: Sequence[bytes]) -> list[StoredImage]:
        """Check and keep files: all of them or, on the first fault, none.

        Bytes reach the disk before the row that announces them, so a crash leaves no dangling id.

        Raises:
            Refusal: with `param` naming the file, as in `files[2]`.
        """
        rows = [self._row(owner, index, data) for index, data in enumerate(files)]
        with self._store.read() as connection:
            fresh = self._fresh(connection, owner, rows)
        if fresh:
            contents = dict(zip((row["digest"] for row in rows), files, strict=True))
            for digest in fresh:
                self._write(digest, contents[digest])
            self._insert(owner, rows)
        return [_stored(row, new=fresh.pop(row["digest"], None) is not None) for row in rows]

    def missing(self, owner: str, digests: Iterable[str]) -> list[str]:
        """Those of the digests that this owner has not uploaded, in order, once each."""
        with self._store.read() as connection:
            have = _owned(connection, owner, digests)
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
        with self._store.write() as connection:
            known = connection.execute(_find_set(owner, identifier)).first()
            if known is None:
                connection.execute(image_sets.insert(), row)
        kept = name if known is None else known.name
        return ImageSet(id=identifier, name=kept, images=len(digests))

    def describe_set(self, owner: str, identifier: str) -> ImageSet:
        """A set as its owner sees it.

        Raises:
            Refusal: `unknown_image_set`, also where the set is another owner's.
        """
        row = self._set(owner, identifier)
        return ImageSet(id=row.id, name=row.name, images=row.count)

    def find_set(self, owner: str, identifier: str) -> ImageSetRecord:
        """A set with its images' digests; raises like `describe_set`."""
        packed: bytes = self._set(owner, identifier).digests
        starts = range(0, len(packed), _DIGEST_BYTES)
        digests = tuple(packed[start : start + _DIGEST_BYTES].hex() for start in starts)
        return ImageSetRecord(id=identifier, digests=digests)

    def open(self, digest: str) -> Image:
        """Decode a stored image."""
        return open_image(self._path(digest).read_bytes(), self._limits)

    def _insert(self, owner: str, rows: list[dict[str, Any]]) -> None:
        """Announce what is still new, now that no other upload can come between."""
        with self._store.write() as connection:
            if fresh := self._fresh(connection, owner, rows):
                connection.execute(images.insert(), list(fresh.values()))

    def _set(self, owner: str, identifier: str) -> Any:
        with self._store.read() as connection:
            row = connection.execute(_find_set(owner, identifier)).first()
        if row is None:
            detail = f"{identifier} is not an image set of this key's owner"
            raise Refusal(Code.UNKNOWN_IMAGE_SET, detail, param="image_set")
        return row

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
        self, connection: Connection, owner: str, rows: list[dict[str, Any]]
    ) -> dict[str, dict[str, Any]]:
        """Rows that are new to the owner, by digest; refuses what would break the quota."""
        have = _owned(connection, owner, [row["digest"] for row in rows])
        fresh = {row["digest"]: row for row in rows if row["digest"] not in have}
        query = select(func.count(), func.coalesce(func.sum(images.c.bytes), 0))
        count, total = connection.execute(query.where(images.c.owner == owner)).one()
        count += len(fresh)
        total += sum(row["bytes"] for row in fresh.values())
        limits = self._limits
        if fresh and (count > limits.owner_images or total > limits.owner_bytes):
            detail = (
                f"this upload would make {count} images of {total} bytes; an owner may keep "
                f"{limits.owner_images} images of {limits.owner_bytes} bytes"
            )
            raise Refusal(Code.TOO_LARGE, detail, param="files")
        return fresh

    def _path(self, digest: str) -> Path:
        return self._folder / digest[:2] / digest

    def _write(self, digest: str, data: bytes) -> None:
        path = self._path(digest)
        path.parent.mkdir(parents=True, exist_ok=True)
        draft = path.with_name(f".{digest}.{secrets.token_hex(8)}")
        with draft.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)


def _owned(connection: Connection, owner: str, digests: Iterable[str]) -> set[str]:
    wanted = list(digests)
    found: set[str] = set()
    for start in range(0, len(wanted), _IDS_PER_QUERY):
        some = wanted[start : start + _IDS_PER_QUERY]
        query = select(images.c.digest).where(images.c.owner == owner, images.c.digest.in_(some))
        found.update(connection.execute(query).scalars())
    return found


def _find_set(owner: str, identifier: str) -> Any:
    return select(image_sets).where(image_sets.c.owner == owner, image_sets.c.id == identifier)


def _stored(row: dict[str, Any], *, new: bool) -> StoredImage:
    return StoredImage(
        id=row["digest"], bytes=row["bytes"], width=row["width"], height=row["height"], new=new
    )
