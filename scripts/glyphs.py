"""Printed glyphs as signed distance fields, one per (character, font variant).

Owns which fonts and characters the embedded CLIP learns from. Knows nothing of captions,
augmentation or training, and never sees a handwritten digit.
"""

import unicodedata
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import matplotlib as mpl
import numpy as np
import numpy.typing as npt
import torch
from matplotlib.ft2font import FT2Font
from PIL import Image, ImageDraw, ImageFont
from scipy.ndimage import distance_transform_edt

CANVAS = 64
GLYPH_BOX = 46
TRAINING_FONTS = (
    *("DejaVuSans", "DejaVuSans-Bold", "DejaVuSans-Oblique", "DejaVuSans-BoldOblique"),
    *("DejaVuSansMono", "DejaVuSansMono-Bold", "DejaVuSansMono-Oblique"),
    *("DejaVuSansMono-BoldOblique", "DejaVuSerif", "DejaVuSerif-Bold"),
    *("DejaVuSerif-BoldItalic", "STIXGeneral", "STIXGeneralItalic", "STIXGeneralBolIta"),
    *("cmb10", "cmr10", "cmss10", "cmti10"),
)
HELD_OUT_FONTS = ("DejaVuSerif-Italic", "STIXGeneralBol", "cmtt10")

DIGITS = "0123456789"
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
GREEK = "αβγδεζηθικλμνξοπρστυφχψω"
SYMBOLS = "+=?!&%#@"
CHARACTERS = DIGITS + LETTERS + GREEK + SYMBOLS
UNREADABLE_STYLES = ("FRAKTUR", "BLACK-LETTER")

BoolArray = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class GlyphBank:
    """Distance fields in pixels of a 64 x 64 canvas, positive inside the ink.

    `outline` is (G, 64, 64) float32: the printed shape. `character` is (G,) int64 into CHARACTERS,
    `half_stroke` (G,) float32 the half width of the strokes, `plain` (G,) bool false for
    mathematical alphabets.
    """

    outline: torch.Tensor
    character: torch.Tensor
    half_stroke: torch.Tensor
    plain: torch.Tensor


def load_bank(fonts: Iterable[str]) -> GlyphBank:
    """The glyphs of matplotlib's fonts of these names."""
    found = [glyph for name in fonts for glyph in _font_glyphs(name)]
    outline = np.stack([_signed_distance(ink) for _, ink, _ in found])
    half_stroke = [float(np.quantile(field[field > 0], 0.9)) for field in outline]
    return GlyphBank(
        outline=torch.from_numpy(outline).float(),
        character=torch.tensor([CHARACTERS.index(char) for char, _, _ in found]),
        half_stroke=torch.tensor(half_stroke),
        plain=torch.tensor([plain for _, _, plain in found]),
    )


def _font_glyphs(name: str) -> Iterator[tuple[str, BoolArray, bool]]:
    """Yield (character, (64, 64) ink, whether it is the plain code point) for what a font holds."""
    path = Path(mpl.get_data_path()) / "fonts" / "ttf" / f"{name}.ttf"
    font = ImageFont.truetype(path, 160)
    for code in sorted(FT2Font(str(path)).get_charmap()):
        char = _meaning(chr(code))
        if char is not None:
            yield char, _ink(font, chr(code)), chr(code) == char


def _meaning(glyph: str) -> str | None:
    """The character of CHARACTERS that a code point shows, or None (rings and superscripts)."""
    tag = unicodedata.decomposition(glyph).split(" ")[0]
    style = unicodedata.name(glyph, "")
    if tag not in ("", "<font>") or any(word in style for word in UNREADABLE_STYLES):
        return None
    char = unicodedata.normalize("NFKC", glyph)
    return char if len(char) == 1 and char in CHARACTERS else None


def _ink(font: ImageFont.FreeTypeFont, glyph: str) -> BoolArray:
    """(64, 64) bool: the glyph cut to its box, its longer side scaled to GLYPH_BOX, centred."""
    page = Image.new("L", (480, 480))
    ImageDraw.Draw(page).text((160, 120), glyph, fill=255, font=font)
    cut = page.crop(page.getbbox())
    ratio = GLYPH_BOX / max(cut.size)
    width, height = (max(1, round(side * ratio)) for side in cut.size)
    canvas = Image.new("L", (CANVAS, CANVAS))
    small = cut.resize((width, height), Image.Resampling.LANCZOS)
    canvas.paste(small, ((CANVAS - width) // 2, (CANVAS - height) // 2))
    return np.asarray(canvas) > 127


def _signed_distance(ink: BoolArray) -> npt.NDArray[np.float64]:
    """(64, 64): distance to the edge of the ink, positive inside."""
    inside: npt.NDArray[np.float64] = distance_transform_edt(ink)
    outside: npt.NDArray[np.float64] = distance_transform_edt(~ink)
    return np.where(ink, inside - 0.5, 0.5 - outside)
