"""One small picture in many files: depths, modes, transparency, orientations, formats.

Each case has the file's bytes and the 8-bit RGB picture that it has to show.
"""

import struct
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image, features

from tests.support.picture_files import (
    COLOUR,
    GREY,
    HEIGHT,
    INK,
    WIDTH,
    chunk,
    lab,
    large,
    over_white,
    packed,
    raw_png,
    raw_tiff,
    rgb,
    saved,
    ycck,
)

SERVED = frozenset({"JPEG", "PNG", "WEBP"})
"""What a server takes, by Pillow's names."""


@dataclass(frozen=True)
class Case:
    """A file; what it shows, (H, W, 3) uint8, None if it is refused; how far it may be off."""

    name: str
    kind: str
    data: bytes
    shows: np.ndarray | None
    tolerance: int = 0

    @property
    def served(self) -> bool:
        """Whether a server takes the file as it is."""
        return self.kind in SERVED


def _grey_cases() -> list[Case]:
    shows, wide = rgb(GREY), GREY.astype(np.uint16)
    cases = [Case("grey png 8 bit", "PNG", saved(Image.fromarray(GREY), "PNG"), shows)]
    for depth in (1, 2, 4):
        data, shades = packed(depth)
        cases.append(Case(f"grey png {depth} bit", "PNG", data, rgb(shades)))
    deep = {
        "16": wide * 257,
        "12 in 16": np.rint(wide * (4095 / 255)).astype(np.uint16),
        "10 in 16": np.rint(wide * (1023 / 255)).astype(np.uint16),
        "16 with an offset": wide * 100 + 30_000,
    }
    cases += [
        Case(f"grey {kind} {name} bit", kind, saved(Image.fromarray(values), kind), shows)
        for name, values in deep.items()
        for kind in ("PNG", "TIFF")
    ]
    one = Image.fromarray(np.full_like(wide, 700))
    flat = np.zeros_like(shows)
    return [*cases, Case("grey png 16 bit of one value", "PNG", saved(one, "PNG"), flat)]


def _tiff_cases() -> list[Case]:
    """Grey that TIFF alone has."""
    exact, shows = GREY.astype(np.float64), rgb(GREY)
    wide = GREY.astype(np.uint16) * 257
    files = {
        "big-endian": saved(Image.fromarray(wide.astype(">u2")), "TIFF"),
        "lzw": saved(Image.fromarray(wide), "TIFF", compression="tiff_lzw"),
        "signed 16": raw_tiff((exact * 250 - 32_000).astype("<i2"), depth=16, sample=2),
        "32": raw_tiff((exact * 16_843_009).astype("<u4"), depth=32),
        "signed 32": raw_tiff((exact * 1e7 - 1e9).astype("<i4"), depth=32, sample=2),
        "float 0 to 1": raw_tiff((exact / 255).astype("<f4"), depth=32, sample=3),
        "float of temperatures": raw_tiff((exact / 10 - 40).astype("<f4"), depth=32, sample=3),
        "white is zero": raw_tiff((65_535 - wide).astype("<u2"), depth=16, photometric=0),
    }
    cases = [Case(f"grey tiff {name}", "TIFF", data, shows) for name, data in files.items()]
    for name, value in {"nan": np.nan, "infinity": np.inf}.items():
        values = (exact / 255).astype("<f4")
        values[3, 3] = value
        data = raw_tiff(values, depth=32, sample=3)
        cases.append(Case(f"grey tiff with {name}", "TIFF", data, None))
    return cases


