"""Pictures to the server: each read once, sent only if it is missing there, a batch at a time.

    read a batch -> look at the heads, make PNG of what servers do not take -> sha256
    -> POST /v1/images/missing -> decode those, drop the pixels
    -> POST /v1/images with the very bytes, piece by piece
    then POST /v1/image-sets with the ids, in sets of at most so many images

Of what was looked at (`known`) the server is not asked again, and what it has is not read again.

What is no image leaves in no form: neither its bytes nor, without an image's head, its digest.

Memory holds one batch; a piece is what gets through in some seconds (`upload_rate`). What stopped
in the middle goes on with what the server lacks: only the piece that was cut is sent again.
Uploading again is free and changes nothing.
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
from craft_tuner.activity import doing
from craft_tuner.blackbox import Images
from craft_tuner.client.known import Known
from craft_tuner.client.responses import message
from craft_tuner.client.transport import Call, Transport
from craft_tuner.client.upload_rate import LARGEST_BYTES, UploadRate
from craft_tuner.data.formats import SERVED
from craft_tuner.data.pictures import (
    PART_BYTES,
    Picture,
    as_png,
    check_head,
    check_whole,
    most_bytes,
)
from craft_tuner.errors import NoAnswer, PictureError, ServerUnreachable, UsageError

BATCH_IMAGES = 256
"""Images in one multipart body; servers cap the number of its files."""

_ATTEMPTS = 3
"""How often a piece is sent before it is taken to be too large for the way to the server."""

_REPLY_BYTES = 4096
"""What a reply about images takes beside its list."""
_ID_BYTES = 80
"""In a list of ids: 64 characters, quotes, a comma, and some blanks."""
_STORED_BYTES = 256
"""In a list of stored images: an id, three numbers and their names."""

_JSON = {"Content-Type": "application/json"}

OnUploaded = Callable[[int], None]
"""Called with how many more pictures are at the server."""


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
        return len(self.data) + PART_BYTES


def upload(
    transport: Transport,
    pictures: Sequence[Picture],
    *,
    limits: CardLimits,
    set_size: int,
    name: str,
    on_uploaded: OnUploaded = lambda _: None,
    rate: UploadRate | None = None,
    known: Known | None = None,
) -> Upload:
    """Bring pictures to the server and group them into image sets of at most `set_size`.

    Args:
        transport: the connection.
        pictures: read a batch at a time.
        limits: of the model card.
        set_size: most images in one set.
        name: of the sets.
        on_uploaded: called with how many more pictures are there.
        rate: what is known of the upload rate; it learns more.
        known: what `look` and earlier uploads found out; gets what this one does.

    Raises:
        NoAnswer: not even a single picture gets through.
        PictureError: one cannot be read, is too large, or is no image to the server.
    """
    ids: list[str] = []
    known = Known() if known is None else known
    sender = _Sender(transport, rate or UploadRate(), limits.body_bytes, on_uploaded, known)

    def unsent() -> Iterator[_File]:
        for picture in pictures:
            if identity := known.stored(picture):
                on_uploaded(1)
            else:
                file = _read(picture, limits)
                yield file
                identity = file.id
            ids.append(identity)

    for batch in _batches(unsent(), limits):
        sender.send_missing(batch)
    groups = [ids[start : start + set_size] for start in range(0, len(ids), set_size)]
    sets = tuple(_create_set(transport, group, name) for group in groups)
    return Upload(Images(sets, len(ids)), tuple(len(group) for group in groups), tuple(ids))


def look(
    transport: Transport, pictures: Sequence[Picture], *, limits: CardLimits, known: Known
) -> tuple[str, ...]:
    """Decode what the server lacks to the end, a batch at a time; no picture leaves.

    Args:
        transport: asked for what the server lacks.
        pictures: read a batch at a time.
        limits: of the model card.
        known: gets what is found out.

    Returns:
        The id of each picture.

    Raises:
        PictureError: one cannot be read, is too large, or is damaged.
    """

    def files() -> Iterator[_File]:
        for each in pictures:
            file = _read(each, limits)
            known.ids[id(each)] = each, file.id
            yield file

    with doing("looking for damaged images", total=len(pictures), unit="images") as work:
        for batch in _batches(files(), limits):
            _missing(transport, batch, known)
            work.advance(len(batch))
    return tuple(known.ids[id(each)][1] for each in pictures)


def _batches(files: Iterable[_File], limits: CardLimits) -> Iterator[list[_File]]:
    room = min(limits.body_bytes, LARGEST_BYTES)
    return _groups(files, lambda: room)


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
    data, name = picture.read(), picture.name
    kind = check_head(data, name, most_pixels=limits.image_pixels)
    if kind not in SERVED:
        data = as_png(data, name)
    allowed = most_bytes(limits)
    if len(data) > allowed:
        as_what = "" if kind in SERVED else " as PNG"
        raise PictureError(
            f"the image {name} has {len(data):,} bytes{as_what}, the server takes {allowed:,}; "
            "make it smaller or take it out of the dataset",
            picture=name,
        )
    return _File(name, hashlib.sha256(data).hexdigest(), data)


def _missing(transport: Transport, batch: list[_File], known: Known) -> list[_File]:
    """What the server lacks of a batch, each image once and decoded; asks of what is not known."""
    files = list({file.id: file for file in batch}.values())
    unknown = [file.id for file in files if file.id not in known.there]
    if unknown:
        missing = set(lacking(transport, unknown))
        known.there.update((each, each not in missing) for each in unknown)
    files = [file for file in files if not known.there[file.id]]
    for file in files:
        if file.id not in known.sound:
            check_whole(file.data, file.name)
            known.sound.add(file.id)
    return files


def lacking(transport: Transport, ids: list[str]) -> list[str]:
    """Which of these images the server lacks; it keeps nothing of the question."""
    call = Call(
        "POST",
        "/v1/images/missing",
        headers=_JSON,
        content=_body(Manifest(ids=ids)),
        reply_bytes=_REPLY_BYTES + _ID_BYTES * len(ids),
    )
    return transport.send(call, message(ManifestReply)).missing


@dataclass(frozen=True)
class _Sender:
    """Brings batches to the server, in pieces as large as its limit and the upload rate allow."""

    transport: Transport
    rate: UploadRate
    body_bytes: int
    on_uploaded: OnUploaded
    known: Known

    def send_missing(self, batch: list[_File]) -> None:
        """Send what the server lacks of a batch."""
        files = _missing(self.transport, batch, self.known)
        if len(files) < len(batch):
            self.on_uploaded(len(batch) - len(files))
        for piece in _groups(files, lambda: min(self.body_bytes, self.rate.room)):
            self._send_piece(piece)

    def _send_piece(self, files: list[_File]) -> None:
        """Send files in one request; in smaller ones if that does not get through."""
        size = sum(file.part for file in files)
        try:
            self._send(files)
        except NoAnswer:
            if len(files) == 1:
                raise
            self.rate.failed(size)
            for file in files:  # some may be there all the same
                self.known.there.pop(file.id, None)
            self.send_missing(files)
        else:
            self.known.there.update((file.id, True) for file in files)
            self.rate.sent(size, self.transport.took_s)
            self.on_uploaded(len(files))

    def _send(self, files: list[_File]) -> None:
        parts = [("files", (file.id, file.data, "application/octet-stream")) for file in files]
        attempts = _ATTEMPTS if len(files) > 1 else math.inf
        call = Call(
            "POST",
            "/v1/images",
            files=parts,
            most_attempts=attempts,
            reply_bytes=_REPLY_BYTES + _STORED_BYTES * len(files),
        )
        try:
            reply = self.transport.send(call, message(UploadReply))
        except UsageError as error:
            raise _named(error, files) from error
        if [image.id for image in reply.images] != [file.id for file in files]:
            raise ServerUnreachable(
                f"{self.transport.url} stored other images than were sent; compare both programs' "
                "versions"
            )


def _named(error: UsageError, files: list[_File]) -> UsageError:
    """The error with the path of the file that the server names by its place in the request.

    An error whose `param` is no place of a file stays as it is.
    """
    place = re.fullmatch(r"files\[(\d+)\]", error.param or "")
    if place is None or int(place[1]) >= len(files):
        return error
    name = files[int(place[1])].name
    return PictureError(f"the image {name}: {error}", picture=name)


def _create_set(transport: Transport, ids: list[str], name: str) -> str:
    request = ImageSetRequest(images=ids, name=name)
    call = Call(
        "POST",
        "/v1/image-sets",
        headers=_JSON,
        content=_body(request),
        reply_bytes=_REPLY_BYTES,
    )
    reply = transport.send(call, message(ImageSet))
    if reply.images != len(ids):
        raise ServerUnreachable(
            f"{transport.url} made a set of {reply.images} images from {len(ids)}; compare both "
            "programs' versions"
        )
    return reply.id


def _body(request: Manifest | ImageSetRequest) -> bytes:
    return request.model_dump_json().encode()
