"""Small pictures, and writers of the files that Pillow does not write."""

import io
import struct
import zlib
from typing import Any

import numpy as np
from PIL import Image, ImageCms

WIDTH, HEIGHT = 24, 18

GREY = np.rint(np.linspace(0, 255, WIDTH * HEIGHT)).astype(np.uint8).reshape(HEIGHT, WIDTH)
COLOUR = np.stack([GREY, GREY.T.reshape(HEIGHT, WIDTH), 255 - GREY], axis=2)
INK = np.zeros((HEIGHT, WIDTH), np.uint8)
INK[2:9, 4:16], INK[9:15, 4:8] = 255, 255
"""Opaque where it is 255: a shape that has no symmetry."""


def rgb(pixels: np.ndarray) -> np.ndarray:
    """(H, W, 3) of grey or colour."""
    return pixels if pixels.ndim == 3 else np.repeat(pixels[:, :, None], 3, axis=2)


def saved(image: Image.Image, kind: str, **options: Any) -> bytes:
    """The image as a file's bytes."""
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def chunk(name: bytes, data: bytes) -> bytes:
    """A chunk of a PNG."""
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def raw_png(
    rows: list[bytes],
    *,
    depth: int,
    colour: int,
    clear: bytes = b"",
    size: tuple[int, int] = (WIDTH, HEIGHT),
) -> bytes:
    """A PNG of any depth and type of colour, from packed rows."""
    head = struct.pack(">IIBBBBB", *size, depth, colour, 0, 0, 0)
    body = zlib.compress(b"".join(b"\0" + row for row in rows))
    middle = chunk(b"tRNS", clear) if clear else b""
    parts = [chunk(b"IHDR", head), middle, chunk(b"IDAT", body), chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def raw_tiff(values: np.ndarray, *, depth: int, sample: int = 1, photometric: int = 1) -> bytes:
    """A little-endian grey TIFF: `sample` 1 without sign, 2 with sign, 3 with a point."""
    pixels = np.ascontiguousarray(values).tobytes()
    strip = 8 + 2 + 12 * 9 + 4
    tags = [
        (256, WIDTH),
        (257, HEIGHT),
        (258, depth),
        (259, 1),
        (262, photometric),
        (273, strip),
        (277, 1),
        (279, len(pixels)),
        (339, sample),
    ]
    entries = b"".join(struct.pack("<HHLL", tag, 4, 1, value) for tag, value in tags)
    return b"II*\0" + struct.pack("<LH", 8, len(tags)) + entries + bytes(4) + pixels


def over_white(pixels: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """(H, W, 3) uint8, composited on white."""
    share = alpha[:, :, None] / 255
    return np.rint(rgb(pixels) * share + 255 * (1 - share)).astype(np.uint8)


def packed(depth: int) -> tuple[bytes, np.ndarray]:
    """A grey PNG of 1, 2 or 4 bits, and its shades."""
    levels = (GREY.astype(int) * (2**depth - 1) // 255).astype(np.uint8)
    bits = np.unpackbits(levels[:, :, None], axis=2)[:, :, 8 - depth :]
    rows = [np.packbits(row.reshape(-1)).tobytes() for row in bits]
    return raw_png(rows, depth=depth, colour=0), levels * (255 // (2**depth - 1))


def large() -> Image.Image:
    """A smooth colour picture, which lossy formats keep well."""
    grey = Image.fromarray(GREY).resize((WIDTH * 4, HEIGHT * 4), Image.Resampling.BICUBIC)
    return Image.merge("RGB", (grey, grey, grey.transpose(Image.Transpose.ROTATE_180)))


def ycck(image: Image.Image) -> bytes:
    """A JPEG of YCCK: Adobe's mark says that what it calls CMY is YCC."""
    *colours, black = image.convert("CMYK").split()
    turned = Image.merge("RGB", colours).convert("YCbCr").split()
    kept = [band.point(lambda value: 255 - value) for band in turned]  # Pillow inverts all four
    data = saved(Image.merge("CMYK", (*kept, black)), "JPEG", quality=95)
    mark = data.index(b"Adobe") + 11
    return data[:mark] + b"\2" + data[mark + 1 :]


def lab(image: Image.Image) -> bytes:
    """A TIFF of CIELAB."""
    profiles = (ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"))
    transform = ImageCms.buildTransform(*profiles, "RGB", "LAB")
    return saved(ImageCms.applyTransform(image, transform), "TIFF")
