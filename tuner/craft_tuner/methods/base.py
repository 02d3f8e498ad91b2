"""The interface of every method: plan within a budget, then fit, which gives an adapter.

The caller plans, shows the plan, and only then fits:

    plan = method.plan(config, Workload.of(task, test), box.budgets())
    adapter = method.fit(box, task, recorder=MemoryRecorder(config, plan), on_progress=show)

docs/method.md says how to add one.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar

from craft_shared.messages import Budgets, ModelCard, PromptKind
from craft_tuner.adapter.adapter import Adapter
from craft_tuner.blackbox import BlackBox, Task, Texts, Wording
from craft_tuner.config.fit_config import FitConfig
from craft_tuner.config.method_settings import MethodSettings
from craft_tuner.errors import AccessDenied
from craft_tuner.methods.recorder import Recorder
from craft_tuner.plan import Plan, Workload


@dataclass(frozen=True)
class Progress:
    """One finished generation, for those who watch."""

    generation: int
    """How many generations are done, from 1."""
    generations: int
    """How many the plan has."""
    queries: int
    """Queries that this fit has spent, from the run's start (a resumed run counts on)."""
    queries_planned: int
    """Queries that the whole fit will spend: `plan.fit.queries`."""
    metrics: Mapping[str, float]
    """The generation's line of metrics.jsonl (names: see `craft_tuner.runs.diagnostics`)."""
    warnings: tuple[str, ...] = ()
    """Sentences for the user, each given once in a run."""
    validated: bool = False
    """Whether choices are made on validation images."""


OnProgress = Callable[[Progress], None]


class Method(ABC):
    """One way to adapt a black box; one paper or idea a file.

    Its module is imported to list its settings: import torch and other large libraries in `fit`.
    """

    name: ClassVar[str]
    """As in the registry and in `FitConfig.method`."""
    summary: ClassVar[str]
    """One line for people who choose."""
    prompt_kind: ClassVar[PromptKind | None] = None
    """The kind of prompts that it sends; None: soft where the key may, else text."""
    settings: ClassVar[type[MethodSettings] | None] = None
    """Its own settings; None: those that all methods share are enough."""
    levers: ClassVar[tuple[str, ...]] = ()
    """Settings that lower its price, for the refusal of a plan that cannot be paid."""
    bundled: ClassVar[bool] = False
    """Whether it asks about shots and views together: `task.bundle`, and then no `task.views`."""
    validated: ClassVar[bool] = False
    """Whether it makes choices on `task.validation` where there is one; else it is refused."""

    def check_key(self, card: ModelCard) -> None:
        """Refuse a key that may not send this method's prompts.

        Raises:
            AccessDenied: says which prompts it may send.
        """
        if self.prompt_kind and self.prompt_kind not in card.prompt_kinds:
            allowed = ", ".join(card.prompt_kinds) or "no"
            raise AccessDenied(
                f"--method {self.name} sends {self.prompt_kind} prompts, and this key may send "
                f"{allowed} prompts to {card.id}; choose another method or ask the server's owner"
            )

    def views(self, config: FitConfig) -> int:
        """How many augmented views of the shots `fit` reads; `task.views` needs that many."""
        return 0

    def views_of(self, config: FitConfig, plan: Plan) -> int:
        """How many of them, the first, it reads with this plan; no others are uploaded."""
        return self.views(config)

    @abstractmethod
    def plan(self, config: FitConfig, work: Workload, budgets: Budgets | None = None) -> Plan:
        """What the run will cost; asks nothing.

        Raises:
            BudgetExhausted: it cannot be paid; the sentence says what to change.
        """

    def wordings(
        self, config: FitConfig, plan: Plan, texts: Texts, card: ModelCard
    ) -> tuple[Wording, ...]:
        """The words of all that it will ask, as far as they are known before it asks.

        They are checked before anything is uploaded. `texts` are the task's, as are those of the
        zero-shot test. By default, its prompts differ from these by offsets or not at all.
        """
        if self.prompt_kind != "text" and "soft" in card.prompt_kinds:
            return (Wording(texts, context_tokens=config.n_ctx),)
        return (Wording(texts, (texts.template,)),)

    @abstractmethod
    def fit(
        self, box: BlackBox, task: Task, *, recorder: Recorder, on_progress: OnProgress
    ) -> Adapter:
        """Adapt, or go on with a fit that was interrupted, and save the adapter.

        Uses `recorder.config` and `recorder.plan`. Never asks about test images.

        Raises:
            BudgetExhausted: the box refused a question; the adapter of the last finished
                generation is saved.
            RunError: the fit was begun on a machine whose arithmetic differs.
        """
