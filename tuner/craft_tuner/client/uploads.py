"""Pictures to the server: each read once, sent only if it is missing there, a batch at a time.

    read a batch -> sha256 -> POST /v1/images/missing -> POST /v1/images with those, piece by piece
    then POST /v1/image-sets with the ids, in sets of at most so many images

Memory holds one batch; a piece is what the line carries in some seconds (`Pace`). What stopped in
the middle goes on with what the server lacks: only the piece that was cut is sent again. Uploading
again is free and changes nothing. Must not know labels.
"""

import hashlib
import math
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from craft_shared.messages import (
    CardLimits,
    ImageSet,
    ImageSetRequest,
    Manifest,
    ManifestReply,
    UploadReply,
)
from craft_tuner.blackbox import Images
from craft_tuner.client.responses import message
from craft_tuner.client.transport import Call, Transport
from craft_tuner.data.pictures import Picture
from craft_tuner.errors import NoAnswer, PictureError, ServerUnreachable, UsageError

TARGET_S = 20.0
"""How long a request should take: a third of the minute after which most proxies hang up."""

FIRST_BYTES = 256 * 2**10
"""The first piece: 20 s of a line of 13 kB/s."""

LARGEST_BYTES = 16 * 2**20
"""The largest piece, and bytes of images held in memory at a time."""

_TELLING_BYTES = 64 * 2**10
"""Of less than this, the time is that of a round trip and says nothing of the line."""

_REGAIN = 1.1
"""By how much the bound of a halved piece grows with each that gets through."""


