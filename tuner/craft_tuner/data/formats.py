"""Formats of image files, told by content and never by a file's ending.

Owns which are sent as they are, which are converted first, and which of Pillow's plugins may read
them: it has dozens, one of which starts a program.
"""

import importlib
import warnings
from contextlib import suppress
from functools import cache
from typing import BinaryIO

from PIL import Image, UnidentifiedImageError

from craft_tuner.errors import PackageMissing, PictureError

SERVED = ("JPEG", "PNG", "WEBP")
"""What a server decodes, by Pillow's names."""

CONVERTED = ("BMP", "GIF", "TIFF", "PPM", "JPEG2000", "AVIF", "HEIF", "JXL")
"""What is sent as PNG, where Pillow or a plugin of it reads it."""

KNOWN_ENDINGS = frozenset(
    {
        *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".apng", ".webp", ".bmp", ".dib", ".gif"),
        *(".tif", ".tiff", ".pbm", ".pgm", ".ppm", ".pnm", ".jp2", ".j2k", ".jxl"),
        *(".avif", ".avifs", ".heic", ".heif"),
    }
)
"""In small letters. A file that ends so is a picture, be it damaged; any other file is opened."""

_PLUGINS = {"pillow_heif": "register_heif_opener", "pillow_jxl": ""}
"""Packages that teach Pillow a format, and what to call after the import."""

_HEIF = ("HEIF", "HEIC", "pillow-heif")
_AVIF = ("AVIF", "AVIF", "pillow 11.3 or later")
_JXL = ("JXL", "JPEG XL", "pillow-jxl-plugin")
_NEEDED = {
    **dict.fromkeys(("heic", "heix", "hevc", "mif1", "msf1", "heim", "heis"), _HEIF),
    **dict.fromkeys(("avif", "avis"), _AVIF),
}
"""By the brand of an ISO media file: its format to Pillow and to people, and what reads it."""
_JXL_HEADS = (b"\xff\x0a", b"\0\0\0\x0cJXL ")


def opened(file: BinaryIO, name: str) -> Image.Image:
    """The image in a file; its pixels are not read.

    Raises:
        PackageMissing: a package is missing that reads its format.
        Exception: of any kind, from a decoder of bytes that are no image.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the server has limits of its own, which are checked
        with suppress(UnidentifiedImageError):
            return Image.open(file, formats=SERVED)
        file.seek(0)
        try:
            return Image.open(file, formats=_convertible())
        except UnidentifiedImageError:
            file.seek(0)
            _point_out(file.read(12), name)
            raise


def is_image(file: BinaryIO) -> bool:
    """Whether a file begins as an image, be it one that a missing package reads."""
    try:
        with opened(file, ""):
            return True
    except PictureError:
        return True
    except Exception:  # noqa: BLE001 - a decoder may raise anything on bytes of any kind
        return False


@cache
def _convertible() -> tuple[str, ...]:
    """Those of CONVERTED that can be read here."""
    for package, function in _PLUGINS.items():
        with suppress(ImportError):
            module = importlib.import_module(package)
            if function:
                getattr(module, function)()
    Image.init()
    return tuple(kind for kind in CONVERTED if kind in Image.OPEN)


def _point_out(head: bytes, name: str) -> None:
    """Raise for an image of a format that a missing package reads."""
    brand = head[8:12].decode("latin-1") if head[4:8] == b"ftyp" else ""
    found = _JXL if head.startswith(_JXL_HEADS) else _NEEDED.get(brand)
    if found is not None and found[0] not in _convertible():
        raise PackageMissing(f"{found[1]}, which needs {found[2]}", picture=name)
