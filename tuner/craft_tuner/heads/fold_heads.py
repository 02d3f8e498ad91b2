"""Held-out accuracy and a head's other numbers, without a query, on logits already bought.

Each of F extra heads, the fold heads, learns from all shots but its fold's and is scored on them.
They cost no query and touch neither the deployed head nor its random streams: a run with F = 0
gives the same adapter. **The estimate is optimistic for the prompt**: fitness has seen the labels
of all shots, those of a fold included; only the head is judged on images it has not seen. It is
pessimistic in two other ways: fold heads learn from fewer shots, and they are judged on augmented
views, which are harder than plain images. Compare it within a run, not with test accuracy.
"""

from dataclasses import dataclass, field

import numpy as np

from craft_shared.tensors import Tensors
from craft_tuner.blackbox import FloatArray, IntArray
from craft_tuner.config.fit_config import FitConfig
from craft_tuner.heads.folds import stratified_folds
from craft_tuner.heads.residual import Epoch, Head, symmetric_kl
from craft_tuner.seeds import Stream, stream


@dataclass
class FoldHeads:
    """One head per fold; none where `validation_folds` is 0 or a class has a single shot."""

    classes: int
    labels: IntArray
    config: FitConfig
    folds: IntArray = field(init=False)
    """(N,): the fold that each image is held out of; every class is spread over all folds."""
    heads: list[Head] = field(init=False)

    def __post_init__(self) -> None:
        self.folds, count = assign_folds(self.labels, self.config)
        self.heads = [Head(self.classes, self.config, index=1 + fold) for fold in range(count)]

    def epoch(self, logits: FloatArray, *, generation: int, kl_weight: float) -> None:
        """Train each head one pass on the images of the other folds; logits float32 (N, K)."""
        for fold, head in enumerate(self.heads):
            seen = self.folds != fold
            head.epoch(logits[seen], self.labels[seen], generation=generation, kl_weight=kl_weight)

    def accuracy(self, logits: FloatArray) -> float | None:
        """Share of images that the head which never saw them gets right; None without folds."""
        if not self.heads:
            return None
        right = 0
        for fold, head in enumerate(self.heads):
            held = self.folds == fold
            right += int((head.refine(logits[held]).argmax(axis=1) == self.labels[held]).sum())
        return right / len(self.labels)

    def state(self) -> Tensors:
        """All heads' tensors by name."""
        return {name: value for head in self.heads for name, value in head.state().items()}

    def load(self, state: Tensors) -> None:
        """Continue from `state`."""
        for head in self.heads:
            head.load(state)


def head_metrics(
    head: Head, folds: FoldHeads, raw: FloatArray, *, epoch: Epoch, kl_weight: float
) -> dict[str, float]:
    """What `diagnostics` shows of a head after an epoch on logits float32 (N, K)."""
    refined, heldout = head.refine(raw), folds.accuracy(raw)
    norms = enumerate(epoch.gradient_norms)
    return {
        "prompt_accuracy": float((raw.argmax(axis=1) == folds.labels).mean()),
        "head_accuracy": float((refined.argmax(axis=1) == folds.labels).mean()),
        **({} if heldout is None else {"heldout_accuracy": heldout}),
        "head_loss": epoch.loss,
        "head_cross_entropy": epoch.cross_entropy,
        "head_kl": epoch.kl,
        "kl_weight": kl_weight,
        "kl_symmetric": symmetric_kl(raw, refined),
        **{f"gradient_norm_{layer}": norm for layer, norm in norms},
    }


def assign_folds(labels: IntArray, config: FitConfig) -> tuple[IntArray, int]:
    """Stratified folds (N,) and their number: at most the smallest class's shots, 0 if under 2."""
    count = min(config.validation_folds, int(np.bincount(labels)[np.unique(labels)].min()))
    if count < 2:
        return np.full(len(labels), -1, np.int64), 0
    return stratified_folds(labels, count, draw=stream(config.seed, Stream.FOLDS)), count
