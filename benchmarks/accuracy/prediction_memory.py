"""What a prediction needs, measured in a process of its own: an adapter, or a tuned model.

    python -m benchmarks.accuracy.prediction_memory adapter '{"url": ..., "key": ..., ...}'
    python -m benchmarks.accuracy.prediction_memory model '{"server": {...}, "names": [...], ...}'

Each side predicts the same pictures once and prints `Deployment` as JSON. Its memory is what the
process grows by, from libraries imported (and, for the adapter, the connection open) to the peak of
predicting; loading has an end before the peak is taken.
"""

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import BaseModel

from benchmarks.common.machine import own_peak_mb, own_resident_mb, reset_own_peak

if TYPE_CHECKING:
    from torch import Tensor


class AdapterJob(BaseModel):
    """An adapter, the server that it asks, and a folder of pictures."""

    url: str
    key: str
    adapter: Path
    pictures: Path


class ModelJob(BaseModel):
    """Settings of craft-server that name a model, class names, and a folder of pictures."""

    server: dict[str, str]
    names: list[str]
    pictures: Path


class Deployment(BaseModel):
    """What was held to predict."""

    stored_bytes: int
    """The adapter's file, or all tensors of the model and the context."""
    tower_bytes: int = 0
    """Of these the image tower and the K text features: a tuned model whose texts never change."""
    before_mb: float
    """Resident with libraries imported."""
    held_mb: float
    """What loading and predicting added, at its peak."""
    peak_mb: float
    """The whole process while it predicts."""
    pictures: int


def adapter(job: AdapterJob) -> Deployment:
    """Load an adapter and predict through a server."""
    from craft_tuner.adapter.adapter import Adapter
    from craft_tuner.client.account import choose_model
    from craft_tuner.client.client import Client
    from craft_tuner.client.transport import Transport
    from craft_tuner.config.connection import Connection
    from craft_tuner.data.pictures import FilePicture
    from craft_tuner.inference import predict as inference
    from craft_tuner.inference.evaluate import purchase_name

    with Transport(Connection(job.url, job.key)) as transport:
        card = choose_model(transport)
        before = own_resident_mb()
        reset_own_peak()
        tuned = Adapter.load(job.adapter)
        tuned.check(card)
        client = Client(transport, card, run_id=purchase_name(tuned))
        files = sorted(job.pictures.iterdir())
        batch = tuple(FilePicture(file, file.name) for file in files)
        found = inference.ask(client, tuned, batch).logits.argmax(axis=1)
    return Deployment(
        stored_bytes=job.adapter.stat().st_size,
        before_mb=before,
        held_mb=own_peak_mb() - before,
        peak_mb=own_peak_mb(),
        pictures=len(found),
    )


def model(job: ModelJob) -> Deployment:
    """Load a model with a context of CoOp and predict with it."""
    import torch
    from open_clip.transform import PreprocessCfg, image_transform_v2
    from PIL import Image

    from benchmarks.accuracy.coop import CoOp, open_model

    before = own_resident_mb()
    opened = open_model(**job.server)
    learner = CoOp(opened, job.names)
    preprocess = image_transform_v2(
        PreprocessCfg(**opened.model.visual.preprocess_cfg), is_train=False
    )
    reset_own_peak()
    files = sorted(job.pictures.iterdir())
    pixels = torch.stack([preprocess(Image.open(file).convert("RGB")) for file in files])
    with torch.no_grad():
        texts = learner.text_features()
    found = (learner.image_features(pixels) @ texts.T).argmax(dim=1)
    tower = sum(map(_bytes, opened.model.visual.state_dict().values())) + _bytes(texts)
    every = sum(map(_bytes, opened.model.state_dict().values())) + _bytes(learner.context)
    return Deployment(
        stored_bytes=every,
        tower_bytes=tower,
        before_mb=before,
        held_mb=own_peak_mb() - before,
        peak_mb=own_peak_mb(),
        pictures=len(found),
    )


def _bytes(tensor: "Tensor") -> int:
    return tensor.numel() * tensor.element_size()


def main() -> None:
    """Measure one side."""
    side, job = sys.argv[1:]
    found = (
        adapter(AdapterJob.model_validate_json(job))
        if side == "adapter"
        else model(ModelJob.model_validate_json(job))
    )
    print(found.model_dump_json())


if __name__ == "__main__":
    main()
