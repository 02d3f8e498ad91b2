"""The same classes from two sources: class folders whose shots and test images do not agree.

Owns what the sources are and how their folders are written; knows no server and no method. Digits
are drawn by hand (scikit-learn's) or printed (scripts/pictures.py, in fonts that the embedded model
was not trained on). Photographs of scenes are as they are, or spoilt in one of seven ways; they
come from outside this project (--data) and are left out where that is absent. Five ways more are
`FRESH`: they were tried once, after the rules of craft_tuner.heads had been chosen on
the others, and are no longer so once a rule is changed for them.
"""

import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image, ImageEnhance, ImageFilter, ImageOps

from craft_tuner.data.digits import CLASS_NAMES, load_digits
from craft_tuner.data.pictures import decode
from scripts.glyphs import CHARACTERS, DIGITS, HELD_OUT_FONTS, load_bank
from scripts.pictures import Painter

Pictures = Mapping[str, Sequence[Image.Image]]
"""By class name."""

PRINTED_TRAIN, PRINTED_TEST = 36, 100
"""Printed digits of each class."""

BLUR = 0.05
"""Radius in image sides."""

BRIGHTNESS = 0.35
"""Share of a photograph's that a dark one has."""

NOISE = 50.0
"""Standard deviation of the noise of a pixel, of 255."""

CONTRAST, QUALITY = 0.25, 5
"""Share of a photograph's contrast that a pale one has; JPEG's quality of a compressed one."""

CROP = 0.35
"""Side of the part that is kept, in image sides, from the centre."""


class Source(NamedTuple):
    """Where pictures come from, already split."""

    train: Pictures
    test: Pictures


class Shift(NamedTuple):
    """Shots from one source, test images from another."""

    name: str
    train: Pictures
    test: Pictures

    def write(self, folder: Path) -> None:
        """Write train/CLASS/*.png and test/CLASS/*.png."""
        for split, pictures in (("train", self.train), ("test", self.test)):
            for label, images in pictures.items():
                place = folder / split / label
                place.mkdir(parents=True)
                for number, image in enumerate(images):
                    image.save(place / f"{number:04d}.png")


def digit_shifts() -> Iterator[Shift]:
    """Print to handwriting and back."""
    hand, printed = _handwritten(), _printed()
    yield Shift("digits: printed -> handwritten", printed.train, hand.test)
    yield Shift("digits: handwritten -> printed", hand.train, printed.test)


def scene_shifts(data: Path, *, fresh: bool = False) -> Iterator[Shift]:
    """Every degradation, of those kept for last or of the others, to clean photographs and back.

    Raises:
        FileNotFoundError: there are no photographs.
    """
    clean = _photographs(data / "images" / "scenes6")
    for name, spoil in (FRESH if fresh else DEGRADATIONS).items():
        spoilt = Source(*(_each(pictures, spoil) for pictures in clean))
        yield Shift(f"scenes: {name} -> clean", spoilt.train, clean.test)
        yield Shift(f"scenes: clean -> {name}", clean.train, spoilt.test)


def _handwritten() -> Source:
    digits = load_digits()
    splits = []
    for items in (digits.train, digits.test):
        found: dict[str, list[Image.Image]] = {name: [] for name in CLASS_NAMES}
        for item in items:
            found[CLASS_NAMES[item.label]].append(decode(item.picture))
        splits.append(found)
    return Source(*splits)


def _printed() -> Source:
    painter = Painter(load_bank(HELD_OUT_FONTS), seed=1)
    found: dict[str, list[Image.Image]] = {name: [] for name in CLASS_NAMES}
    wanted = PRINTED_TRAIN + PRINTED_TEST
    while min(map(len, found.values())) < wanted:
        drawn = painter.draw(512)
        pixels = (255 * drawn.pixels.permute(0, 2, 3, 1)).round().to(torch.uint8).numpy()
        for image, character in zip(pixels, drawn.character.tolist(), strict=True):
            if (char := CHARACTERS[character]) in DIGITS:
                found[CLASS_NAMES[int(char)]].append(Image.fromarray(image))
    return Source(
        {name: images[:PRINTED_TRAIN] for name, images in found.items()},
        {name: images[PRINTED_TRAIN:wanted] for name, images in found.items()},
    )


def _photographs(folder: Path) -> Source:
    return Source(*(_folders(folder / split) for split in ("train", "test")))


def _folders(folder: Path) -> Pictures:
    return {
        place.name: [Image.open(file).convert("RGB") for file in sorted(place.iterdir())]
        for place in sorted(folder.iterdir())
    }


def _each(pictures: Pictures, change: Callable[[Image.Image], Image.Image]) -> Pictures:
    return {name: [change(image) for image in images] for name, images in pictures.items()}


def _grey(image: Image.Image) -> Image.Image:
    return image.convert("L").convert("RGB")


def _blurred(image: Image.Image) -> Image.Image:
    return image.filter(ImageFilter.GaussianBlur(BLUR * image.width))


def _part(image: Image.Image) -> Image.Image:
    size = np.asarray(image.size)
    low, high = ((size * (1 + sign * CROP) / 2).round().astype(int).tolist() for sign in (-1, 1))
    return image.crop((*low, *high)).resize(image.size, Image.Resampling.BICUBIC)


def _dark(image: Image.Image) -> Image.Image:
    return ImageEnhance.Brightness(image).enhance(BRIGHTNESS)


def _noisy(image: Image.Image) -> Image.Image:
    pixels = np.asarray(image)
    draw = np.random.default_rng(pixels.ravel())
    noisy = pixels + draw.normal(0, NOISE, pixels.shape)
    return Image.fromarray(noisy.clip(0, 255).astype(np.uint8))


def _turned(image: Image.Image) -> Image.Image:
    return image.transpose(Image.Transpose.ROTATE_90)


DEGRADATIONS: Mapping[str, Callable[[Image.Image], Image.Image]] = {
    "grey": _grey,
    "blurred": _blurred,
    "small part": _part,
    "dark": _dark,
    "noisy": _noisy,
    "turned": _turned,
    "negative": ImageOps.invert,
}


def _posterised(image: Image.Image) -> Image.Image:
    return ImageOps.posterize(image, 1)


def _pale(image: Image.Image) -> Image.Image:
    return ImageEnhance.Contrast(image).enhance(CONTRAST)


def _compressed(image: Image.Image) -> Image.Image:
    file = io.BytesIO()
    image.save(file, "JPEG", quality=QUALITY)
    return Image.open(file).convert("RGB")


def _upside_down(image: Image.Image) -> Image.Image:
    return image.transpose(Image.Transpose.ROTATE_180)


def _swapped(image: Image.Image) -> Image.Image:
    return Image.merge("RGB", image.split()[::-1])


FRESH: Mapping[str, Callable[[Image.Image], Image.Image]] = {
    "posterised": _posterised,
    "pale": _pale,
    "compressed": _compressed,
    "upside down": _upside_down,
    "red and blue swapped": _swapped,
}
