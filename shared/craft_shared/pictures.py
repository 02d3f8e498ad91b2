"""What an image file shows: one rule from any file that Pillow opens to RGB, 8 bits a channel.

Server, tuner and estimator ask here and nowhere else, so that a picture is the same for all
(docs/decisions/0028). The rule:

- The first frame or page counts. Its EXIF orientation is applied, as viewers do; no other mark of
  orientation is read.
- Grey of more than 8 bits, whole or with a point, is scaled by the picture's own values: the least
  becomes 0, the greatest 255. A picture of one value is black. NaN and infinity are refused.
- Colours of 16 bits, and grey of 16 bits with alpha, keep their upper 8.
- What is transparent lies on white; a picture that would vanish there, as white ink on a clear
  ground does, lies on black.
- Other spaces (CMYK, LAB, YCbCr, HSV, palettes, black and white) are converted. Colour profiles
  are not applied.
"""

import struct
from collections.abc import Iterator
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from PIL import Image

WHITE, BLACK = (255, 255, 255), (0, 0, 0)
"""What shows through transparent pixels."""

FAINT = 32
"""A picture that is nowhere further from white, in any channel, vanishes on it."""

BAND = 2**20
"""Pixels of deep grey that are scaled at a time."""

_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""By EXIF's orientation: what makes the picture upright."""

_DEEP = frozenset({"I", "F", "I;16", "I;16L", "I;16B", "I;16N"})
_STEPS = {"L;2": 85, "L;4": 17}
"""By how a file packs grey: the difference between two shades as Pillow has them."""
_ORIENTATION, _SHORT, _INVERTED = 0x112, 3, 0x106
_MOST_TAGS = 2**16

Extrema = tuple[tuple[int, int], ...]
"""Least and greatest value of each channel."""


class UnshowableError(ValueError):
    """An image that no rule makes a picture; says why."""


def to_rgb(image: Image.Image) -> Image.Image:
    """The picture that an image shows, as a new image of mode RGB without metadata.

    Args:
        image: as opened, before its pixels are loaded: how a file packs them is lost then.

    Raises:
        UnshowableError: there are values that are not finite.
        OSError: the pixels cannot be decoded; decoders of hostile bytes may raise anything else.
    """
    packing, clear = _packing(image), image.info.get("transparency")
    image.load()
    turn = _TURNS.get(orientation(image.info.get("exif") or b""))
    if image.mode in _DEEP:
        shown = _scaled(image, packing, clear)
    elif image.has_transparency_data:
        shown = _composited(image, packing, clear)
    else:
        shown = image.convert("RGB")
    shown.info = {}
    return shown if turn is None else shown.transpose(turn)


def orientation(exif: bytes) -> int:
    """EXIF's orientation, 1 to 8; 1 where it is missing or damaged.

    Reads one tag of the first directory: the others of a hostile file can take gigabytes.
    """
    exif = exif.removeprefix(b"Exif\0\0")
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(exif[:4])
    try:
        if order is None:
            return 1
        (start,) = struct.unpack_from(f"{order}L", exif, 4)
        (count,) = struct.unpack_from(f"{order}H", exif, start)
        end = min(len(exif), start + 2 + 12 * min(count, _MOST_TAGS))
        tags = exif[start + 2 : end]
        whole = tags[: len(tags) // 12 * 12]
        for tag, kind, length, value in struct.iter_unpack(f"{order}HHLH2x", whole):
            if (tag, kind, length) == (_ORIENTATION, _SHORT, 1):
                return value if value in _TURNS else 1
    except struct.error:
        pass
    return 1


def _packing(image: Image.Image) -> str:
    """How the file packs a pixel, as Pillow's raw mode; empty if the pixels are loaded."""
    tiles = getattr(image, "tile", None) or [(None, None, 0, "")]
    arguments = tiles[0][3]
    first = arguments[0] if isinstance(arguments, tuple) and arguments else arguments
    return first if isinstance(first, str) else ""


def _composited(image: Image.Image, packing: str, clear: Any) -> Image.Image:
    if image.mode == "La":  # Pillow converts it to LA alone
        image = image.convert("LA")
    if isinstance(clear, int) and packing in _STEPS:
        image = image.copy()
        image.info["transparency"] = clear * _STEPS[packing]
    elif isinstance(clear, tuple) and packing == "RGB;16B":
        image = image.copy()
        image.info["transparency"] = tuple(value >> 8 for value in clear)
    layer = image if image.mode == "RGBA" else image.convert("RGBA")
    shown = _laid(layer, WHITE)
    vanishes = min(low for low, _ in cast("Extrema", shown.getextrema())) >= WHITE[0] - FAINT
    if not vanishes:
        return shown
    del shown  # 4 bytes a pixel
    return _laid(layer, BLACK)


def _laid(layer: Image.Image, background: tuple[int, int, int]) -> Image.Image:
    """An RGBA image on one colour."""
    shown = Image.new("RGB", layer.size, background)
    shown.paste(layer, mask=layer.getchannel("A"))
    return shown


def _scaled(image: Image.Image, packing: str, clear: Any) -> Image.Image:
    """Deep grey by its own range; what is transparent has no part in it and is white."""
    low, high = _range(image, packing, clear)
    inverted = getattr(image, "tag_v2", {}).get(_INVERTED) == 0
    shown = Image.new("L", image.size)
    for top, values in _bands(image, packing):
        shades = (np.clip(values, low, high) - low) * 255 / ((high - low) or 1.0)
        pixels = np.rint(255 - shades if inverted and high > low else shades).astype(np.uint8)
        if clear is not None:
            pixels[values == clear] = WHITE[0]
        shown.paste(Image.fromarray(pixels), (0, top))
    return shown.convert("RGB")


def _range(image: Image.Image, packing: str, clear: Any) -> tuple[float, float]:
    low, high = np.inf, -np.inf
    for _, values in _bands(image, packing):
        if not np.isfinite(values).all():
            raise UnshowableError("it has values that are not finite (NaN or infinity)")
        seen = values if clear is None else values[values != clear]
        if seen.size:
            low, high = min(low, float(seen.min())), max(high, float(seen.max()))
    return (low, high) if low <= high else (0.0, 0.0)


def _bands(image: Image.Image, packing: str) -> Iterator[tuple[int, NDArray[np.float64]]]:
    """The values (rows, width) float64 of some rows at a time, and the first row's number."""
    rows = max(1, BAND // max(1, image.width))
    for top in range(0, image.height, rows):
        bottom = min(image.height, top + rows)
        values = np.asarray(image.crop((0, top, image.width, bottom)))
        if packing == "I;32N":  # without sign in the file, with one in Pillow
            values = values.view(np.uint32)
        yield top, values.astype(np.float64)
