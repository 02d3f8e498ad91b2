"""A model before it is loaded: its architecture without numbers, and whether a file fits it."""

import warnings
from typing import NamedTuple

import open_clip
import torch

from craft_server.models.clip.load import create_model, file_of, side_of
from craft_server.models.clip.source import Source


class Outline(NamedTuple):
    """How many weights a model has, and the side of the images that it takes, in pixels."""

    weights: int
    image_side: int


def outline_of(source: Source) -> Outline:
    """Of a model whose checkpoint is not loaded; one that is a file is read and held against it.

    Raises:
        ModelError: the architecture cannot be made, the file cannot be read or does not fit.
        OSError: a file cannot be opened.
    """
    if is_tag(source):
        source = source._replace(pretrained=None)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a tensor on no device takes no numbers
        model = create_model(source, "float32", torch.device("meta"))
    return Outline(sum(each.numel() for each in model.parameters()), side_of(model))


def is_tag(source: Source) -> bool:
    """Is the checkpoint one that open_clip downloads, or NumPy's, which it reads by itself?"""
    named = str(source.pretrained or "")
    tagged = open_clip.get_pretrained_cfg(source.name, named)
    return bool(tagged) or (file_of(source) is None and named.endswith((".npz", ".npy")))


def free_bytes(device: torch.device) -> int | None:
    """Free memory of a GPU; None for a device that shares the machine's."""
    return torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else None
