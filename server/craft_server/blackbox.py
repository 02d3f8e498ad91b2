"""The interface between the server and a model: all that the rest of the server may know of one.

clip/ implements it with torch and open_clip, stub.py with numpy for tests. Image features are an
opaque value here (`Features`): the service can keep them and hand them back, never look inside, so
no route can leak them.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NewType, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL.Image import Image

from craft_shared.messages import LogitsRequest, ModelCard

FloatArray = NDArray[np.float32]

Features = NewType("Features", object)
"""The encoded images of one batch; whatever the model wants it to be."""


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

    def prepare(self, request: LogitsRequest, offsets: FloatArray | None) -> Prompts:
        """Check the prompts against the model and plan their encoding; cheap, on no device.

        Raises:
            Refusal: `invalid_request`, `too_many_tokens`, `too_large`, `prompt_kind_denied`.
        """
        ...

    def encode_images(self, images: Sequence[Image]) -> list[Features]:
        """Encode RGB images of any size, one opaque value per image. Runs on the device worker."""
        ...

    def score(self, prompts: Prompts, features: Sequence[Features]) -> FloatArray:
        """Logits float32 (P, N, K) of prompts on encoded images. Runs on the device worker."""
        ...
