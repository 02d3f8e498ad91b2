"""Head only: the refinement head of CraFT on the logits of the plain text prompt.

Source: CraFT (arXiv 2402.04050), prediction refinement module; official code mrflogs/CraFT
@1a4c251, main_craft.py:185-223, with the prompt left at p0. Nothing is searched, so a view's logits
never change: each of the V views costs one query, and every epoch after that is free. Sends text
prompts, so a server that sells no soft ones will do. The logits of all views are in memory at once:
V x N x K float32, 0.5 GB for ImageNet's 8 x 16,000 x 1,000.
"""

import hashlib
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

from pydantic import Field

from craft_shared.messages import Budgets, PromptKind
from craft_shared.tensors import Tensors
from craft_tuner.activity import doing
from craft_tuner.adapter.adapter import Adapter, describe
from craft_tuner.blackbox import BlackBox, FloatArray, Images, Purpose, Task
from craft_tuner.config.fit_config import FitConfig
from craft_tuner.config.method_settings import MethodSettings
from craft_tuner.heads.best_epoch import BestEpoch
from craft_tuner.methods.base import Method, OnProgress
from craft_tuner.methods.loop import Step, fit_generations
from craft_tuner.methods.recorder import Recorder
from craft_tuner.plan import Phase, Plan, Workload, plan_phases, price
from craft_tuner.runs.journal import Checkpoint


class HeadOnlySettings(MethodSettings):
    """How long."""

    head_epochs: int | None = Field(
        None,
        ge=1,
        le=100_000,
        description="head_only: passes of the head; none: CraFT's generations at these shots",
    )


class HeadOnly(Method):
    """One query a view, then epochs for nothing."""

    name = "head_only"
    summary = "CraFT's head alone, on the plain prompt: one query a view, then training for nothing"
    prompt_kind: ClassVar[PromptKind | None] = "text"
    settings = HeadOnlySettings
    levers = ("views",)
    validated = True

    def views(self, config: FitConfig) -> int:
        """As many as there are epochs to see them."""
        return views_read(config)

    def plan(self, config: FitConfig, work: Workload, budgets: Budgets | None = None) -> Plan:
        """V queries per image set of the shots, and one of the validation images."""
        views = views_read(config)
        bought = price(
            "head",
            f"{views} views x {work.shots:,} shots",
            prompts=views,
            images=work.shots,
            sets=work.shot_sets,
            names=work.classes,
            calls=views,
            told=work.told,
        )
        phases = (bought, *_validated(work))
        plan = plan_phases(config, work, budgets, phases=phases, lever="--views")
        own = {"generations": epochs(config), "population": 1, "validation": work.validation}
        return plan.model_copy(update=own)

    def fit(
        self, box: BlackBox, task: Task, *, recorder: Recorder, on_progress: OnProgress
    ) -> Adapter:
        """See `Method.fit`; a generation is an epoch of the head."""
        return fit_generations(HeadTraining(box, task, recorder), recorder, on_progress)


