"""CraFT's refinement head and its fold heads, trained together one epoch at a time.

Imports torch, so methods import this in `fit`. Source: main_craft.py:210-223.
"""

import math

from craft_shared.tensors import Tensors
from craft_tuner.adapter.head import Layer
from craft_tuner.blackbox import FloatArray, IntArray
from craft_tuner.config.fit_config import FitConfig
from craft_tuner.errors import FitDiverged
from craft_tuner.heads.fold_heads import FoldHeads, head_metrics
from craft_tuner.heads.residual import Head


class HeadTrainer:
    """A head of K classes that learns from logits of N shots with labels (N,)."""

    def __init__(self, classes: int, labels: IntArray, config: FitConfig) -> None:
        self._labels = labels
        self._head = Head(classes, config)
        self._folds = FoldHeads(classes, labels, config)

    def epoch(
        self, logits: FloatArray, *, number: int, kl_weight: float, name: str
    ) -> dict[str, float]:
        """One pass over logits float32 (N, K); the head's line of metrics.

        `name` is what a pass is called in messages.

        Raises:
            FitDiverged: the loss is not finite.
        """
        epoch = self._head.epoch(logits, self._labels, generation=number, kl_weight=kl_weight)
        if not math.isfinite(epoch.loss):
            raise FitDiverged(f"{name} {number}: the head's loss is {epoch.loss}; lower --lr.")
        self._folds.epoch(logits, generation=number, kl_weight=kl_weight)
        return head_metrics(self._head, self._folds, logits, epoch=epoch, kl_weight=kl_weight)

    def refine(self, logits: FloatArray) -> FloatArray:
        """Refined logits float32 (M, K) of other images."""
        return self._head.refine(logits)

    def fitness(self, logits: FloatArray) -> list[float]:
        """Of each prompt, from logits float32 (p, N, K) (153-154)."""
        values: list[float] = self._head.fitness(logits, self._labels).tolist()
        return values

    def layers(self) -> tuple[Layer, ...]:
        """The head as numpy."""
        return self._head.layers()

    def state(self) -> Tensors:
        """Both kinds of heads."""
        return {**self._head.state(), **self._folds.state()}

    def load(self, state: Tensors) -> None:
        """Continue from `state`."""
        self._head.load(state)
        self._folds.load(state)
