"""Pictures to the server: each read once, sent only if it is missing there, a batch at a time.

    read a batch -> sha256 -> POST /v1/images/missing -> POST /v1/images with those -> next batch
    then POST /v1/image-sets with the ids, in sets of at most so many images

Memory holds one batch. Uploading again is free and changes nothing. Must not know labels.
"""

import hashlib
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
from craft_tuner.data.pictures import Picture
from craft_tuner.errors import DataError, ServerUnreachable, UsageError
from craft_tuner.replies import message
from craft_tuner.transport import Call, Transport

BATCH_IMAGES = 256
"""Images in one multipart body; servers cap the number of its files."""

BATCH_BYTES = 16 * 2**20
"""Bytes of images held in memory at a time, if the server's limit is not smaller."""

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


def upload(
    transport: Transport,
    pictures: Sequence[Picture],
    *,
    limits: CardLimits,
    set_size: int,
    name: str,
    on_uploaded: OnUploaded = lambda _: None,
) -> Upload:
    """Bring pictures to the server and group them into image sets of at most `set_size`.

    Raises:
        DataError: a picture cannot be read, is too large, or is no image to the server.
    """
    ids: list[str] = []
    for batch in _batches(pictures, limits):
        _send_missing(transport, batch)
        ids.extend(file.id for file in batch)
        on_uploaded(len(batch))
    groups = [ids[start : start + set_size] for start in range(0, len(ids), set_size)]
    sets = tuple(_create_set(transport, group, name) for group in groups)
    return Upload(Images(sets, len(ids)), tuple(len(group) for group in groups), tuple(ids))


def _batches(pictures: Iterable[Picture], limits: CardLimits) -> Iterator[list[_File]]:
    room = min(limits.body_bytes, BATCH_BYTES)
    batch: list[_File] = []
    size = 0
    for picture in pictures:
        file = _read(picture, limits)
        part = len(file.data) + _PART_BYTES
        if batch and (len(batch) == BATCH_IMAGES or size + part > room):
            yield batch
            batch, size = [], 0
        batch.append(file)
        size += part
    if batch:
        yield batch


def _read(picture: Picture, limits: CardLimits) -> _File:
    data = picture.read()
    allowed = min(limits.image_bytes, limits.body_bytes - _PART_BYTES)
    if len(data) > allowed:
        raise DataError(
            f"the image {picture.name} has {len(data):,} bytes, the server takes {allowed:,}; "
            "make it smaller or take it out of the dataset"
        )
    return _File(picture.name, hashlib.sha256(data).hexdigest(), data)


def _send_missing(transport: Transport, batch: list[_File]) -> None:
    files = list({file.id: file for file in batch}.values())
    manifest = Manifest(ids=[file.id for file in files])
    call = Call("POST", "/v1/images/missing", headers=_JSON, content=_body(manifest))
    missing = set(transport.send(call, message(ManifestReply)).missing)
    files = [file for file in files if file.id in missing]
    if files:
        _send(transport, files)


def _send(transport: Transport, files: list[_File]) -> None:
    parts = [("files", (file.id, file.data, "application/octet-stream")) for file in files]
    try:
        reply = transport.send(Call("POST", "/v1/images", files=parts), message(UploadReply))
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
    return DataError(f"the image {files[int(place[1])].name}: {error}")


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