def epochs(config: FitConfig) -> int:
    """Passes over the shots: as many as CraFT has generations in the paper's budget, or as set."""
    own = config.of(HeadOnlySettings)
    return own.head_epochs or max(1, config.paper_budget // (config.population + 1))


def _validated(work: Workload) -> Iterator[Phase]:
    """The plain prompt on the validation images, where there are some."""
    if work.validation:
        yield price(
            "validation",
            f"{work.validation:,} validation images",
            prompts=1,
            images=work.validation,
            sets=work.validation_sets,
            names=work.classes,
            told=work.told,
        )


def views_read(config: FitConfig) -> int:
    """V, the views that are bought: no more than there are epochs."""
    return min(config.views, epochs(config))


class HeadTraining:
    """The head at work on one task."""

    def __init__(self, box: BlackBox, task: Task, recorder: Recorder) -> None:
        with doing("loading torch", at_once=True):
            from craft_tuner.methods.head_trainer import HeadTrainer  # noqa: PLC0415 - needs torch

        self._box, self._task, self._config = box, task, recorder.config
        self._epochs = recorder.plan.generations
        self._apart = task.validation
        folds = {"validation_folds": 0} if self._apart else {}
        of_head = self._config.model_copy(update=folds)
        self._head = HeadTrainer(len(task.texts.class_names), task.labels, of_head)
        self._logits: list[FloatArray] = []
        self._unseen: FloatArray | None = None
        self._best = BestEpoch()
        self.generation = 0

    @property
    def stopped(self) -> str | None:
        """See `Training`."""
        return "the plan's epochs are done" if self.generation >= self._epochs else None

    def queries(self, plan: Plan) -> int:
        """See `Training`; all are bought in the first epoch."""
        return plan.fit.queries if self.generation else 0

    def restore(self, past: Checkpoint) -> None:
        """Load the heads."""
        if past.generation:
            self._head.load(past.tensors)
            if self._apart:
                self._best.load(past.tensors)
            self.generation = past.generation

    def step(self) -> Step:
        """One epoch on the next view (main_craft.py:210-223)."""
        self._logits = self._logits or self._buy()
        number = self.generation + 1
        logits = self._logits[(number - 1) % len(self._logits)]
        metrics = self._head.epoch(
            logits, number=number, kl_weight=self._kl_weight(number), name="epoch"
        )
        metrics |= self._validate(number)
        self.generation = number
        asked = hashlib.sha256(logits.tobytes()).hexdigest()
        return Step(asked, (metrics["head_loss"],), metrics)

    def state(self) -> Tensors:
        """The heads, and which was the best."""
        return self._head.state() | (self._best.state() if self._apart else {})

    def facts(self) -> Mapping[str, Any]:
        """Which epoch's head was chosen, where one is."""
        if self._apart is None:
            return {}
        images, epoch = self._apart.images.count, self._best.epoch
        return {"chosen_on": {"validation_images": images, "epoch": epoch}}

    def adapter(self, training: dict[str, Any]) -> Adapter:
        """The plain prompt with the head as it is, or as it was best on validation images.

        Without an epoch, the zero-shot model.
        """
        config = self._config.model_dump(mode="json")
        card = describe(
            self._task.texts, self._box.card, method=HeadOnly.name, config=config, training=training
        )
        if self._apart:
            return Adapter(card, head=self._best.layers)
        return Adapter(card, head=self._head.layers() if self.generation else ())

    def _validate(self, number: int) -> dict[str, float]:
        """Judge the epoch's head on the validation images; what is asked of them is asked once."""
        if self._apart is None:
            return {}
        labels = self._apart.labels
        if self._unseen is None:
            self._unseen = self._ask(self._apart.images, purpose="validation", step="validation")
        if number == 1:
            self._best.observe(self._unseen, labels, epoch=0)
        refined = self._head.refine(self._unseen)
        self._best.observe(refined, labels, epoch=number, layers=self._head.layers())
        return {"heldout_accuracy": float((refined.argmax(axis=1) == labels).mean())}

    def _buy(self) -> list[FloatArray]:
        """Logits float32 (N, K) of each view under the plain prompt; one query a view."""
        return [
            self._ask(view, purpose="head", step=f"head/{number}")
            for number, view in enumerate(self._task.views[: views_read(self._config)], 1)
        ]

    def _ask(self, images: Images, *, purpose: Purpose, step: str) -> FloatArray:
        """Logits float32 (N, K) under the plain prompt."""
        texts = self._task.texts
        asked = self._box.score_templates(
            texts, [texts.template], images, purpose=purpose, step=step
        )
        logits: FloatArray = asked[0]
        return logits

    def _kl_weight(self, number: int) -> float:
        """As long in epochs as CraFT's in generations (207, 220)."""
        steps = number * self._config.population
        kept = steps <= self._config.paper_budget // self._config.kl_fraction
        return self._config.kl_weight if kept else 0.0
