"""The interface between the server and a model: all that the rest of the server may know of one.

clip/ implements it with torch and open_clip, stub.py with numpy for tests. What a model makes of
images is opaque here: the server can keep `Pixels`, records and `Features` and hand them back,
never look inside, so no route can leak them.

    image -> preprocess (any thread) -> Pixels -> encode_images (device thread) -> record
    the records of a set -> load_features (device thread) -> Features
    request -> prepare_in_steps (any thread) -> Prompts -> encode_texts (device thread) -> Texts
    Texts x Features -> logits (device thread)
"""

from collections.abc import Callable, Generator, Hashable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, NewType, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL.Image import Image

from craft_server.engine.texts import Counted
from craft_shared.messages import LogitsRequest, ModelCard, SoftPrompts, TextPrompts

T = TypeVar("T")

FloatArray = NDArray[np.float32]

Steps = Generator[None, None, T]
"""Work on the CPU that can be left off and gone on with: each step takes a few milliseconds at
most. What comes before the first `yield` costs next to nothing."""

Pixels = NewType("Pixels", object)
"""One image as the model's image tower takes it; whatever the model wants it to be."""

Features = NewType("Features", object)
"""The encoded images of a set, as one value on the device; whatever the model wants it to be."""

Texts = NewType("Texts", object)
"""The encoded texts of some prompts, on the device; whatever the model wants it to be."""

Awaited = Callable[[], FloatArray]
"""Waits for numbers that a device computes beside the host, and gives them."""


@dataclass(frozen=True)
class Prompts:
    """P prompts of K classes, checked against the model by `BlackBox.prepare`.

    Attributes:
        count: P.
        class_names: K names.
        plan: the model's own (token ids, ...); nobody else looks inside.
        pieces: the prompts in runs that the model encodes at a time, in bounded memory. They do
            not depend on what else is asked, so neither do the logits.
        tokens: what a prompt costs, for merging: a pass takes at most `BlackBox.tokens_per_pass`.
        group: equal for prompts that may be encoded in one pass; None for none.
    """

    count: int
    class_names: tuple[str, ...]
    plan: Any
    pieces: tuple[slice, ...]
    tokens: int
    group: Hashable | None = None


class Piece(NamedTuple):
    """One of the pieces of `prompts`."""

    prompts: Prompts
    run: slice


def runs(count: int, step: int) -> tuple[slice, ...]:
    """0..count in runs of `step`, the last one shorter; of 1 where the step is less."""
    starts = range(0, count, max(1, step))
    return tuple(slice(start, min(start + starts.step, count)) for start in starts)


def at_once(steps: Steps[T]) -> T:
    """Do all the steps and give what they return."""
    while True:
        try:
            next(steps)
        except StopIteration as end:
            result: T = end.value
            return result


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

    def start(self) -> None:
        """Get ready on the calling thread, which is the device thread from now on."""
        ...

    def recover(self) -> None:
        """Give the device back what a failed work left behind. Runs on the device thread."""
        ...

    def prepare(self, request: LogitsRequest, offsets: FloatArray | None) -> Prompts:
        """All of `prepare_in_steps` at once."""
        ...

    def prepare_in_steps(
        self, request: LogitsRequest, offsets: FloatArray | None
    ) -> Steps[Prompts]:
        """Check the prompts against the model and plan their encoding; on no device.

        Each step reads one text that was not seen before, or looks some up that were.

        Raises:
            Refusal: `invalid_request`, `too_many_tokens`, `too_large`, `prompt_kind_denied`.
        """
        ...

    def count_in_steps(
        self, prompts: SoftPrompts | TextPrompts, names: Sequence[str]
    ) -> Steps[Counted]:
        """Count the tokens of all texts and find those that `prepare_in_steps` would refuse.

        Text k of prompt p has the number p * K + k; soft prompts, which need no offsets here, have
        K texts.

        Raises:
            Refusal: as `prepare_in_steps`, where no single class name is at fault.
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

    @property
    def tokens_per_pass(self) -> int:
        """How many tokens one pass of the text tower takes."""
        ...

    @property
    def asynchronous(self) -> bool:
        """Does the device compute beside the host, so that it pays to launch a batch ahead?"""
        ...

    def encode_texts(self, pieces: Sequence[Piece]) -> list[Texts]:
        """Encode pieces of equal groups in one pass, or one piece. Runs on the device thread."""
        ...

    def logits(self, texts: Texts, features: Features, *, prompts: slice, images: slice) -> Awaited:
        """Start float32 (p, n, K): `prompts` of encoded texts on `images` of a set's features.

        Runs on the device thread, and so does waiting for the numbers.
        """
        ...
