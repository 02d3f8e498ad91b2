"""A search of the prompt alone, at work on a task: what methods without a head share.

Owns the step from points to offsets, questions, cross-entropy and metrics.
"""

import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from craft_tuner.adapter.adapter import Adapter, describe
from craft_tuner.blackbox import BlackBox, FloatArray, IntArray, Task, score_in_parts
from craft_tuner.config.fit_config import FitConfig
from craft_tuner.heads import softmax
from craft_tuner.methods.loop import SearchTraining, Step
from craft_tuner.search.base import Search, Vector, digest


@dataclass(frozen=True)
class PromptSearch(SearchTraining[Search]):
    """A training whose only state is its search."""

    box: BlackBox
    task: Task
    config: FitConfig
    search: Search
    offsets_of: Callable[[Vector], FloatArray]
    """Points (P, d) to offsets float32 (P, n_ctx, width)."""
    constants: Mapping[str, float]
    """Metrics that are the same in every generation."""

    def step(self) -> Step:
        """One generation; P queries in one call."""
        number, points = self.generation + 1, self.search.ask()
        augmented = self.config.fitness_view == "augmented"
        parts = score_in_parts(
            self.box,
            self.task.texts,
            self.offsets_of(points),
            self.task.views[0] if augmented else self.task.shots,
            purpose="fitness",
            step=f"fitness/{number}",
        )
        judged = list(itertools.chain.from_iterable(map(self._judged, parts)))
        fitness = tuple(value for value, _ in judged)
        self.search.tell(fitness)
        metrics = {
            **self.search.metrics,
            "fitness_best": min(fitness),
            "fitness_median": float(np.median(fitness)),
            "fitness_lowest": self.search.best,
            "offset_rms": float(np.sqrt(np.mean(self.offsets**2))),
            **self.constants,
            "prompt_accuracy": judged[int(np.argmin(fitness))][1],
        }
        return Step(digest(points), fitness, metrics)

    def _judged(self, logits: FloatArray) -> list[tuple[float, float]]:
        """Fitness and accuracy of each prompt, from logits (p, N, K)."""
        fitness = cross_entropy(logits, self.task.labels)
        accuracy = (logits.argmax(axis=2) == self.task.labels).mean(axis=1)
        return list(zip(fitness.tolist(), accuracy.tolist(), strict=True))

    @property
    def offsets(self) -> FloatArray:
        """The prompt of the result, float32 (1, n_ctx, width)."""
        return self.offsets_of(self.search.center[None])

    def adapter(self, training: dict[str, Any]) -> Adapter:
        """The prompt as it is, without a head."""
        card = describe(
            self.task.texts,
            self.box.card,
            method=self.config.method,
            config=self.config.model_dump(mode="json"),
            training=training,
        )
        return Adapter(card, self.offsets if self.search.generation else None)


def views_read(config: FitConfig) -> int:
    """Augmented views that a search of the prompt reads: one, where fitness sees one."""
    return int(config.fitness_view == "augmented")


def cross_entropy(logits: FloatArray, labels: IntArray) -> NDArray[np.float64]:
    """CE(L, y) of each prompt (main_craft.py:153), (P,) float64, of logits (P, N, K)."""
    each = (softmax.cross_entropy(rows.astype(np.float64), labels) for rows in logits)
    return np.fromiter(each, np.float64, len(logits))
