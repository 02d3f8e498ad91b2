"""The server's black box in this process, behind the tuner's port: no HTTP, no meter.

The one place in the benchmarks that calls the server's port of the model. Counts nothing.
"""

import hashlib
import io
import tempfile
import time
from collections.abc import Sequence

import numpy as np
from PIL import Image

from craft_server.app import card_limits
from craft_server.engine.blackbox import BlackBox as ModelPort
from craft_server.engine.blackbox import Features, Piece, Prompts
from craft_server.models.clip.load import load_clip
from craft_server.settings import Settings
from craft_shared.messages import (
    Budget,
    Budgets,
    LogitsRequest,
    ModelCard,
    SoftPrompts,
    TextPrompts,
)
from craft_tuner.blackbox import BlackBox, FloatArray, Images, Purpose, Texts
from craft_tuner.client.batching import images_per_set
from craft_tuner.client.uploads import OnUploaded, Upload
from craft_tuner.data.pictures import Picture

UNLIMITED = 10**9
ENCODE_BATCH = 64


def load_model(**fields: str) -> ModelPort:
    """A model as `craft-server serve` loads it, on this thread."""
    settings = Settings.model_validate({"data_dir": tempfile.gettempdir()} | fields)
    model = load_clip(settings, card_limits(settings))
    model.start()
    return model


def encode(model: ModelPort, files: Sequence[bytes]) -> list[bytes]:
    """Image files as records, a batch at a time."""
    records: list[bytes] = []
    for start in range(0, len(files), ENCODE_BATCH):
        pictures = [Image.open(io.BytesIO(f)) for f in files[start : start + ENCODE_BATCH]]
        pixels = [model.preprocess(picture.convert("RGB")) for picture in pictures]
        records += model.encode_images(pixels)
    return records


def logits_of(model: ModelPort, prompts: Prompts, features: Features) -> FloatArray:
    """Logits (P, N, K), piece by piece as the server computes them."""
    found, everything = [], slice(0, None)
    for run in prompts.pieces:
        (texts,) = model.encode_texts([Piece(prompts, run)])
        found.append(model.logits(texts, features, prompts=everything, images=everything)())
    return np.concatenate(found)


class LocalBox:
    """A tuner's `BlackBox` and the upload of its `Client`, without a network or a meter.

    Images are encoded on upload, once per content, and kept as the server keeps them.
    """

    def __init__(self, model: ModelPort) -> None:
        self._model = model
        self._known: dict[str, bytes] = {}
        self._sets: dict[str, Features] = {}

    @property
    def card(self) -> ModelCard:
        """The model's card."""
        return self._model.card

    def budgets(self) -> Budgets:
        """As good as no limit."""
        return Budgets(queries=Budget(limit=UNLIMITED, used=0, held=0, remaining=UNLIMITED))

    def upload(
        self,
        pictures: Sequence[Picture],
        *,
        name: str,
        classes: int,
        on_uploaded: OnUploaded = lambda _: None,
    ) -> Upload:
        """Encode pictures and group them as `Client.upload` does."""
        del name, on_uploaded
        files = {hashlib.sha256(data).hexdigest(): data for data in map(_read, pictures)}
        ids = [hashlib.sha256(_read(picture)).hexdigest() for picture in pictures]
        fresh = [identity for identity in files if identity not in self._known]
        encoded = encode(self._model, [files[identity] for identity in fresh])
        self._known |= dict(zip(fresh, encoded, strict=True))
        size = images_per_set(classes, self.card.limits)
        groups = [ids[start : start + size] for start in range(0, len(ids), size)]
        sets = tuple(self._add_set(group) for group in groups)
        return Upload(Images(sets, len(ids)), tuple(map(len, groups)), tuple(ids))

    def score(
        self, texts: Texts, offsets: FloatArray, images: Images, *, purpose: Purpose, step: str
    ) -> FloatArray:
        """Logits float32 (P, N, K) of soft prompts."""
        del purpose, step
        prompts = SoftPrompts(context=texts.context, suffix=texts.suffix)
        return self._score(texts, prompts, offsets, images)

    def score_templates(
        self, texts: Texts, templates: Sequence[str], images: Images, *, purpose: Purpose, step: str
    ) -> FloatArray:
        """Logits float32 (P, N, K) of text templates."""
        del purpose, step
        return self._score(texts, TextPrompts(templates=list(templates)), None, images)

    def _score(
        self,
        texts: Texts,
        prompts: SoftPrompts | TextPrompts,
        offsets: FloatArray | None,
        images: Images,
    ) -> FloatArray:
        request = LogitsRequest(
            model=self.card.id,
            image_set=images.sets[0],
            class_names=list(texts.class_names),
            prompts=prompts,
        )
        prepared = self._model.prepare(request, offsets)
        return np.concatenate(
            [logits_of(self._model, prepared, self._sets[name]) for name in images.sets], axis=1
        )

    def _add_set(self, ids: Sequence[str]) -> str:
        name = f"set_{hashlib.sha256(''.join(ids).encode()).hexdigest()[:32]}"
        self._sets[name] = self._model.load_features([self._known[identity] for identity in ids])
        return name


class TimedBox:
    """A black box that adds up the seconds spent in it."""

    def __init__(self, box: BlackBox) -> None:
        self._box = box
        self.seconds = 0.0

    @property
    def card(self) -> ModelCard:
        """The model's card."""
        return self._box.card

    def budgets(self) -> Budgets:
        """What the key has left."""
        return self._box.budgets()

    def score(
        self, texts: Texts, offsets: FloatArray, images: Images, *, purpose: Purpose, step: str
    ) -> FloatArray:
        """Logits of soft prompts, timed."""
        began = time.perf_counter()
        logits = self._box.score(texts, offsets, images, purpose=purpose, step=step)
        self.seconds += time.perf_counter() - began
        return logits

    def score_templates(
        self, texts: Texts, templates: Sequence[str], images: Images, *, purpose: Purpose, step: str
    ) -> FloatArray:
        """Logits of text templates, timed."""
        began = time.perf_counter()
        logits = self._box.score_templates(texts, templates, images, purpose=purpose, step=step)
        self.seconds += time.perf_counter() - began
        return logits


def _read(picture: Picture) -> bytes:
    return picture.read()
