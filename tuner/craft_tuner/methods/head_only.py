"""Head only: the refinement head of CraFT on the logits of the plain text prompt.

Source: CraFT (arXiv 2402.04050), prediction refinement module; official code mrflogs/CraFT
@1a4c251, main_craft.py:185-223, with the prompt left at p0. Nothing is searched, so a view's logits
never change: each of the V views costs one query, and every epoch after that is free. Sends text
prompts, so a server that sells no soft ones will do. The logits of all views are in memory at once:
V x N x K float32, 0.5 GB for ImageNet's 8 x 16,000 x 1,000.
"""

import hashlib
import math
import time
from typing import Any

from craft_shared.messages import Budgets, PromptKind
from craft_tuner.adapter.adapter import Adapter, describe
from craft_tuner.blackbox import BlackBox, FloatArray, Task
from craft_tuner.config.fit_config import FitConfig
from craft_tuner.errors import BudgetExhausted, FitDiverged
from craft_tuner.heads.fold_heads import FoldHeads, head_metrics
from craft_tuner.heads.residual import Head
from craft_tuner.methods.base import OnProgress, Progress
from craft_tuner.plan import Plan, Workload, plan_phases, price
from craft_tuner.runs.diagnostics import Diagnostics
from craft_tuner.runs.journal import Generation, Metrics
from craft_tuner.runs.run import Run


class HeadOnly:
    """One query a view, then epochs for nothing."""

    name = "head_only"
    summary = "CraFT's head alone, on the plain prompt: one query a view, then training for nothing"
    prompt_kind: PromptKind = "text"

    def views(self, config: FitConfig) -> int:
        """As many as there are epochs to see them."""
        return views_read(config)

    def plan(self, config: FitConfig, work: Workload, budgets: Budgets | None = None) -> Plan:
        """V queries per image set of the shots."""
        views = views_read(config)
        bought = price(
            "head",
            f"{views} views x {work.shots:,} shots",
            prompts=views,
            images=work.shots,
            sets=work.shot_sets,
            names=work.classes,
            calls=views,
        )
        plan = plan_phases(config, work, budgets, phases=(bought,), lever="--views")
        return plan.model_copy(update={"generations": epochs(config), "population": 1})

    def fit(self, box: BlackBox, task: Task, *, run: Run, on_progress: OnProgress) -> Adapter:
        """See `Method.fit`; a generation is an epoch of the head."""
        run.bind(task, box.card)
        training = Training(box, task, run)
        try:
            training.train(on_progress)
        except (BudgetExhausted, FitDiverged):
            run.save_adapter(training.adapter())
            raise
        adapter = training.adapter()
        run.save_adapter(adapter)
        return adapter


def epochs(config: FitConfig) -> int:
    """Passes over the shots: as many as CraFT has generations in the paper's budget, or as set."""
    return config.head_epochs or max(1, config.paper_budget // (config.population + 1))


def views_read(config: FitConfig) -> int:
    """V, the views that are bought: no more than there are epochs."""
    return min(config.views, epochs(config))


class Training:
    """The head at work on one task."""

    def __init__(self, box: BlackBox, task: Task, run: Run) -> None:
        self.box, self.task, self.run, self.config = box, task, run, run.config
        classes = len(task.texts.class_names)
        self.head = Head(classes, self.config)
        self.folds = FoldHeads(classes, task.labels, self.config)
        self.epoch = 0

    def train(self, on_progress: OnProgress) -> None:
        """All epochs that are not committed yet."""
        past, last = self.run.restore(), self.run.plan.generations
        if past.generation:
            self.head.load(past.tensors)
            self.folds.load(past.tensors)
            self.epoch = past.generation
        watch = Diagnostics(past.metrics)
        logits = self._buy() if self.epoch < last else []
        while self.epoch < last:
            metrics = self._pass(logits)
            # Not `last`: that the result rests on the head is what this method is.
            on_progress(self._progress(metrics, watch.observe(metrics)))

    def adapter(self) -> Adapter:
        """The plain prompt with the head as it is; without an epoch, the zero-shot model."""
        done = self.epoch == self.run.plan.generations
        training: dict[str, Any] = {
            "generations": self.epoch,
            "generations_planned": self.run.plan.generations,
            "queries": self.run.plan.fit.queries if self.epoch else 0,
            "stopped": "the plan's epochs are done" if done else "not finished",
        }
        config = self.config.model_dump(mode="json")
        card = describe(
            self.task.texts, self.box.card, method="head_only", config=config, training=training
        )
        return Adapter(card, head=self.head.layers() if self.epoch else ())

    def _buy(self) -> list[FloatArray]:
        """Logits float32 (N, K) of each view under the plain prompt; one query a view."""
        plain = [self.task.texts.template]
        return [
            self.box.score_templates(
                self.task.texts, plain, view, purpose="head", step=f"head/{number}"
            )[0]
            for number, view in enumerate(self.task.views[: views_read(self.config)], 1)
        ]

    def _pass(self, logits: list[FloatArray]) -> Metrics:
        """One epoch on the next view (main_craft.py:210-223), committed."""
        started, number = time.monotonic(), self.epoch + 1
        raw = logits[(number - 1) % len(logits)]
        kl_weight = self._kl_weight(number)
        passed = self.head.epoch(raw, self.task.labels, generation=number, kl_weight=kl_weight)
        if not math.isfinite(passed.loss):
            raise FitDiverged(f"epoch {number}: the head's loss is {passed.loss}; lower --lr.")
        self.folds.epoch(raw, generation=number, kl_weight=kl_weight)
        queries = self.run.plan.fit.queries
        metrics = {
            "generation": number,
            "queries": queries,
            "seconds": time.monotonic() - started,
            **head_metrics(self.head, self.folds, raw, epoch=passed, kl_weight=kl_weight),
        }
        line = Generation(
            generation=number,
            fitness=(passed.loss,),
            asked=hashlib.sha256(raw.tobytes()).hexdigest(),
            queries=queries,
        )
        self.run.commit(line, metrics, {**self.head.state(), **self.folds.state()})
        self.epoch = number
        return metrics

    def _kl_weight(self, number: int) -> float:
        """As long in epochs as CraFT's in generations (207, 220)."""
        steps = number * self.config.population
        kept = steps <= self.config.paper_budget // self.config.kl_fraction
        return self.config.kl_weight if kept else 0.0

    def _progress(self, metrics: Metrics, warnings: tuple[str, ...]) -> Progress:
        return Progress(
            generation=self.epoch,
            generations=self.run.plan.generations,
            queries=self.run.plan.fit.queries,
            queries_planned=self.run.plan.fit.queries,
            metrics=metrics,
            warnings=warnings,
        )
