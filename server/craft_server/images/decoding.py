"""Decoding of uploads: untrusted bytes in, an RGB image out.

Owns formats, limits on size, and decoding.
"""

import io
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

from PIL import Image, UnidentifiedImageError

from craft_shared.errors import Code, Refusal
from craft_shared.pictures import to_rgb

FORMATS = ("JPEG", "PNG", "WEBP")
"""What may be uploaded; everything else is refused before a decoder sees it."""

MAX_SIDE = 65_500
"""Largest width and height, the bound of JPEG: decoders keep an array of rows."""

JPEG_MAGIC, PNG_MAGIC = b"\xff\xd8", b"\x89PNG"

REPEATS = (
    (JPEG_MAGIC, b"\xff\xda", 256, "scans"),  # 14 bytes each, and a pass over all pixels
    (JPEG_MAGIC, b"Exif\0\0", 256, "pieces of EXIF"),  # joined one by one: quadratic
    (PNG_MAGIC, b"iCCP", 1, "colour profiles"),  # each inflates to a megabyte, then is dropped
)
"""By how a file begins: what makes a decoder work again and again at next to no bytes, and how
often that may occur. Honest files have 1 to 10 scans; 8 MiB of any bytes have a scan's mark 128
times by chance."""


MAX_STEPS = 2**14
"""Chunks of a PNG, or segments of a JPEG and bytes between them. Pillow reads each in Python, 2 to
7 microseconds with the interpreter in hand: 8 MiB of nothing else took 4 s from everybody. A
camera's file has some dozens, and a PNG in pieces of 4 KiB has 2,048 in 8 MiB."""

_SOS = 0xDA
_ALONE = frozenset({0x01, 0xC8, *range(0xD0, 0xDA), *range(0xF0, 0xFE)})
"""Marks of a JPEG after which Pillow reads on at once: TEM, JPG, restarts, the start and the end of
an image, JPG0 to JPG13."""
_PNG_HEAD, _PNG_CHUNK = 8, 12
"""Bytes before the first chunk, and of a chunk beside its data."""


@dataclass(frozen=True)
class ImageLimits:
    """What one image and one owner may take."""

    bytes: int
    pixels: int
    owner_bytes: int
    owner_images: int
    images_per_set: int
    owner_sets: int
    owner_set_images: int


def open_image(data: bytes, limits: ImageLimits) -> Image.Image:
    """Decode an untrusted image file to RGB, by the rule of `craft_shared.pictures`.

    Format and size are read from the header and checked before any pixel is decoded, and so is
    what makes decoders work long for few pixels: bytes, pixels and repeats bound the time of every
    decode (docs/decisions/0016).

    Raises:
        Refusal: `too_large` or `undecodable_image`; the caller adds which file it was.
    """
    if len(data) > limits.bytes:
        raise Refusal(Code.TOO_LARGE, f"{len(data)} bytes, at most {limits.bytes} are allowed")
    _check_repeats(data)
    _check_steps(data)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the pixel limit below is ours, and stricter
            image = Image.open(io.BytesIO(data), formats=FORMATS)
            _check_pixels(image.size, limits.pixels)
            return to_rgb(image)
    except UnidentifiedImageError as error:
        detail = f"not an image of the formats {', '.join(FORMATS)}"
        raise Refusal(Code.UNDECODABLE_IMAGE, detail) from error
    except Image.DecompressionBombError as error:
        raise Refusal(Code.TOO_LARGE, f"{error}; at most {limits.pixels} are allowed") from error
    except Refusal:
        raise
    except Exception as error:  # a decoder may raise anything on hostile bytes
        raise Refusal(Code.UNDECODABLE_IMAGE, f"cannot be decoded: {error}") from error


def _check_repeats(data: bytes) -> None:
    for magic, mark, allowed, what in REPEATS:
        if data.startswith(magic) and (found := data.count(mark)) > allowed:
            detail = f"{found} {what} in one file, at most {allowed} are allowed"
            raise Refusal(Code.TOO_LARGE, detail)


def _check_steps(data: bytes) -> None:
    steps: Iterator[int] = iter(())
    if data.startswith(PNG_MAGIC):
        steps = _chunks(data)
    elif data.startswith(JPEG_MAGIC):
        steps = _segments(data)
    if next(islice(steps, MAX_STEPS, None), None) is not None:
        what = "chunks" if data.startswith(PNG_MAGIC) else "segments and bytes between them"
        detail = f"more than {MAX_STEPS} {what} in one file, at most so many are allowed"
        raise Refusal(Code.TOO_LARGE, detail)


def _chunks(data: bytes) -> Iterator[int]:
    """Where the chunks of a PNG begin."""
    at = _PNG_HEAD
    while at < len(data):
        yield at
        at += _PNG_CHUNK + int.from_bytes(data[at : at + 4])


def _segments(data: bytes) -> Iterator[int]:
    """Where a reader of a JPEG stands before the first scan: at segments, and at stray bytes.

    From the first scan on a decoder in C reads the file.
    """
    at = 2
    while at < len(data):
        yield at
        marker = data[at + 1] if data[at] == 0xFF and at + 1 < len(data) else None
        if marker == _SOS:
            return
        if marker is None or marker in {0, 0xFF}:  # junk, or padding
            at += 1
        elif marker in _ALONE:
            at += 2
        else:
            at += 2 + max(2, int.from_bytes(data[at + 2 : at + 4]))


def _check_pixels(size: tuple[int, int], allowed: int) -> None:
    width, height = size
    if max(size) > MAX_SIDE:
        detail = f"{width} x {height} pixels, at most {MAX_SIDE} on a side are allowed"
        raise Refusal(Code.TOO_LARGE, detail)
    if width * height > allowed:
        detail = f"{width} x {height} pixels, at most {allowed} in all are allowed"
        raise Refusal(Code.TOO_LARGE, detail)
