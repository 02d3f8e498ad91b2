"""The demo's data: the 1,797 handwritten digits that scikit-learn ships, 8 x 8 in 17 grey levels.

Source: E. Alpaydin, C. Kaynak, Optical Recognition of Handwritten Digits, UCI, 1998. Rendered as a
scanner of low resolution would: grey levels to bytes, enlarged to 32 x 32 by bicubic interpolation.
"""

import random

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from craft_tuner.data.dataset import Dataset, Item
from craft_tuner.data.pictures import BytesPicture, encode_png

CLASS_NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
TRAIN_PER_CLASS = 36
"""Images of each class that shots may be drawn from: 360; the other 1,437 are the test images."""

_SIDE = 32
_SPLIT_SEED = 0
"""The split is part of the dataset: no run may change it."""


def load_digits() -> Dataset:
    """The digits with their fixed split: 36 training images per class, 1,437 test images."""
    from sklearn import datasets  # noqa: PLC0415 - slow to import, needed for the digits alone

    bunch = datasets.load_digits()
    pool = _training_pool(bunch.target)
    items = [
        Item(BytesPicture(render(levels), f"digits/{index:04d}.png"), int(label))
        for index, (levels, label) in enumerate(zip(bunch.images, bunch.target, strict=True))
    ]
    return Dataset(
        class_names=CLASS_NAMES,
        train=tuple(item for index, item in enumerate(items) if index in pool),
        test=tuple(item for index, item in enumerate(items) if index not in pool),
    )


def render(levels: NDArray[np.float64]) -> bytes:
    """An (8, 8) array of grey levels 0..16 as the bytes of a 32 x 32 RGB PNG."""
    grey = np.rint(levels * (255 / 16)).astype(np.uint8)
    image = Image.fromarray(grey).resize((_SIDE, _SIDE), Image.Resampling.BICUBIC)
    return encode_png(image.convert("RGB"))


def _training_pool(target: NDArray[np.int64]) -> set[int]:
    rng = random.Random(_SPLIT_SEED)
    pool: set[int] = set()
    for label in range(len(CLASS_NAMES)):
        mine = np.flatnonzero(target == label).tolist()
        pool.update(rng.sample(mine, TRAIN_PER_CLASS))
    return pool
