"""CraFT: collaborative fine-tuning of a prompt and a refinement head on a black box.

Source: "Connecting the Dots: Collaborative Fine-tuning for Black-Box Vision-Language Models",
ICML 2024, arXiv 2402.04050; official code mrflogs/CraFT @1a4c251, main_craft.py. `step` below is
the body of its loop (196-223); line numbers stand beside each step, deviations carry
their record in docs/decisions.
"""

import itertools
from typing import Any, ClassVar

import numpy as np

from craft_shared.messages import Budgets, PromptKind
from craft_shared.tensors import Tensors
from craft_tuner.activity import doing
from craft_tuner.adapter.adapter import Adapter, describe
from craft_tuner.blackbox import BlackBox, FloatArray, Task, score_in_parts
from craft_tuner.config.fit_config import FitConfig
from craft_tuner.methods.base import Method, OnProgress
from craft_tuner.methods.loop import SearchTraining, Step, fit_generations, replay
from craft_tuner.methods.recorder import Recorder
from craft_tuner.plan import Plan, Workload, plan_generations
from craft_tuner.runs.journal import Checkpoint
from craft_tuner.search.base import digest
from craft_tuner.search.cma_es import CmaEs
from craft_tuner.search.projection import kept_variance, project, projection


class Craft(Method):
    """The method of the paper: prompt by CMA-ES, head by gradient, in turns."""

    name = "craft"
    summary = "CraFT: a searched prompt and a residual head on logits, trained in turns"
    prompt_kind: ClassVar[PromptKind | None] = "soft"
    levers = ("population",)

    def views(self, config: FitConfig) -> int:
        """The head learns from augmented views."""
        return config.views

    def views_of(self, config: FitConfig, plan: Plan) -> int:
        """One in each generation, in turn."""
        return min(config.views, plan.generations)

    def plan(self, config: FitConfig, work: Workload, budgets: Budgets | None = None) -> Plan:
        """P + 1 queries a generation."""
        return plan_generations(config, work, budgets, head_queries=1)

    def fit(
        self, box: BlackBox, task: Task, *, recorder: Recorder, on_progress: OnProgress
    ) -> Adapter:
        """See `Method.fit`."""
        training = Collaboration(box, task, recorder)
        return fit_generations(training, recorder, on_progress)


class Collaboration(SearchTraining[CmaEs]):
    """Both modules at work on one task; `step` is the algorithm."""

    def __init__(self, box: BlackBox, task: Task, recorder: Recorder) -> None:
        with doing("loading torch", at_once=True):
            from craft_tuner.methods.head_trainer import HeadTrainer  # noqa: PLC0415 - needs torch

        self.config, self.plan = recorder.config, recorder.plan
        self.box, self.task = box, task
        self.a = projection(self.config, box.card.context_width)
        self.kept_variance = kept_variance(self.a)
        self.search = CmaEs(self.config, generations=self.plan.generations)
        self.head = HeadTrainer(len(task.texts.class_names), task.labels, self.config)
        augmented = self.config.fitness_view == "augmented"
        self.shots = task.views[0] if augmented else task.shots  # decision 0004

    def step(self) -> Step:
        """One generation of the collaborative algorithm; P + 1 queries in two calls."""
        number, z = self.generation + 1, self.search.ask()  # 198
        parts = score_in_parts(  # 202; all of P together (132, 151), if memory allows
            self.box,
            self.task.texts,
            project(self.a, z, n_ctx=self.config.n_ctx),
            self.shots,
            purpose="fitness",
            step=f"fitness/{number}",
        )
        values = map(self.head.fitness, parts)
        fitness = tuple(itertools.chain.from_iterable(values))  # 203
        self.search.tell(fitness)  # 204
        view = self.task.views[(number - 1) % self.config.views]  # 210, decision 0002
        head_logits = self.box.score(  # 214-216, decision 0003
            self.task.texts, self.offsets[None], view, purpose="head", step=f"head/{number}"
        )[0]
        kl_weight = self._kl_weight(number)  # 220
        of_head = self.head.epoch(  # 210-223
            head_logits, number=number, kl_weight=kl_weight, name="generation"
        )
        return Step(digest(z), fitness, {**self._measure(fitness), **of_head})

    @property
    def offsets(self) -> FloatArray:
        """The prompt of head and result (206), float32 (n_ctx, width); decision 0001."""
        return project(self.a, self.search.center, n_ctx=self.config.n_ctx)

    def state(self) -> Tensors:
        """The heads; prompt and search follow from the journal."""
        return self.head.state()

    def restore(self, past: Checkpoint) -> None:
        """Replay the search, load the heads."""
        replay(self.search, past.journal)
        if past.journal:
            self.head.load(past.tensors)

    def adapter(self, training: dict[str, Any]) -> Adapter:
        """Prompt and head as they are; before the first generation, neither changes anything."""
        config = self.config.model_dump(mode="json")
        card = describe(
            self.task.texts, self.box.card, method="craft", config=config, training=training
        )
        started = self.generation > 0
        return Adapter(card, self.offsets[None], self.head.layers()) if started else Adapter(card)

    def _kl_weight(self, number: int) -> float:
        """W while the evaluations so far are at most budget // n (207, 220), then 0."""
        steps = number * self.config.population
        budget = self.config.paper_budget if self.config.paper_exact else self.plan.budget
        kept = steps <= budget // self.config.kl_fraction
        return self.config.kl_weight if kept else 0.0

    def _measure(self, fitness: tuple[float, ...]) -> dict[str, float]:
        """The search's diagnostics, from numbers already bought."""
        return {
            "sigma": self.search.sigma,
            "fitness_best": min(fitness),
            "fitness_median": float(np.median(fitness)),
            "fitness_lowest": self.search.best,
            "offset_rms": float(np.sqrt(np.mean(self.offsets**2))),
            "kept_variance": self.kept_variance,
        }
