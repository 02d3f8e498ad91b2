"""Pictures of printed glyphs: random geometry, stroke, colour, sharpness, a batch at a time.

Owns the augmentation of the embedded CLIP's training. Knows nothing of captions' words or the
model. It is print throughout: outlines of fonts, mildly bent, never pen strokes or coarse scans, so
that handwriting is a real shift for the model.
"""

import math
from dataclasses import dataclass

import torch
from torch.nn import functional

from scripts.captions import Trait
from scripts.glyphs import CANVAS, CHARACTERS, DIGITS, GREEK, LETTERS, GlyphBank

IMAGE_SIZE = 32
OPENAI_MEAN = (0.48145466, 0.4578275, 0.40821073)
OPENAI_STD = (0.26862954, 0.26130258, 0.27577711)
HUES = (
    (Trait.RED, (0.95, 0.12, 0.10)),
    (Trait.GREEN, (0.10, 0.75, 0.20)),
    (Trait.BLUE, (0.15, 0.25, 0.95)),
    (Trait.YELLOW, (0.95, 0.90, 0.10)),
)
KIND_SHARES = ((DIGITS, 0.5), (LETTERS, 0.34), (GREEK, 0.11), (None, 0.05))


@dataclass(frozen=True, slots=True)
class Pictures:
    """(B, 3, 32, 32) float32 in [0, 1], (B,) int64 into CHARACTERS, (B,) int64 of Trait bits."""

    pixels: torch.Tensor
    character: torch.Tensor
    traits: torch.Tensor


def normalise(pixels: torch.Tensor) -> torch.Tensor:
    """(B, 3, H, W) in [0, 1] to what CLIP's image tower takes (OpenAI mean and deviation)."""
    mean = torch.tensor(OPENAI_MEAN).view(1, 3, 1, 1)
    std = torch.tensor(OPENAI_STD).view(1, 3, 1, 1)
    return (pixels - mean) / std


def glyph_weights(bank: GlyphBank) -> torch.Tensor:
    """(G,) sampling weights: KIND_SHARES by kind, equal characters, 3 plain to 1 mathematical."""
    weights = torch.where(bank.plain, 1.0, 0.0)
    for index, char in enumerate(CHARACTERS):
        mine = bank.character == index
        group = next((kind for kind, _ in KIND_SHARES if kind and char in kind), None)
        size = len(group) if group else len(CHARACTERS) - len(DIGITS + LETTERS + GREEK)
        styled, plain = mine & ~bank.plain, mine & bank.plain
        mass = dict(KIND_SHARES)[group] / size
        has_styled = bool(styled.any())
        weights[plain] = mass * (0.75 if has_styled else 1.0) / max(1, int(plain.sum()))
        weights[styled] = mass * 0.25 / max(1, int(styled.sum()))
    return weights


