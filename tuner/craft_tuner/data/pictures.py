"""Image files as values that are read when needed, so that a large dataset is small in memory.

Owns reading, decoding and PNG encoding.
"""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from PIL import Image

from craft_tuner.errors import PictureError

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp"})
"""File endings of the formats that a server decodes."""

OTHER_IMAGE_SUFFIXES = frozenset({".bmp", ".gif", ".heic", ".jp2", ".tif", ".tiff", ".avif"})
"""Image formats that no server takes: pointed out instead of passed over."""


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


@dataclass(frozen=True, slots=True)
class FilePicture:
    """A picture on disk; `name` is its path below the dataset's root."""

    path: Path
    name: str

    def read(self) -> bytes:
        """The file's bytes."""
        try:
            data = self.path.read_bytes()
        except OSError as error:
            raise PictureError(
                f"cannot read the image {self.path}: {error.strerror}; restore the file or take "
                "it out of the dataset",
                picture=self.name,
            ) from error
        if not data:
            raise PictureError(
                f"the image {self.path} is empty (0 bytes); replace or remove it", picture=self.name
            )
        return data


@dataclass(frozen=True)
class BytesPicture:
    """A picture in memory."""

    data: bytes
    name: str

    def read(self) -> bytes:
        """The bytes themselves."""
        return self.data


def decode(picture: Picture) -> Image.Image:
    """The picture as an RGB image.

    Raises:
        PictureError: its bytes are no image.
    """
    try:
        with Image.open(io.BytesIO(picture.read())) as image:
            return image.convert("RGB")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise PictureError(
            f"cannot decode the image {picture.name}: it is damaged or not an image; replace it "
            "or take it out of the dataset (JPEG, PNG and WebP are understood)",
            picture=picture.name,
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