def _clear_cases() -> list[Case]:
    """Transparency of each kind."""
    soft = GREY[::-1].copy()
    black = Image.new("L", (WIDTH, HEIGHT), 0)
    ink, grey, alpha = Image.fromarray(INK), Image.fromarray(GREY), Image.fromarray(soft)
    colour = Image.fromarray(COLOUR)
    sketch = Image.merge("LA", (black, ink))
    la = Image.merge("LA", (grey, alpha))
    rgba = colour.copy()
    rgba.putalpha(alpha)
    marks = rgb(255 - INK)
    white = Image.new("L", (WIDTH, HEIGHT), 255)
    chalk = Image.merge("LA", (white, ink))
    pale = Image.merge("LA", (white.point(lambda value: value - 32), ink))
    pencil = Image.merge("LA", (white.point(lambda value: value - 33), ink))
    whitened = rgb(np.where(GREY == 0, 255, GREY).astype(np.uint8))
    cases = [
        Case("grey and alpha png", "PNG", saved(sketch, "PNG"), marks),
        Case("grey and soft alpha png", "PNG", saved(la, "PNG"), over_white(GREY, soft), 1),
        Case("white ink png", "PNG", saved(chalk, "PNG"), rgb(INK)),
        Case("white ink colour png", "PNG", saved(chalk.convert("RGBA"), "PNG"), rgb(INK)),
        Case("white ink tiff", "TIFF", saved(chalk, "TIFF"), rgb(INK)),
        Case("pale ink png", "PNG", saved(pale, "PNG"), rgb(np.minimum(INK, 223))),
        Case("pencil png", "PNG", saved(pencil, "PNG"), rgb(np.where(INK > 0, 222, 255))),
        Case("grey and alpha tiff", "TIFF", saved(sketch, "TIFF"), marks),
        Case("colour and alpha png", "PNG", saved(rgba, "PNG"), over_white(COLOUR, soft), 1),
        Case("colour and alpha tiff", "TIFF", saved(rgba, "TIFF"), over_white(COLOUR, soft), 1),
        Case(
            "colour and alpha webp",
            "WEBP",
            saved(rgba, "WEBP", lossless=True, exact=True),
            over_white(COLOUR, soft),
            1,
        ),
        Case("grey, one clear", "PNG", saved(grey, "PNG", transparency=0), whitened),
    ]
    deep = np.where(INK > 0, 60_000, GREY.astype(np.uint16) * 16)
    lies = np.where(INK > 0, 255, GREY).astype(np.uint8)
    data = saved(Image.fromarray(deep.astype(np.uint16)), "PNG", transparency=60_000)
    seen = GREY[INK == 0].astype(float)
    low, high = seen.min(), seen.max()
    scaled = np.rint((lies - low) * 255 / (high - low)).clip(0, 255).astype(np.uint8)
    cases.append(Case("grey png 16 bit, one clear", "PNG", data, rgb(scaled)))
    return cases


