"""The black box as methods see it: a port. client.py implements it over HTTP, tests have fakes.

Owns what can be asked: methods ask for logits and get arrays. An implementation pays each request
once, also when it is made again after a crash: the same `step` with the same content is the same
purchase.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from craft_shared.messages import Budgets, ModelCard

LOGITS_AT_ONCE = 2**26
"""Logits that are asked for at once where fewer prompts at a time allow it: 256 MB."""

FloatArray = NDArray[np.float32]
IntArray = NDArray[np.int64]

Purpose = Literal["fitness", "head", "bank", "validation", "zero-shot", "test", "inference"]
"""What a query is for. On the wire and in the server's ledger it is the call's `tag`; files of runs
(plans, purchases, results) store it as `purpose`, which is therefore the tuner's one word."""


@dataclass(frozen=True)
class Texts:
    """The words around a class name: prompt k reads `"{context} {class_names[k]}{suffix}"`."""

    class_names: tuple[str, ...]
    context: str = "a photo of a"
    suffix: str = "."

    @property
    def template(self) -> str:
        """The same words as a text template, as in "a photo of a {}."."""
        return f"{self.context} {{}}{self.suffix}"


@dataclass(frozen=True)
class Wording:
    """What is asked in words, whatever the images: class names, and prompts around them."""

    texts: Texts
    templates: tuple[str, ...] = ()
    """Text prompts; none: soft prompts on the context."""
    context_tokens: int = 0
    """Of soft prompts: how many tokens of the context they have offsets for."""


@dataclass(frozen=True)
class Images:
    """Uploaded images in order: one or more image sets, each at most the server's limit.

    Scoring P prompts on them costs P queries per image set.
    """

    sets: tuple[str, ...]
    count: int


@dataclass(frozen=True)
class Validation:
    """Images that choices are made on and nothing is fitted to."""

    images: Images
    labels: IntArray
    """(M,) in 0..K-1, in the order of `images`."""


@dataclass(frozen=True)
class Task:
    """What a method may learn from: N shots with labels, and V augmented views of the same shots.

    Test images are not part of it.
    """

    texts: Texts
    shots: Images
    views: tuple[Images, ...]
    labels: IntArray
    """(N,) in 0..K-1, in the order of `shots` and of every view."""
    bundle: Images | None = None
    """Shots, validation images, then view after view, in as few image sets as there can be, so that
    one query asks about all of them; only for methods that want it, and then `views` is empty."""
    validation: Validation | None = None
    """None where choices are made by cross-validation, or none are made."""


class BlackBox(Protocol):
    """Prompts in, logits out, every prompt paid for."""

    @property
    def card(self) -> ModelCard:
        """What the server says of its model."""
        ...

    def budgets(self) -> Budgets:
        """What the key has left, as the server counts it."""
        ...

    def score(
        self, texts: Texts, offsets: FloatArray, images: Images, *, purpose: Purpose, step: str
    ) -> FloatArray:
        """Logits float32 (P, N, K) of P soft prompts, `offsets` float32 (P, n_ctx, width).

        `step` names the request within the run, as in "fitness/12"; it makes the purchase
        idempotent. Costs P queries per image set.
        """
        ...

    def score_templates(
        self, texts: Texts, templates: Sequence[str], images: Images, *, purpose: Purpose, step: str
    ) -> FloatArray:
        """The same for P text templates, each with one `{}` for the class name."""
        ...


def score_in_parts(
    box: BlackBox,
    texts: Texts,
    offsets: FloatArray,
    images: Images,
    *,
    purpose: Purpose,
    step: str,
) -> Iterator[FloatArray]:
    """What `BlackBox.score` gives, some prompts after the other, for who needs them once.

    At ImageNet's shape (P = 40, N = 16,000, K = 1,000) all logits of a generation are 2.56 GB.

    Yields:
        Logits float32 (p, N, K): of all P prompts where they are few enough, as one request, so
        that its step is `step`; else of the next prompts, at most `LOGITS_AT_ONCE` numbers or one
        prompt. A caller that drops them before it asks for the next ones has no more in memory.
    """
    size = max(1, LOGITS_AT_ONCE // (images.count * len(texts.class_names)))
    for start in range(0, len(offsets), size):
        name = step if size >= len(offsets) else f"{step}/{start}"
        part = offsets[start : start + size]
        yield box.score(texts, part, images, purpose=purpose, step=name)


def names_at_once(card: ModelCard) -> int:
    """Most names that a request may have; 0 where it may or should have the classes alone.

    A key with a list of names may ask about no others. To a key that gets the best names alone,
    others would be disclosed in the classes' place.
    """
    if card.class_names is not None or card.output in PARTIAL:
        return 0
    return min(card.limits.classes, card.limits.texts)


PARTIAL = ("top_k", "label")
"""Outputs that leave classes out."""
