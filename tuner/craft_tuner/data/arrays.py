"""Pictures from what a Python program holds: paths, bytes, PIL images, arrays of pixels or numbers.

Owns what may stand for a picture and how it becomes an image file.
"""

import math
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from craft_shared.pictures import UnshowableError, to_rgb
from craft_tuner.data.listing import shown
from craft_tuner.data.pictures import BytesPicture, FilePicture, Picture, encode_png
from craft_tuner.errors import InputError

_ALLOWED = (
    "a path, bytes of an image file, a PIL image, or an array of numbers of shape (H, W) or "
    "(H, W, C) with C = 1 (grey), 2 (grey, alpha), 3 (colour) or 4 (colour, alpha)"
)
_CHANNELS = (1, 2, 3, 4)


def holds_pictures(values: Any) -> bool:
    """Whether `values` are pictures one by one, and not rows of numbers.

    True for arrays (N, H, W) and (N, H, W, C), and for sequences whose first element is a path,
    bytes, a PIL image or an array of two dimensions or more.
    """
    if isinstance(values, np.ndarray) and values.ndim != 1:
        return values.ndim in (3, 4) and values.dtype.kind in "uifb"
    if isinstance(values, str | bytes) or not hasattr(values, "__getitem__"):
        return False
    return len(values) > 0 and _is_picture(next(iter(values)))


def pictures_from(values: Iterable[Any]) -> tuple[Picture, ...]:
    """A picture per value, in order.

    Args:
        values: paths of image files (str or path), contents of image files (bytes), PIL images, or
            arrays (H, W) or (H, W, C) of 1 to 4 channels: grey, grey and alpha, colour, colour
            and alpha. They are shown by the rule of `craft_shared.pictures`: uint8 and bool as
            they are, other grey by its own range; other channels are uint16, of which the upper 8
            bits count, or between 0.0 and 1.0.

    Raises:
        InputError: a value is nothing of these.
    """
    return tuple(_picture(value, f"image {place:06d}") for place, value in enumerate(values))


def grey_pictures(
    rows: NDArray[np.float64], value_range: tuple[float, float]
) -> tuple[Picture, ...]:
    """A grey picture per row of numbers (N, F).

    A row fills a square line by line; where F is no square number, what is left stays black.

    Args:
        rows: finite numbers.
        value_range: what is black and what is white; values beyond are cut.
    """
    low, high = value_range
    shades = (np.clip(rows, low, high) - low) / ((high - low) or 1.0)
    side = math.isqrt(rows.shape[1] - 1) + 1
    pixels = np.zeros((len(rows), side * side), np.uint8)
    pixels[:, : rows.shape[1]] = np.rint(shades * 255)
    return pictures_from(pixels.reshape(-1, side, side))


def _is_picture(value: Any) -> bool:
    return isinstance(value, str | bytes | os.PathLike | Image.Image) or (
        isinstance(value, np.ndarray) and value.ndim >= 2
    )


def _picture(value: Any, name: str) -> Picture:
    if isinstance(value, bytes):
        return BytesPicture(bytes(value), name)
    if isinstance(value, str | os.PathLike):
        path = Path(value)
        return FilePicture(path, shown(path))
    try:
        return BytesPicture(encode_png(_image(value, name)), name)
    except UnshowableError as error:
        raise InputError(f"{name} cannot be shown: {error}") from error


def _image(value: Any, name: str) -> Image.Image:
    """What a PIL image or an array shows; uint8 of one channel stays grey, which is smaller."""
    if isinstance(value, Image.Image):
        return to_rgb(value)
    if not (isinstance(value, np.ndarray) and _is_pixels(value.shape, value.dtype)):
        array = isinstance(value, np.ndarray)
        what = f"{value.dtype} {value.shape}" if array else type(value).__name__
        raise InputError(f"{name} is {what}; allowed: {_ALLOWED}")
    pixels = value[:, :, 0] if value.ndim == 3 and value.shape[2] == 1 else value
    if pixels.dtype.kind == "b":
        pixels = pixels.astype(np.uint8) * 255
    if pixels.dtype == np.uint8:
        image = Image.fromarray(np.ascontiguousarray(pixels))
        return image if image.mode in {"L", "RGB"} else to_rgb(image)
    return to_rgb(_deep(pixels) if pixels.ndim == 2 else _channels(pixels, name))


def _deep(values: NDArray[Any]) -> Image.Image:
    """(H, W) of more than 8 bits as Pillow has them."""
    if values.dtype == np.uint16:
        return Image.fromarray(np.ascontiguousarray(values))
    whole = values.dtype.kind in "iu"
    bounds = np.iinfo(np.int32)
    fits = whole and bounds.min <= values.min() and values.max() <= bounds.max
    with np.errstate(over="ignore"):  # infinity is refused by its name
        return Image.fromarray(np.ascontiguousarray(values, np.int32 if fits else np.float32))


def _channels(values: NDArray[Any], name: str) -> Image.Image:
    """(H, W, 2 to 4) of more than 8 bits, at 8."""
    if values.dtype.kind == "u" and values.dtype.itemsize == 2:
        pixels = (values >> 8).astype(np.uint8)
    elif values.dtype.kind == "f" and values.min() >= 0 and values.max() <= 1:
        pixels = np.rint(values * 255.0).astype(np.uint8)
    else:
        raise InputError(
            f"{name} is {values.dtype} {values.shape} from {values.min()} to {values.max()}; "
            "colours and alpha are allowed as uint8, as uint16, or between 0.0 and 1.0"
        )
    return Image.fromarray(pixels)


def _is_pixels(shape: Sequence[int], dtype: np.dtype[Any]) -> bool:
    channels = shape[2] if len(shape) == 3 else 1
    numbers = dtype.kind in "biuf"
    return numbers and len(shape) in (2, 3) and channels in _CHANNELS and min(shape) > 0
