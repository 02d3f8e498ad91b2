"""Image files as values that are read when needed, so that a large dataset is small in memory.

Owns reading, decoding and PNG encoding.
"""

import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Protocol, runtime_checkable

from PIL import Image

from craft_shared.messages import CardLimits
from craft_shared.pictures import UnshowableError, to_rgb
from craft_tuner.data.formats import opened
from craft_tuner.data.places import Places, open_file
from craft_tuner.errors import PictureError

LARGEST_BYTES = 2**28
"""Of one image file, far above what servers take: a file without end must not fill the memory."""

PART_BYTES = 512
"""What a part of a multipart body takes beside the file: headers and boundary, rounded up."""


def most_bytes(limits: CardLimits) -> int:
    """The largest file that a server of these limits takes."""
    return min(limits.image_bytes, limits.body_bytes - PART_BYTES)


class Picture(Protocol):
    """An image file that can be read again and again."""

    @property
    def name(self) -> str:
        """What people call it: a path below the dataset's root, or a title. Orders pictures."""
        ...

    def read(self) -> bytes:
        """The bytes of the file.

        Raises:
            PictureError: they cannot be read.
        """
        ...


@runtime_checkable
class Stored(Protocol):
    """A picture of which a part can be read."""

    def open(self) -> BinaryIO:
        """The file, to be read from its beginning.

        Raises:
            PictureError: it cannot be opened.
        """
        ...


@dataclass(frozen=True, slots=True)
class FilePicture:
    """A picture on disk; `name` is its path below the dataset's root.

    `places` are the folders that it may be in; None for a path that the user has named.
    """

    path: Path
    name: str
    places: Places | None = None

    def open(self) -> BinaryIO:
        """The file."""
        return open_file(self.path, self.name, self.places)

    def read(self) -> bytes:
        """The file's bytes."""
        return read_stored(self, self.name)


@dataclass(frozen=True)
class BytesPicture:
    """A picture in memory."""

    data: bytes
    name: str

    def read(self) -> bytes:
        """The bytes themselves."""
        return self.data


def read_stored(picture: Stored, name: str) -> bytes:
    """All bytes of a stored picture.

    Raises:
        PictureError: they cannot be read, or have no end.
    """
    try:
        with picture.open() as file:
            data = file.read(LARGEST_BYTES + 1)
    except OSError as error:
        raise PictureError(f"cannot read the image {name}: {error}", picture=name) from error
    if len(data) > LARGEST_BYTES:
        raise PictureError(
            f"the image {name} has more than {LARGEST_BYTES:,} bytes; make it smaller or take it "
            "out of the dataset",
            picture=name,
        )
    return data


def decode(picture: Picture) -> Image.Image:
    """What the picture shows, as an RGB image.

    Raises:
        PictureError: its bytes are no image, or cannot be shown.
    """
    return _shown(picture.read(), picture.name)


def recognise(picture: Picture) -> str:
    """Look at the head of a picture: its format, by Pillow's name.

    Of a file no more is read than its head. Whether the rest is sound, `check_whole` says.

    Raises:
        PictureError: it is no image, or cannot be read.
    """
    file = picture.open() if isinstance(picture, Stored) else io.BytesIO(picture.read())
    with file, _damaged(picture.name), opened(file, picture.name) as image:
        return image.format or ""


def check_head(data: bytes, name: str, *, most_pixels: int) -> str:
    """Refuse bytes that do not begin as an image, or as one of more pixels than allowed.

    Returns:
        The format, by Pillow's name.

    Raises:
        PictureError: names the picture.
    """
    with _damaged(name), opened(io.BytesIO(data), name) as image:
        (width, height), kind = image.size, image.format or ""
    if width * height > most_pixels:
        raise PictureError(
            f"the image {name} has {width} x {height} pixels, the server takes {most_pixels:,}; "
            "make it smaller or take it out of the dataset",
            picture=name,
        )
    return kind


def check_whole(data: bytes, name: str) -> None:
    """Decode bytes to their end and drop the pixels; a JPEG at an eighth, which reads all of it.

    Raises:
        PictureError: they are damaged, or no image.
    """
    with _damaged(name), opened(io.BytesIO(data), name) as image:
        image.draft("RGB", (1, 1))
        image.load()


def as_png(data: bytes, name: str) -> bytes:
    """An image of any format as the PNG of what it shows; nothing but its depth is lost.

    Raises:
        PictureError: it is damaged, or cannot be shown.
    """
    return encode_png(_shown(data, name))


def _shown(data: bytes, name: str) -> Image.Image:
    with _damaged(name), opened(io.BytesIO(data), name) as image:
        return to_rgb(image)


@contextmanager
def _damaged(name: str) -> Iterator[None]:
    """Whatever a decoder raises on bytes of any kind is a picture that cannot be decoded."""
    try:
        yield
    except PictureError:
        raise
    except UnshowableError as error:
        raise PictureError(
            f"the image {name} cannot be shown: {error}; replace it or take it out of the dataset",
            picture=name,
        ) from error
    except Exception as error:
        raise PictureError(
            f"cannot decode the image {name}: it is damaged or not an image; replace it "
            "or take it out of the dataset (JPEG, PNG and WebP are understood, and "
            "BMP, GIF, TIFF, AVIF and others are converted)",
            picture=name,
        ) from error


def encode_png(image: Image.Image) -> bytes:
    """The image as the bytes of a PNG file; the same pixels give the same bytes on one machine."""
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


SAMPLE = 8
"""Pictures that are read to weigh many."""


def weigh(pictures: Sequence[Picture]) -> int:
    """About how many bytes pictures have, from some of them.

    Raises:
        DataError: one of those cannot be read.
    """
    count = min(len(pictures), SAMPLE)
    some = [pictures[number * len(pictures) // count] for number in range(count)]
    return round(sum(len(picture.read()) for picture in some) / max(1, count) * len(pictures))
