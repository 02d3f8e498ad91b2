"""Text templates that people wrote, as data; each file names its source and licence."""

from importlib import resources


def imagenet_templates() -> tuple[str, ...]:
    """CLIP's 80 for ImageNet; the first seven are its authors' selection, in its order."""
    return _read("imagenet_templates.txt")


def dataset_templates() -> tuple[str, ...]:
    """CLIP's for its other datasets, without those for ImageNet."""
    return _read("dataset_templates.txt")


def anchors() -> tuple[str, ...]:
    """About 540 common names; logits of texts that name them span the image feature."""
    return _read("anchors.txt")


def _read(name: str) -> tuple[str, ...]:
    lines = resources.files(__package__).joinpath(name).read_text(encoding="utf-8").splitlines()
    return tuple(line for line in lines if not line.startswith("#"))