class Painter:
    """Draws batches of pictures from a bank with one random generator."""

    def __init__(self, bank: GlyphBank, *, seed: int) -> None:
        self._bank = bank
        self._weights = glyph_weights(bank)
        self._rng = torch.Generator().manual_seed(seed)

    def draw(self, batch: int) -> Pictures:
        """`batch` random pictures, glyphs sampled by `glyph_weights`."""
        chosen = torch.multinomial(self._weights, batch, replacement=True, generator=self._rng)
        character = self._bank.character[chosen]
        field, half_stroke = self._bank.outline[chosen][:, None], self._bank.half_stroke[chosen]
        grid, traits = self._geometry(batch)
        warped = functional.grid_sample(field, grid, padding_mode="border", align_corners=False)
        ink, more = self._stroke(warped, half_stroke)
        traits |= more | _case_traits(character)
        ink, more = self._resolution(ink)
        traits |= more
        pixels, more = self._colour(ink)
        return Pictures(pixels, character, traits | more)

    def _uniform(self, batch: int, low: float, high: float) -> torch.Tensor:
        """(B,) float32 in [low, high)."""
        return low + (high - low) * torch.rand(batch, generator=self._rng)

    def _normal(self, *shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=self._rng)

    def _geometry(self, batch: int) -> tuple[torch.Tensor, torch.Tensor]:
        """(B, 64, 64, 2) sampling grid in [-1, 1] (x, y) and (B,) traits: affine, then elastic."""
        angle = self._normal(batch) * math.radians(6)
        shear = self._normal(batch) * 0.12
        size = self._uniform(batch, 0.6, 1.4)
        aspect = torch.exp(self._normal(batch) * 0.2)
        cos, sin = torch.cos(angle), torch.sin(angle)
        unscaled = torch.stack([torch.stack([cos, sin + shear], 1), torch.stack([-sin, cos], 1)], 1)
        scale = torch.stack([aspect.sqrt() * size, size / aspect.sqrt()], 1)
        linear = unscaled / scale[:, :, None]
        room = (1.0 - 0.7 * size).clamp(min=0.05)
        shift = (torch.rand(batch, 2, generator=self._rng) * 2 - 1) * room[:, None]
        theta = torch.cat([linear, -(linear @ shift[:, :, None])], 2)
        grid = functional.affine_grid(theta, [batch, 1, CANVAS, CANVAS], align_corners=False)
        rough = self._normal(batch, 2, 5, 5) * self._uniform(batch, 0.0, 0.06).view(-1, 1, 1, 1)
        bend = functional.interpolate(rough, (CANVAS, CANVAS), mode="bicubic", align_corners=True)
        traits = (
            _bits(Trait.SMALL, size < 0.75)
            | _bits(Trait.LARGE, size > 1.15)
            | _bits(Trait.NARROW, aspect < 0.8)
            | _bits(Trait.WIDE, aspect > 1.25)
            | _bits(Trait.TILTED, angle.abs() > math.radians(12))
            | _bits(Trait.SLANTED, shear > 0.25)
        )
        return grid + bend.permute(0, 2, 3, 1), traits

    def _stroke(
        self, field: torch.Tensor, half_stroke: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """(B, 1, 64, 64) ink in [0, 1]: a level set of the field, thinner or bolder than print."""
        batch = len(field)
        width = half_stroke * self._uniform(batch, -0.3, 0.4) + self._uniform(batch, 0, 0.6)
        softness = self._uniform(batch, 0.3, 1.2)
        ink = torch.sigmoid((field + width.view(-1, 1, 1, 1)) / softness.view(-1, 1, 1, 1))
        half = half_stroke + width
        return ink, _bits(Trait.THIN, half < 2.2) | _bits(Trait.BOLD, half > 4.6)

    def _resolution(self, ink: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(B, 1, 32, 32) ink, sharp, blurred or pixelated, and (B,) traits."""
        batch = len(ink)
        sharp = functional.avg_pool2d(ink, CANVAS // IMAGE_SIZE)
        kind = self._uniform(batch, 0, 1)
        blurred, pixelated = kind < 0.18, kind >= 0.8
        out = torch.where(blurred.view(-1, 1, 1, 1), _blur(sharp), sharp)
        out[pixelated] = _pixelated(ink[pixelated])
        return out, _bits(Trait.BLURRY, blurred) | _bits(Trait.PIXELATED, pixelated)

    def _colour(self, ink: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(B, 3, 32, 32) pixels in [0, 1] and (B,) traits: two colours, a slope of light, noise."""
        batch = len(ink)
        light = self._uniform(batch, 0, 1) < 0.55
        contrast = self._uniform(batch, 0.35, 1.0).pow(0.6)
        low = self._uniform(batch, 0, 1).pow(1.5) * (1 - contrast)
        fore = torch.where(light, low + contrast, low)[:, None].repeat(1, 3)
        back = torch.where(light, low, low + contrast)[:, None].repeat(1, 3)
        hue = (self._uniform(batch, 0, 1) * 16).long()
        traits = _bits(Trait.LIGHT, light) | _bits(Trait.DARK, ~light)
        traits |= _bits(Trait.FAINT, contrast < 0.65)
        for index, (trait, colour) in enumerate(HUES):
            mine = hue == index
            fore[mine] = torch.tensor(colour)
            back[mine] = torch.where(light[mine], 0.06, 0.94)[:, None].repeat(1, 3)
            traits[mine] &= ~int(Trait.LIGHT | Trait.DARK | Trait.FAINT)
            traits |= _bits(trait, mine)
        level = self._uniform(batch, 0, 1)
        noise = ((level - 0.6) * 0.3).clamp(min=0)
        mixed = back[:, :, None, None] + (fore - back)[:, :, None, None] * ink
        slope = functional.interpolate(
            self._normal(batch, 1, 2, 2) * 0.04, (IMAGE_SIZE, IMAGE_SIZE), mode="bilinear"
        )
        grain = self._normal(batch, 1, IMAGE_SIZE, IMAGE_SIZE) * noise.view(-1, 1, 1, 1)
        return (mixed + slope + grain).clamp(0, 1), traits | _bits(Trait.NOISY, noise > 0.06)


def _bits(trait: Trait, where: torch.Tensor) -> torch.Tensor:
    """(B,) int64: the trait's bit where the (B,) condition holds."""
    return where.long() * int(trait)


def _case_traits(character: torch.Tensor) -> torch.Tensor:
    """(B,) int64: CAPITAL or LOWERCASE for letters of the Latin alphabet."""
    table = [
        int(Trait.CAPITAL if char.isupper() else Trait.LOWERCASE) if char in LETTERS else 0
        for char in CHARACTERS
    ]
    return torch.tensor(table)[character]


def _blur(ink: torch.Tensor) -> torch.Tensor:
    """(B, 1, H, W) after a 5 x 5 binomial filter."""
    row = torch.tensor([1.0, 4.0, 6.0, 4.0, 1.0]) / 16
    return functional.conv2d(ink, (row[:, None] * row)[None, None], padding=2)


def _pixelated(ink: torch.Tensor) -> torch.Tensor:
    """(B, 1, 32, 32): averages over 16 x 16 cells, enlarged again."""
    levels = functional.adaptive_avg_pool2d(ink, IMAGE_SIZE // 2)
    big = functional.interpolate(levels, (IMAGE_SIZE, IMAGE_SIZE), mode="bicubic", antialias=True)
    return big.clamp(0, 1)
