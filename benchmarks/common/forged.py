"""Image files that no camera writes: small, well-formed in parts, and costly for a decoder.

Each function gives the bytes of one file. Knows formats, nothing of the server.
"""

import io
import struct
import zlib

import numpy as np
from PIL import Image

_SIDE = 5600
"""Pixels on a side of the files within the default limit of 32 million pixels."""


def png_over_the_limit() -> bytes:
    """36 million pixels in 5 KB."""
    return _png(6000, 6000, depth=1, colour=0, pixels=bytes(6000 * (1 + 6000 // 8)))


def png_header(side: int = 50_000) -> bytes:
    """A PNG that claims to be huge and ends there."""
    return _png(side, side, pixels=b"\0")


def png_text() -> bytes:
    """8 x 8 pixels, and 8 GB of text in compressed chunks of a megabyte."""
    return _full_of(_chunk(b"zTXt", b"x\0\0" + zlib.compress(bytes(2**20 - 16), 9)))


def png_profiles() -> bytes:
    """8 x 8 pixels, and 8,000 colour profiles of a megabyte each."""
    return _full_of(_chunk(b"iCCP", b"x\0\0" + zlib.compress(bytes(2**20 - 16), 9)))


def jpeg_scans() -> bytes:
    """A progressive JPEG of 30 million pixels with 500,000 empty passes over them."""
    whole = _encoded("JPEG", progressive=True, subsampling=0)
    refine = b"\xff\xda" + struct.pack(">H", 12) + b"\x03\x01\x00\x02\x00\x03\x00\x00\x00\x10"
    return whole[:-2] + refine * 500_000 + whole[-2:]


def jpeg_exif() -> bytes:
    """A JPEG whose EXIF comes in 700,000 pieces."""
    whole = _encoded("JPEG", side=8)
    return whole[:2] + b"\xff\xe1\x00\x09Exif\0\0x" * 700_000 + whole[2:]


def png_chunks() -> bytes:
    """8 x 8 pixels, and 700,000 chunks of no length."""
    return _full_of(_chunk(b"teXt", b""))


def jpeg_segments() -> bytes:
    """30 million pixels, and 1.8 million segments of no length before them."""
    whole = _encoded("JPEG")
    return whole[:2] + b"\xff\xfe\0\2" * 1_800_000 + whole[2:]


def jpeg_ended() -> bytes:
    """A JPEG that ends before it begins: 1.8 million segments stand behind its end."""
    whole = _encoded("JPEG", side=8)
    return whole[:2] + b"\xff\xd9" + b"\xff\xfe\0\2" * 1_800_000 + whole[2:]


def jpeg_marks() -> bytes:
    """A JPEG with four million marks that no reader knows and Pillow passes over."""
    whole = _encoded("JPEG", side=8)
    return whole[:2] + b"\xff\xf0" * 4_000_000 + whole[2:]


def jpeg_junk() -> bytes:
    """A JPEG with seven million bytes before its first segment that belong to none."""
    whole = _encoded("JPEG", side=8)
    return whole[:2] + b"\x11" * 7_000_000 + whole[2:]


def jpeg_truncated() -> bytes:
    """The first half of a JPEG."""
    whole = _encoded("JPEG", side=200)
    return whole[: len(whole) // 2]


def webp_corrupted() -> bytes:
    """A WEBP with its middle overwritten."""
    whole = _encoded("WEBP", side=200, lossless=True)
    third = len(whole) // 3
    return whole[:third] + bytes(third) + whole[2 * third :]


def costliest() -> dict[str, bytes]:
    """Files within every limit that take long: what bounds the time of a decode, by measurement."""
    deep = b"\x04" + bytes(_SIDE * 8)
    scans = b"\xff\xda" + struct.pack(">H", 12) + b"\x03\x01\x00\x02\x00\x03\x00\x00\x00\x10"
    jpeg = _encoded("JPEG", progressive=True, subsampling=0)
    return {
        "PNG, 16 bits, 4 channels, Paeth filter": _png(
            _SIDE, _SIDE, depth=16, colour=6, pixels=deep * _SIDE
        ),
        "JPEG, 256 scans": jpeg[:-2] + scans * (256 - jpeg.count(b"\xff\xda")) + jpeg[-2:],
        "WEBP, lossless": _encoded("WEBP", lossless=True, method=0),
    }


def _encoded(kind: str, *, side: int = _SIDE, **options: object) -> bytes:
    pixels = np.zeros((side, side, 3), np.uint8)
    pixels[: min(side, 256)] = np.random.default_rng(1).integers(0, 256, (1, side, 3))
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind, **options)
    return buffer.getvalue()


def _full_of(chunk: bytes) -> bytes:
    """A PNG of 8 x 8 pixels with one chunk again and again, nearly 8 MiB in all."""
    before = chunk * ((8 * 2**20 - 1000) // len(chunk))
    return _png(8, 8, pixels=bytes(8 * 25), before=before)


def _png(
    width: int,
    height: int,
    *,
    pixels: bytes,
    depth: int = 8,
    colour: int = 2,
    before: bytes = b"",
) -> bytes:
    size = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    data = _chunk(b"IDAT", zlib.compress(pixels, 9))
    return b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", size) + before + data + _chunk(b"IEND", b"")


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
