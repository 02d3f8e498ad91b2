"""What an adapter is worth on labelled images.

Owns the final queries of a run and the queries of `evaluate`. The adapter's prompts, a query each
per image set, give the raw logits (the prompts alone) and the refined ones (with the head).
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict

from craft_tuner.adapter.adapter import Adapter
from craft_tuner.blackbox import BlackBox, FloatArray, Images, IntArray
from craft_tuner.data.dataset import Dataset, Item
from craft_tuner.errors import DataError
from craft_tuner.runs.journal import NOT_FINISHED

OnLogits = Callable[[str, FloatArray], None]
"""Called with a way (`zero_shot`, `prompt_only`, `adapted`) and its logits float32 (N, K)."""


class Score(BaseModel):
    """How many images are classified rightly, and what the others were taken for."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    accuracy: float
    correct: int
    images: int
    confusion: list[list[int]]
    """Images by true class (row) and predicted class (column)."""


class Evaluation(BaseModel):
    """The same images three ways; a way that was not asked is None."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    class_names: tuple[str, ...]
    zero_shot: Score | None = None
    """The words of the adapter without anything learnt."""
    prompt_only: Score | None = None
    """The learnt prompts without the head; None too where they say nothing of the classes."""
    adapted: Score | None = None
    """The whole adapter."""


class Remarked(Evaluation):
    """An evaluation of a dataset, with sentences on what was passed over or converted in it."""

    remarks: tuple[str, ...] = ()


@dataclass(frozen=True)
class Labelled:
    """Items to evaluate on, with labels int64 (N,) in an adapter's order.

    `among` are the adapter's classes that an answer may be; None: all.
    """

    items: tuple[Item, ...]
    labels: IntArray
    among: IntArray | None = None


def evaluate(
    box: BlackBox,
    adapter: Adapter,
    images: Images,
    labels: IntArray,
    *,
    zero_shot: bool,
    adapted: bool = True,
    among: IntArray | None = None,
    on_logits: OnLogits = lambda way, logits: None,  # noqa: ARG005 - the interface
) -> Evaluation:
    """Score an adapter on images with labels int64 (N,).

    Costs a query per image set for zero-shot, and one for each of the adapter's prompts. With
    `among`, the best of these classes is the answer, whatever the others' logits. `on_logits` is
    called with the logits (N, K) of each way, by its name in the result.
    """
    before = after = refined = None

    def measured(way: str, logits: FloatArray) -> Score:
        allowed = restricted(logits, among)
        on_logits(way, allowed)
        return score(allowed, labels, classes=len(adapter.card.class_names))

    if zero_shot:
        plain = untaught(adapter)
        zero = plain.logits(box, images, purpose="zero-shot", step="zero-shot")[1]
        before = measured("zero_shot", zero)
        del zero  # as large as what comes next
    if adapted:
        raw, final = adapter.logits(box, images, purpose="test", step="test")
        if raw is not None:
            after = measured("prompt_only", raw)
        refined = measured("adapted", final)
    return Evaluation(
        class_names=adapter.card.class_names,
        zero_shot=before,
        prompt_only=after,
        adapted=refined,
    )


def untaught(adapter: Adapter) -> Adapter:
    """The class names in the same words, once, without what was learnt: offsets 0, no head."""
    offsets = None if adapter.offsets is None else np.zeros_like(adapter.offsets[:1])
    plain: dict[str, Any] = {"templates": (), "asked_names": None, "residual": 1.0}
    card = adapter.card.model_copy(update=plain)
    return Adapter(card, offsets)


def restricted(logits: FloatArray, among: IntArray | None) -> FloatArray:
    """The logits with those of all classes but `among` at minus infinity; None: as they are."""
    if among is None:
        return logits
    left = np.full_like(logits, -np.inf)
    left[:, among] = logits[:, among]
    return left


def score(logits: FloatArray, labels: IntArray, *, classes: int) -> Score:
    """Accuracy and confusion of logits (N, K) against labels (N,)."""
    predicted = logits.argmax(axis=1)
    confusion = np.zeros((classes, classes), np.int64)
    np.add.at(confusion, (labels, predicted), 1)
    correct = int((predicted == labels).sum())
    return Score(
        accuracy=correct / len(labels),
        correct=correct,
        images=len(labels),
        confusion=confusion.tolist(),
    )


def labelled_for(adapter: Adapter, dataset: Dataset) -> Labelled:
    """The items to evaluate on (the test split, else all) with labels in the adapter's order.

    Raises:
        DataError: the dataset has a class that the adapter does not know.
    """
    known = {name: index for index, name in enumerate(adapter.card.class_names)}
    strange = [name for name in dataset.class_names if name not in known]
    if strange:
        raise DataError(
            f"the dataset has the class {strange[0]!r}, the adapter knows: "
            f"{', '.join(adapter.card.class_names[:10])}"
            f"{', ...' if len(known) > 10 else ''}; use the dataset it was fitted for"
        )
    items = dataset.test or dataset.train
    columns = np.array([known[name] for name in dataset.class_names], np.int64)
    labels = columns[[item.label for item in items]]
    return Labelled(items, labels, columns if dataset.closed else None)


def progress_of(adapter: Adapter) -> str | None:
    """How far the fit of an adapter has come that was saved before its end; None: to the end."""
    training = adapter.card.training
    if training.get("stopped") != NOT_FINISHED:
        return None
    done, planned = (training.get(name) for name in ("generations", "generations_planned"))
    return f"the adapter is of generation {done} of {planned}: its fit was not finished"


def purchase_name(adapter: Adapter) -> str:
    """A run id for questions about an adapter: asked again, they are the same purchase."""
    return hashlib.sha256(adapter.to_bytes()).hexdigest()
