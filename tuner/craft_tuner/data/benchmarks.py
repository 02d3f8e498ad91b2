"""The paper's 15 datasets as facts: what their folders and files are called where CoOp has them.

`ROOT/folder/` holds the images and the file that says which image is of which class and split
(github.com/KaiyangZhou/CoOp, DATASETS.md). Class names are in those files, so none is here.
Templates are those of CLIP's authors.
"""

from dataclasses import dataclass
from typing import Literal

Form = Literal["split", "variants", "train-val", "numbered", "class-folders"]
"""How classes and splits are laid out: see `layouts.py`."""

PHOTO = "a photo of a {}."


@dataclass(frozen=True)
class Benchmark:
    """One dataset: `index` is the file in `folder` that names classes (and, maybe, splits).

    `closed`: it has some of ImageNet's classes and is scored among these alone.
    """

    title: str
    folder: str
    images: str
    index: str
    form: Form = "split"
    template: str = PHOTO
    closed: bool = False


def _shifted(title: str, folder: str, images: str, form: Form, *, closed: bool) -> Benchmark:
    return Benchmark(title, folder, images, "classnames.txt", form, closed=closed)


BENCHMARKS = {
    "imagenet": Benchmark("ImageNet", "imagenet", "images", "classnames.txt", "train-val"),
    "caltech101": Benchmark(
        "Caltech101", "caltech-101", "101_ObjectCategories", "split_zhou_Caltech101.json"
    ),
    "oxford_pets": Benchmark(
        "OxfordPets",
        "oxford_pets",
        "images",
        "split_zhou_OxfordPets.json",
        template="a photo of a {}, a type of pet.",
    ),
    "stanford_cars": Benchmark(
        "StanfordCars", "stanford_cars", ".", "split_zhou_StanfordCars.json"
    ),
    "oxford_flowers": Benchmark(
        "Flowers102",
        "oxford_flowers",
        "jpg",
        "split_zhou_OxfordFlowers.json",
        template="a photo of a {}, a type of flower.",
    ),
    "food101": Benchmark(
        "Food101",
        "food-101",
        "images",
        "split_zhou_Food101.json",
        template="a photo of {}, a type of food.",
    ),
    "fgvc_aircraft": Benchmark(
        "FGVCAircraft",
        "fgvc_aircraft",
        "images",
        "variants.txt",
        "variants",
        template="a photo of a {}, a type of aircraft.",
    ),
    "sun397": Benchmark("SUN397", "sun397", "SUN397", "split_zhou_SUN397.json"),
    "dtd": Benchmark(
        "DTD", "dtd", "images", "split_zhou_DescribableTextures.json", template="{} texture."
    ),
    "eurosat": Benchmark(
        "EuroSAT",
        "eurosat",
        "2750",
        "split_zhou_EuroSAT.json",
        template="a centered satellite photo of {}.",
    ),
    "ucf101": Benchmark(
        "UCF101",
        "ucf101",
        "UCF-101-midframes",
        "split_zhou_UCF101.json",
        template="a photo of a person doing {}.",
    ),
    "imagenetv2": _shifted(
        "ImageNetV2",
        "imagenetv2",
        "imagenetv2-matched-frequency-format-val",
        "numbered",
        closed=False,
    ),
    "imagenet_sketch": _shifted(
        "ImageNet-Sketch", "imagenet-sketch", "images", "class-folders", closed=False
    ),
    "imagenet_a": _shifted(
        "ImageNet-A", "imagenet-adversarial", "imagenet-a", "class-folders", closed=True
    ),
    "imagenet_r": _shifted(
        "ImageNet-R", "imagenet-rendition", "imagenet-r", "class-folders", closed=True
    ),
}
"""By the name that `--data coop:NAME` and the presets have."""
