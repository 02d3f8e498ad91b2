"""An adapter for `tuner_server`'s model that no fit made, and pictures to ask it about."""

from pathlib import Path

import numpy as np
from PIL import Image

from craft_tuner.adapter.adapter import Adapter, Layer, describe
from craft_tuner.blackbox import Texts
from craft_tuner.data.pictures import encode_png
from tests.support.tuner_server import N_CTX, WIDTH, model_card

ZOO = ("cat", "ox", "Bär")


def an_adapter(
    *, prompts: int = 1, names: tuple[str, ...] = ZOO, model: str = "fake::1"
) -> Adapter:
    """P soft prompts and a head of two layers, all of them drawn at random."""
    draw = np.random.RandomState(3)
    classes = len(names)
    card = describe(
        Texts(names), model_card(model), method="craft", config={"shots": 2}, training={}
    )
    sizes = ((5, prompts * classes), (classes, 5))
    head = tuple(
        Layer(draw.randn(*size).astype(np.float32), draw.randn(size[0]).astype(np.float32))
        for size in sizes
    )
    return Adapter(card, draw.randn(prompts, N_CTX, WIDTH).astype(np.float32), head)


def saved(adapter: Adapter, folder: Path) -> Path:
    """The adapter's file in a folder that is made."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "adapter.safetensors"
    file.write_bytes(adapter.to_bytes())
    return file


def photos(folder: Path, *names: str) -> list[Path]:
    """Pictures of different shades under these names."""
    paths = [folder / name for name in names]
    for number, path in enumerate(paths):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encode_png(Image.new("RGB", (9, 7), (number, 2 * number, 7))))
    return paths
