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

from craft_tuner.data.named import shown
from craft_tuner.data.pictures import BytesPicture, FilePicture, Picture, encode_png
from craft_tuner.errors import InputError

_CHANNELS = {2: "(H, W)", 3: "(H, W, 1) or (H, W, 3)"}


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
            arrays of uint8 of shape (H, W), (H, W, 1) or (H, W, 3).

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
    if isinstance(value, Image.Image):
        return BytesPicture(encode_png(value.convert("RGB")), name)
    if isinstance(value, np.ndarray) and _is_pixels(value.shape, value.dtype):
        image = Image.fromarray(np.ascontiguousarray(value.squeeze(2) if _single(value) else value))
        return BytesPicture(encode_png(image), name)
    what = f"{value.dtype} {value.shape}" if isinstance(value, np.ndarray) else type(value).__name__
    raise InputError(
        f"{name} is {what}; allowed: a path, bytes of an image file, a PIL image, or an array of "
        f"uint8 of shape {' or '.join(_CHANNELS.values())}"
    )


def _is_pixels(shape: Sequence[int], dtype: np.dtype[Any]) -> bool:
    channels = shape[2] if len(shape) == 3 else 1
    return dtype == np.uint8 and len(shape) in _CHANNELS and channels in (1, 3) and min(shape) > 0


def _single(pixels: NDArray[Any]) -> bool:
    return pixels.ndim == 3 and pixels.shape[2] == 1
