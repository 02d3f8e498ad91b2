"""Black-box tuning: the prompt module of CraFT alone, without head.

Source: T. Sun et al., "Black-Box Tuning for Language-Model-as-a-Service", ICML 2022, arXiv
2201.03514, as CraFT's ablation runs it ("BBT" in its tables): main_craft.py with w = 0 and no
head. No query goes to a head, so the same budget buys more generations.
"""

import itertools
from typing import Any

import numpy as np
from numpy.typing import NDArray

from craft_shared.messages import Budgets, PromptKind
from craft_shared.tensors import Tensors
from craft_tuner.adapter import Adapter, describe
from craft_tuner.blackbox import BlackBox, FloatArray, IntArray, Task, score_in_parts
from craft_tuner.budget import Plan, Workload, plan_generations
from craft_tuner.config import FitConfig
from craft_tuner.generations import Bought, fit_generations
from craft_tuner.method import OnProgress
from craft_tuner.prompts import Search, kept_variance, project, projection
from craft_tuner.runs import Run


class BlackBoxTuning:
    """CMA-ES over the prompt, nothing else."""

    name = "bbt"
    summary = "prompt only: the search of CraFT without its head"
    prompt_kind: PromptKind = "soft"

    def views(self, config: FitConfig) -> int:
        """One, where fitness sees an augmented view."""
        return int(config.fitness_view == "augmented")

    def plan(self, config: FitConfig, work: Workload, budgets: Budgets | None = None) -> Plan:
        """P queries a generation."""
        return plan_generations(config, work, budgets, head_queries=0)

    def fit(self, box: BlackBox, task: Task, *, run: Run, on_progress: OnProgress) -> Adapter:
        """See `Method.fit`."""
        run.bind(task, box.card)
        return fit_generations(PromptSearch(box, task, run), run, on_progress)


class PromptSearch:
    """The prompt module at work on one task."""

    def __init__(self, box: BlackBox, task: Task, run: Run) -> None:
        self.config = run.config
        self.box, self.task = box, task
        self.a = projection(self.config, box.card.context_width)
        self.kept_variance = kept_variance(self.a)
        self.search = Search(self.config, generations=run.plan.generations)
        augmented = self.config.fitness_view == "augmented"
        self.shots = task.views[0] if augmented else task.shots

    def generation(self, number: int) -> Bought:
        """One generation; P queries in one call."""
        z = self.search.ask()
        parts = score_in_parts(
            self.box,
            self.task.texts,
            project(self.a, z, n_ctx=self.config.n_ctx),
            self.shots,
            purpose="fitness",
            step=f"fitness/{number}",
        )
        pairs = list(itertools.chain.from_iterable(map(self._judged, parts)))
        fitness = tuple(value for value, _ in pairs)
        self.search.tell(fitness)
        metrics = {
            "sigma": self.search.sigma,
            "fitness_best": min(fitness),
            "fitness_median": float(np.median(fitness)),
            "fitness_lowest": self.search.best,
            "offset_rms": float(np.sqrt(np.mean(self.offsets**2))),
            "kept_variance": self.kept_variance,
            "prompt_accuracy": pairs[int(np.argmin(fitness))][1],
        }
        return Bought(z, fitness, metrics)

    def _judged(self, logits: FloatArray) -> list[tuple[float, float]]:
        """Fitness and accuracy of each prompt, from logits (p, N, K)."""
        fitness = cross_entropy(logits, self.task.labels)
        accuracy = (logits.argmax(axis=2) == self.task.labels).mean(axis=1)
        return list(zip(fitness.tolist(), accuracy.tolist(), strict=True))

    @property
    def offsets(self) -> FloatArray:
        """The prompt of the result, float32 (n_ctx, width)."""
        return project(self.a, self.search.center, n_ctx=self.config.n_ctx)

    def state(self) -> Tensors:
        """Nothing beside the search."""
        return {}

    def load(self, state: Tensors) -> None:
        """Nothing to load."""

    def adapter(self, training: dict[str, Any]) -> Adapter:
        """The prompt as it is, without a head."""
        config = self.config.model_dump(mode="json")
        card = describe(
            self.task.texts, self.box.card, method="bbt", config=config, training=training
        )
        return Adapter(card, self.offsets[None] if self.search.generation else None)


def cross_entropy(logits: FloatArray, labels: IntArray) -> NDArray[np.float64]:
    """CE(L, y) of each prompt (main_craft.py:153), (P,) float64, of logits (P, N, K)."""
    values = np.empty(len(logits))
    for prompt, rows in enumerate(logits):
        centred = rows - rows.max(axis=1, keepdims=True).astype(np.float64)
        total = np.log(np.exp(centred).sum(axis=1))
        values[prompt] = (total - centred[np.arange(len(labels)), labels]).mean()
    return values
