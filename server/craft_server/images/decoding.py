"""Decoding of uploads: untrusted bytes in, an RGB image out.

Owns formats, limits on size, and decoding.
"""

import io
import warnings
from dataclasses import dataclass

from PIL import Image, UnidentifiedImageError

from craft_shared.errors import Code, Refusal

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
    """Decode an untrusted image file to RGB.

    Format and size are read from the header and checked before any pixel is decoded, and so is
    what makes decoders work long for few pixels: bytes, pixels and repeats bound the time of every
    decode (docs/decisions/0016).

    Raises:
        Refusal: `too_large` or `undecodable_image`; the caller adds which file it was.
    """
    if len(data) > limits.bytes:
        raise Refusal(Code.TOO_LARGE, f"{len(data)} bytes, at most {limits.bytes} are allowed")
    _check_repeats(data)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the pixel limit below is ours, and stricter
            image = Image.open(io.BytesIO(data), formats=FORMATS)
            _check_pixels(image.size, limits.pixels)
            image.load()
            return image if image.mode == "RGB" else image.convert("RGB")
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


def _check_pixels(size: tuple[int, int], allowed: int) -> None:
    width, height = size
    if max(size) > MAX_SIDE:
        detail = f"{width} x {height} pixels, at most {MAX_SIDE} on a side are allowed"
        raise Refusal(Code.TOO_LARGE, detail)
    if width * height > allowed:
        detail = f"{width} x {height} pixels, at most {allowed} in all are allowed"
        raise Refusal(Code.TOO_LARGE, detail)
