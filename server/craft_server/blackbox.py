"""The interface between the server and a model: all that the rest of the server may know of one.

clip/ implements it with torch and open_clip, stub.py with numpy for tests. What a model makes of
images is opaque here: the server can keep `Pixels`, records and `Features` and hand them back,
never look inside, so no route can leak them.

    image -> preprocess (any thread) -> Pixels -> encode_images (device thread) -> record
    the records of a set -> load_features (device thread) -> Features -> score
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NewType, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL.Image import Image

from craft_shared.messages import LogitsRequest, ModelCard

FloatArray = NDArray[np.float32]

Pixels = NewType("Pixels", object)
"""One image as the model's image tower takes it; whatever the model wants it to be."""

Features = NewType("Features", object)
"""The encoded images of a set, as one value on the device; whatever the model wants it to be."""


@dataclass(frozen=True)
class Prompts:
    """P prompts of K classes, checked against the model by `BlackBox.prepare`.

    `plan` is the model's own (token ids, groups, ...); nobody else looks inside.
    """

    count: int
    class_names: tuple[str, ...]
    plan: Any


class BlackBox(Protocol):
    """A vision-language model that answers prompts with logits."""

    @property
    def card(self) -> ModelCard:
        """What clients may know of it."""
        ...

    @property
    def image_key(self) -> str:
        """Hex digest of all that an image's record depends on beside the image's bytes.

        Checkpoint, preprocessing, precision and the format of records. Never leaves the server.
        """
        ...

    def prepare(self, request: LogitsRequest, offsets: FloatArray | None) -> Prompts:
        """Check the prompts against the model and plan their encoding; cheap, on no device.

        Raises:
            Refusal: `invalid_request`, `too_many_tokens`, `too_large`, `prompt_kind_denied`.
        """
        ...

    def preprocess(self, image: Image) -> Pixels:
        """Make an RGB image of any size fit for the tower. Runs on any thread."""
        ...

    def encode_images(self, pixels: Sequence[Pixels]) -> list[bytes]:
        """Encode images, one opaque record per image. Runs on the device thread.

        A record is the normalised features as little-endian float32, (D,).

        Raises:
            RuntimeError: a feature is not finite.
        """
        ...

    def load_features(self, records: Sequence[bytes]) -> Features:
        """Bring N records to the device as one matrix (N, D). Runs on the device thread."""
        ...

    def score(self, prompts: Prompts, features: Features) -> FloatArray:
        """Logits float32 (P, N, K) of prompts on N images. Runs on the device thread."""
        ...
