"""Augmented views of the shots: random crops at the size the model sees, half of them mirrored.

The transform is torchvision's `RandomResizedCrop(size, scale, ratio, BICUBIC)` and
`RandomHorizontalFlip`, as CraFT's training uses them, on PIL and numpy. A view depends on (seed,
view, index of the image) alone: a resumed run uploads the same bytes and so buys nothing again.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageOps

from craft_tuner.data.pictures import Picture, decode, encode_png

RATIO = (3 / 4, 4 / 3)
"""Width over height of a crop, drawn uniformly in its logarithm."""

_TRIES = 10

Box = tuple[int, int, int, int]
"""Left, top, width, height in pixels."""


@dataclass(frozen=True)
class Augmentation:
    """How views differ from their picture.

    `size` is the side of the model's input in pixels, `scale` the least and the largest share of
    the picture's area that a crop keeps, `flip` whether half of the views are mirrored.
    """

    size: int
    seed: int
    scale: tuple[float, float] = (0.5, 1.0)
    flip: bool = True


@dataclass(frozen=True)
class View:
    """One augmented picture, made when it is read."""

    picture: Picture
    augmentation: Augmentation
    view: int
    index: int

    @property
    def name(self) -> str:
        """The picture's name and the number of the view."""
        return f"{self.picture.name}#view{self.view}"

    def read(self) -> bytes:
        """The bytes of the view's PNG file.

        Raises:
            DataError: the picture cannot be read or decoded.
        """
        return encode_png(self.image())

    def image(self) -> Image.Image:
        """The view's pixels.

        Raises:
            DataError: the picture cannot be read or decoded.
        """
        rng = np.random.default_rng((self.augmentation.seed, self.view, self.index))
        return augment(decode(self.picture), self.augmentation, rng=rng)


def views_of(pictures: Sequence[Picture], augmentation: Augmentation, *, view: int) -> list[View]:
    """The `view`-th view of every picture, in the same order."""
    return [View(picture, augmentation, view, index) for index, picture in enumerate(pictures)]


def augment(
    image: Image.Image, augmentation: Augmentation, *, rng: np.random.Generator
) -> Image.Image:
    """One random crop of the image, `size` x `size` pixels, mirrored with probability 1/2."""
    left, top, width, height = crop_box(
        image.width, image.height, scale=augmentation.scale, rng=rng
    )
    side = augmentation.size
    crop = image.crop((left, top, left + width, top + height))
    crop = crop.resize((side, side), Image.Resampling.BICUBIC)
    mirrored = rng.random() < 0.5
    return ImageOps.mirror(crop) if augmentation.flip and mirrored else crop


def crop_box(
    width: int, height: int, *, scale: tuple[float, float], rng: np.random.Generator
) -> Box:
    """A random crop of a `width` x `height` image: `RandomResizedCrop.get_params` of torchvision.

    Ten tries at a share of the area and a ratio; then the largest central crop whose ratio is
    allowed.
    """
    for _ in range(_TRIES):
        area = width * height * rng.uniform(*scale)
        ratio = math.exp(rng.uniform(math.log(RATIO[0]), math.log(RATIO[1])))
        wide, high = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < wide <= width and 0 < high <= height:
            top = int(rng.integers(0, height - high + 1))
            left = int(rng.integers(0, width - wide + 1))
            return left, top, wide, high
    return _central(width, height)


def _central(width: int, height: int) -> Box:
    wide, high = width, height
    if width / height < RATIO[0]:
        high = round(width / RATIO[0])
    elif width / height > RATIO[1]:
        wide = round(height * RATIO[1])
    return (width - wide) // 2, (height - high) // 2, wide, high
