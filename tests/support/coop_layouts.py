"""Miniature copies of the paper's 15 datasets, laid out as CoOp's DATASETS.md says.

Folder and file names are written out here once more, so that a slip in the tuner's table is seen.
Every image has its own colour; classes are listed out of order, as in some of the real split files.
"""

import json
from collections.abc import Callable, Sequence
from itertools import count
from pathlib import Path

from PIL import Image

from craft_tuner.data.pictures import encode_png

LABELS = (2, 0, 1)
"""Order of the classes in split files."""
NAMES = ("grey_wolf", "ox", "sea_lion")
WNIDS = ("n01440764", "n01443537", "n01484850", "n01491361")
IMAGENET_NAMES = ("tench", "missile", "great white shark", "missile")
SIZES = {"train": 4, "val": 1, "test": 2}

_SPLIT_FILES = {
    "caltech101": ("caltech-101/101_ObjectCategories", "caltech-101/split_zhou_Caltech101.json"),
    "oxford_pets": ("oxford_pets/images", "oxford_pets/split_zhou_OxfordPets.json"),
    "stanford_cars": ("stanford_cars", "stanford_cars/split_zhou_StanfordCars.json"),
    "oxford_flowers": ("oxford_flowers/jpg", "oxford_flowers/split_zhou_OxfordFlowers.json"),
    "food101": ("food-101/images", "food-101/split_zhou_Food101.json"),
    "sun397": ("sun397/SUN397", "sun397/split_zhou_SUN397.json"),
    "dtd": ("dtd/images", "dtd/split_zhou_DescribableTextures.json"),
    "eurosat": ("eurosat/2750", "eurosat/split_zhou_EuroSAT.json"),
    "ucf101": ("ucf101/UCF-101-midframes", "ucf101/split_zhou_UCF101.json"),
}

_shades = count(1)


def paint(path: Path, *, shade: int | None = None) -> Path:
    """A small image at `path`, unlike every other unless `shade` says which."""
    value = next(_shades) if shade is None else shade
    path.parent.mkdir(parents=True, exist_ok=True)
    colour = (value % 256, value // 256 % 256, value // 65536 % 256)
    image = Image.new("RGB", (8, 6), colour)
    image.putpixel((0, 0), (255, 255, 255))
    path.write_bytes(encode_png(image))
    return path


def build(root: Path, name: str) -> Path:
    """Make the miniature of one dataset below `root`; returns `root`."""
    _BUILDERS.get(name, _split_builder(name))(root)
    return root


def split_rows(sizes: dict[str, int]) -> dict[str, list[tuple[str, int, str]]]:
    """Rows of a split file: splits of (path, label, class name)."""
    return {
        split: [
            (f"{NAMES[label]}/{split}_{size - index}.jpg", label, NAMES[label])
            for label in LABELS
            for index in range(size)
        ]
        for split, size in sizes.items()
    }


def write_split(root: Path, name: str, rows: dict[str, list[tuple[str, int, str]]]) -> Path:
    """Write a split file and its images; returns the folder of images."""
    folder, file = (root / part for part in _SPLIT_FILES[name])
    for path, _, _ in (row for split in rows.values() for row in split):
        paint(folder / path)
    file.write_text(json.dumps(rows))
    return folder


def _split_builder(name: str) -> Callable[[Path], None]:
    def write(root: Path) -> None:
        write_split(root, name, split_rows(SIZES))

    return write


def _aircraft(root: Path) -> None:
    base = root / "fgvc_aircraft"
    variants = ("A340 200", "707-320", "Tu-134")
    base.mkdir(parents=True)
    (base / "variants.txt").write_text("\n".join(variants) + "\n")
    for split, size in SIZES.items():
        stems = [(f"{split}{label}{index}", label) for label in LABELS for index in range(size)]
        lines = [f"{stem} {variants[label]}\n" for stem, label in stems]
        (base / f"images_variant_{split}.txt").write_text("".join(lines))
        for stem, _ in stems:
            paint(base / "images" / f"{stem}.jpg")


def _class_names(base: Path) -> None:
    base.mkdir(parents=True, exist_ok=True)
    lines = [f"{wnid} {name}\n" for wnid, name in zip(WNIDS, IMAGENET_NAMES, strict=True)]
    (base / "classnames.txt").write_text("".join(lines))


def _imagenet(root: Path) -> None:
    _class_names(root / "imagenet")
    for split, size in (("train", 4), ("val", 2)):
        _folders(root / "imagenet" / "images" / split, WNIDS, size=size)


def _v2(root: Path) -> None:
    _class_names(root / "imagenetv2")
    numbers = [str(number) for number in range(len(WNIDS))]
    _folders(root / "imagenetv2" / "imagenetv2-matched-frequency-format-val", numbers, size=2)


def _sketch(root: Path) -> None:
    _class_names(root / "imagenet-sketch")
    _folders(root / "imagenet-sketch" / "images", WNIDS, size=2)


def _subset(folder: str, images: str, wnids: Sequence[str]) -> Callable[[Path], None]:
    def write(root: Path) -> None:
        _class_names(root / folder)
        _folders(root / folder / images, wnids, size=2)
        (root / folder / images / "README.txt").write_text("read me")

    return write


def _folders(base: Path, names: Sequence[str], *, size: int) -> None:
    for name in names:
        for index in range(size):
            paint(base / name / f"{name}_{index}.JPEG")


_BUILDERS: dict[str, Callable[[Path], None]] = {
    "fgvc_aircraft": _aircraft,
    "imagenet": _imagenet,
    "imagenetv2": _v2,
    "imagenet_sketch": _sketch,
    "imagenet_a": _subset("imagenet-adversarial", "imagenet-a", WNIDS[1:3]),
    "imagenet_r": _subset("imagenet-rendition", "imagenet-r", WNIDS[2:]),
}
