"""The image door: untrusted bytes in, an RGB image out.

Owns formats, sizes and decoding. Must not know who uploads, where bytes are kept, models or HTTP.
"""

import io
import warnings
from dataclasses import dataclass

from PIL import Image, UnidentifiedImageError

from craft_shared.errors import Code, Refusal

FORMATS = ("JPEG", "PNG", "WEBP")
"""What may be uploaded; everything else is refused before a decoder sees it."""


@dataclass(frozen=True)
class ImageLimits:
    """What one image and one owner may take."""

    bytes: int
    pixels: int
    owner_bytes: int
    owner_images: int
    images_per_set: int


def open_image(data: bytes, limits: ImageLimits) -> Image.Image:
    """Decode an untrusted image file to RGB.

    Format and size are read from the header and checked before any pixel is decoded.

    Raises:
        Refusal: `too_large` or `undecodable_image`; the caller adds which file it was.
    """
    if len(data) > limits.bytes:
        raise Refusal(Code.TOO_LARGE, f"{len(data)} bytes, at most {limits.bytes} are allowed")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the pixel limit below is ours, and stricter
            image = Image.open(io.BytesIO(data), formats=FORMATS)
            _check_pixels(image.size, limits.pixels)
            return image.convert("RGB")
    except UnidentifiedImageError as error:
        detail = f"not an image of the formats {', '.join(FORMATS)}"
        raise Refusal(Code.UNDECODABLE_IMAGE, detail) from error
    except Image.DecompressionBombError as error:
        raise Refusal(Code.TOO_LARGE, f"{error}; at most {limits.pixels} are allowed") from error
    except Refusal:
        raise
    except Exception as error:  # a decoder may raise anything on hostile bytes
        raise Refusal(Code.UNDECODABLE_IMAGE, f"cannot be decoded: {error}") from error


def _check_pixels(size: tuple[int, int], allowed: int) -> None:
    width, height = size
    if width * height > allowed:
        detail = f"{width} x {height} pixels, at most {allowed} in all are allowed"
        raise Refusal(Code.TOO_LARGE, detail)