class Pace:
    """The size of the next piece, learnt from those before."""

    def __init__(self) -> None:
        self._room = FIRST_BYTES
        self._most = LARGEST_BYTES
        self._bytes_per_s: float | None = None

    @property
    def room(self) -> int:
        """Bytes that the next piece may have."""
        return min(self._room, self._most)

    @property
    def bytes_per_s(self) -> float | None:
        """What the line carried, the server's work included; None as long as nothing tells."""
        return self._bytes_per_s

    def sent(self, size: int, seconds: float) -> None:
        """A piece of so many bytes was answered after so long."""
        self._most = min(LARGEST_BYTES, int(self._most * _REGAIN))
        if size >= _TELLING_BYTES:
            self._bytes_per_s = size / max(seconds, 1e-6)
            self._room = min(LARGEST_BYTES, int(self._bytes_per_s * TARGET_S))

    def failed(self, size: int) -> None:
        """A piece of so many bytes did not get through."""
        self._most = max(1, size // 2)


BATCH_IMAGES = 256
"""Images in one multipart body; servers cap the number of its files."""

_ATTEMPTS = 3
"""How often a piece is sent before it is taken to be too large for the way to the server."""

_PART_BYTES = 512
"""What a part of a multipart body takes beside the file: headers and boundary, rounded up."""

_JSON = {"Content-Type": "application/json"}

OnUploaded = Callable[[int], None]
"""Told how many more pictures are at the server."""


@dataclass(frozen=True)
class Upload:
    """Uploaded pictures: the image sets, the size of each, and the id of every picture in order."""

    images: Images
    sizes: tuple[int, ...]
    ids: tuple[str, ...]


@dataclass(frozen=True)
class _File:
    name: str
    id: str
    data: bytes

    @property
    def part(self) -> int:
        """Bytes in a multipart body."""
        return len(self.data) + _PART_BYTES


@dataclass(frozen=True)
class _Way:
    """How pieces get to the server, and who is told of those that did."""

    transport: Transport
    pace: Pace
    body_bytes: int
    on_uploaded: OnUploaded


def upload(  # noqa: PLR0913 - what, how, and who is told
    transport: Transport,
    pictures: Sequence[Picture],
    *,
    limits: CardLimits,
    set_size: int,
    name: str,
    on_uploaded: OnUploaded = lambda _: None,
    pace: Pace | None = None,
) -> Upload:
    """Bring pictures to the server and group them into image sets of at most `set_size`.

    Args:
        transport: the connection.
        pictures: read a batch at a time.
        limits: of the model card.
        set_size: most images in one set.
        name: of the sets.
        on_uploaded: told how many more pictures are there.
        pace: what is known of the line; it learns more.

    Raises:
        NoAnswer: not even a single picture gets through.
        PictureError: one cannot be read, is too large, or is no image to the server.
    """
    ids: list[str] = []
    way = _Way(transport, pace or Pace(), limits.body_bytes, on_uploaded)
    for batch in _batches(pictures, limits):
        _send_missing(way, batch)
        ids.extend(file.id for file in batch)
    groups = [ids[start : start + set_size] for start in range(0, len(ids), set_size)]
    sets = tuple(_create_set(transport, group, name) for group in groups)
    return Upload(Images(sets, len(ids)), tuple(len(group) for group in groups), tuple(ids))


def _batches(pictures: Iterable[Picture], limits: CardLimits) -> Iterator[list[_File]]:
    room = min(limits.body_bytes, LARGEST_BYTES)
    return _groups((_read(picture, limits) for picture in pictures), lambda: room)


def _groups(files: Iterable[_File], room: Callable[[], int]) -> Iterator[list[_File]]:
    """Files in order, in groups of at most `room()` bytes, or of one file."""
    group: list[_File] = []
    size = 0
    for file in files:
        if group and (len(group) == BATCH_IMAGES or size + file.part > room()):
            yield group
            group, size = [], 0
        group.append(file)
        size += file.part
    if group:
        yield group


def _read(picture: Picture, limits: CardLimits) -> _File:
    data = picture.read()
    allowed = min(limits.image_bytes, limits.body_bytes - _PART_BYTES)
    if len(data) > allowed:
        raise PictureError(
            f"the image {picture.name} has {len(data):,} bytes, the server takes {allowed:,}; "
            "make it smaller or take it out of the dataset",
            picture=picture.name,
        )
    return _File(picture.name, hashlib.sha256(data).hexdigest(), data)


def _send_missing(way: _Way, batch: list[_File]) -> None:
    files = list({file.id: file for file in batch}.values())
    manifest = Manifest(ids=[file.id for file in files])
    call = Call("POST", "/v1/images/missing", headers=_JSON, content=_body(manifest))
    missing = set(way.transport.send(call, message(ManifestReply)).missing)
    files = [file for file in files if file.id in missing]
    if len(files) < len(batch):
        way.on_uploaded(len(batch) - len(files))
    for piece in _groups(files, lambda: min(way.body_bytes, way.pace.room)):
        _send_piece(way, piece)


def _send_piece(way: _Way, files: list[_File]) -> None:
    """Send files in one request; in smaller ones if that does not get through."""
    size = sum(file.part for file in files)
    try:
        _send(way.transport, files)
    except NoAnswer:
        if len(files) == 1:
            raise
        way.pace.failed(size)
        _send_missing(way, files)
    else:
        way.pace.sent(size, way.transport.took_s)
        way.on_uploaded(len(files))


def _send(transport: Transport, files: list[_File]) -> None:
    parts = [("files", (file.id, file.data, "application/octet-stream")) for file in files]
    attempts = _ATTEMPTS if len(files) > 1 else math.inf
    call = Call("POST", "/v1/images", files=parts, most_attempts=attempts)
    try:
        reply = transport.send(call, message(UploadReply))
    except UsageError as error:
        raise _blame(error, files) from error
    if [image.id for image in reply.images] != [file.id for file in files]:
        raise ServerUnreachable(
            f"{transport.url} stored other images than were sent; compare both programs' versions"
        )


def _blame(error: UsageError, files: list[_File]) -> UsageError:
    """The server names a file by its place in the batch; people know it by its path."""
    place = re.search(r"files\[(\d+)\]", str(error))
    if place is None or int(place[1]) >= len(files):
        return error
    name = files[int(place[1])].name
    return PictureError(f"the image {name}: {error}", picture=name)


def _create_set(transport: Transport, ids: list[str], name: str) -> str:
    request = ImageSetRequest(images=ids, name=name)
    call = Call("POST", "/v1/image-sets", headers=_JSON, content=_body(request))
    reply = transport.send(call, message(ImageSet))
    if reply.images != len(ids):
        raise ServerUnreachable(
            f"{transport.url} made a set of {reply.images} images from {len(ids)}; compare both "
            "programs' versions"
        )
    return reply.id


def _body(request: Manifest | ImageSetRequest) -> bytes:
    return request.model_dump_json().encode()
