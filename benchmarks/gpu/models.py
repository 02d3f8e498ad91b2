"""Models with random weights, the same in every precision, on a device.

Time and rounding do not depend on what weights are, and none can be downloaded.
"""

import logging
from functools import lru_cache
from typing import Any, NamedTuple

import open_clip
import torch
from open_clip.transform import PreprocessCfg, image_transform_v2

from benchmarks.gpu.device import need_memory
from benchmarks.gpu.runner import Scene
from craft_server.models.clip.load import create_model
from craft_server.models.clip.source import Source, find_source
from craft_server.models.clip.text import TextEncoder
from craft_server.models.clip.vision import ImageEncoder
from craft_server.settings import EMBEDDED, Settings

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
MODELS = ("RN50", "ViT-B-32", "ViT-B-16", "ViT-L-14")
MILLIONS = {"RN50": 102, "ViT-B-32": 151, "ViT-B-16": 150, "ViT-L-14": 428, EMBEDDED: 8}
"""Parameters."""

WORK_GIB = 2.0
"""What a pass takes beside the weights, at the most that is asked for here."""


def models_of(scene: Scene) -> tuple[str, ...]:
    """The models to measure, RN50 first; the embedded one for a rehearsal."""
    return (EMBEDDED,) if scene.small else MODELS


def _source(name: str) -> Source:
    if name == EMBEDDED:
        return find_source(Settings(model=EMBEDDED))
    return Source(name, None, name)


class Loaded(NamedTuple):
    """A model and the server's encoders around it."""

    model: Any
    text: TextEncoder
    images: ImageEncoder


def gib_of(name: str, *dtypes: str) -> float:
    """Memory that a model takes in these precisions together, and a pass of it."""
    size = {"float32": 4, "float16": 2, "bfloat16": 2}
    return MILLIONS[name] * 1e6 * sum(size[dtype] for dtype in dtypes) / 2**30 + WORK_GIB


@lru_cache(1)
def _weights(name: str) -> dict[str, Any]:
    """Random float32 weights of a model, on the CPU; the last one is remembered."""
    torch.manual_seed(0)
    model = create_model(_source(name), "float32", torch.device("cpu"))
    return dict(model.state_dict())


def load(name: str, dtype: str, device: torch.device) -> Loaded:
    """A model in a precision on a device.

    Raises:
        SectionError: the card has too little memory for it.
    """
    need_memory(f"{name} in {dtype}", gib_of(name, dtype), device)
    logging.getLogger().setLevel(logging.ERROR)
    model = create_model(_source(name), dtype, device)
    model.load_state_dict(_weights(name))
    preprocess = PreprocessCfg(**model.visual.preprocess_cfg)
    images = ImageEncoder(
        model,
        image_transform_v2(preprocess, is_train=False),
        dtype=DTYPES[dtype],
        batch=64,
        key="",
    )
    tower = getattr(model, "text", model)
    return Loaded(model, TextEncoder(tower, open_clip.SimpleTokenizer()), images)