def _palette_cases() -> list[Case]:
    palette = Image.fromarray((INK // 255).astype(np.uint8), "P")
    palette.putpalette([9, 99, 199, 40, 30, 20])
    shown = np.where(INK[:, :, None] > 0, np.array([40, 30, 20]), 255).astype(np.uint8)
    half = np.where(INK[:, :, None] > 0, np.array([40, 30, 20]), np.array([132, 177, 227]))
    return [
        Case("palette, one clear", "PNG", saved(palette, "PNG", transparency=0), shown),
        Case("palette, soft", "PNG", saved(palette, "PNG", transparency=b"\x80\xff"), half, 1),
        Case("palette gif, one clear", "GIF", saved(palette, "GIF", transparency=0), shown),
    ]


def _clear_packed() -> list[Case]:
    """One clear shade in files whose depth Pillow forgets, or halves."""
    cases = []
    for depth in (1, 2, 4):
        data, shades = packed(depth)
        clear = 2**depth - 2 if depth > 1 else 0
        head = data[:33] + chunk(b"tRNS", struct.pack(">H", clear)) + data[33:]
        shade = clear * (255 // (2**depth - 1))
        background = 255 if depth > 1 else 0  # of one bit, what is left is white
        shows = np.where(shades == shade, background, shades).astype(np.uint8)
        cases.append(Case(f"grey png {depth} bit, one clear", "PNG", head, rgb(shows)))
    wide = COLOUR.astype(">u2") * 257
    rows = [row.astype(">u2").tobytes() for row in wide]
    clear_16 = wide[2, 3].astype(">u2").tobytes()
    cases.append(Case("colour png 16 bit", "PNG", raw_png(rows, depth=16, colour=2), COLOUR))
    shows = np.where((COLOUR[2, 3] == COLOUR).all(axis=2)[:, :, None], 255, COLOUR)
    data = raw_png(rows, depth=16, colour=2, clear=clear_16)
    return [*cases, Case("colour png 16 bit, one clear", "PNG", data, shows.astype(np.uint8))]


def _colour_cases() -> list[Case]:
    colour, smooth = Image.fromarray(COLOUR), large()
    grey, wanted = smooth.getchannel("R"), np.asarray(smooth)
    lossless = {
        "PNG": {},
        "BMP": {},
        "TIFF": {"compression": "tiff_deflate"},
        "WEBP": {"lossless": True},
        "PPM": {},
        "JPEG2000": {"irreversible": False},
    }
    cases = [
        Case(f"colour {kind}", kind, saved(colour, kind, **options), COLOUR)
        for kind, options in lossless.items()
    ]
    cases += [
        Case("jpeg", "JPEG", saved(smooth, "JPEG", quality=95), wanted, 16),
        Case("jpeg grey", "JPEG", saved(grey, "JPEG", quality=95), rgb(np.asarray(grey)), 6),
        Case("jpeg cmyk", "JPEG", saved(smooth.convert("CMYK"), "JPEG", quality=95), wanted, 16),
        Case("jpeg ycck", "JPEG", ycck(smooth), wanted, 16),
        Case("webp", "WEBP", saved(smooth, "WEBP", quality=95), wanted, 24),
        Case("tiff cmyk", "TIFF", saved(colour.convert("CMYK"), "TIFF"), COLOUR),
        Case("tiff ycbcr", "TIFF", saved(colour.convert("YCbCr"), "TIFF"), COLOUR, 4),
        Case("tiff lab", "TIFF", lab(smooth), wanted, 28),
        Case("grey gif", "GIF", saved(Image.fromarray(GREY), "GIF"), rgb(GREY)),
        Case("grey bmp", "BMP", saved(Image.fromarray(GREY), "BMP"), rgb(GREY)),
        Case("bits bmp", "BMP", saved(Image.fromarray(INK).convert("1"), "BMP"), rgb(INK)),
        Case("bits tiff", "TIFF", saved(Image.fromarray(INK).convert("1"), "TIFF"), rgb(INK)),
        Case("palette png", "PNG", saved(Image.fromarray(GREY).convert("P"), "PNG"), rgb(GREY)),
    ]
    if features.check("avif"):
        data = saved(smooth, "AVIF", quality=95, subsampling="4:4:4")
        cases.append(Case("avif", "AVIF", data, wanted, 16))
    return cases


STORED = {
    1: None,
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}
"""By EXIF's orientation: how a camera stores an upright picture."""


def _turned_cases() -> list[Case]:
    smooth, cases = large(), []
    wanted = np.asarray(smooth)
    options = {"JPEG": {"quality": 95}, "PNG": {}, "WEBP": {"lossless": True}, "TIFF": {}}
    for number, turn in STORED.items():
        stored = smooth if turn is None else smooth.transpose(turn)
        exif = Image.Exif()
        exif[0x112] = number
        for kind, more in options.items():
            data = saved(stored, kind, exif=exif, **more)
            tolerance = 16 if kind == "JPEG" else 0
            cases.append(Case(f"orientation {number} {kind}", kind, data, wanted, tolerance))
    return cases


def _several_cases() -> list[Case]:
    """Several frames or pages, of which the first counts, and files that are cut."""
    first, other = Image.fromarray(GREY), Image.fromarray(INK)
    both: dict[str, Any] = {"save_all": True, "append_images": [other]}
    cases = [
        Case("animated gif", "GIF", saved(first, "GIF", **both), rgb(GREY)),
        Case("animated png", "PNG", saved(first, "PNG", **both), rgb(GREY)),
        Case("pages tiff", "TIFF", saved(first, "TIFF", **both), rgb(GREY)),
        Case(
            "animated webp",
            "WEBP",
            saved(first.convert("RGB"), "WEBP", lossless=True, **both),
            rgb(GREY),
        ),
    ]
    noise = Image.effect_noise((64, 64), 90)
    for kind in ("PNG", "JPEG", "WEBP", "BMP", "TIFF", "GIF"):
        data = saved(noise if kind != "WEBP" else noise.convert("RGB"), kind)
        cases.append(Case(f"truncated {kind}", kind, data[: len(data) * 2 // 3], None))
    return cases


CASES = [
    *_grey_cases(),
    *_tiff_cases(),
    *_clear_cases(),
    *_clear_packed(),
    *_palette_cases(),
    *_colour_cases(),
    *_turned_cases(),
    *_several_cases(),
]
