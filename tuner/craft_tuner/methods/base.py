"""The interface of every method: plan within a budget, then fit, which gives an adapter.

A method asks its black box and reads its task; it must not know HTTP, files or test images. The
caller plans, shows the plan, and only then fits:

    plan = method.plan(run.config, Workload.of(task, test), box.budgets())
    run.save_plan(plan)
    adapter = method.fit(box, task, run=run, on_progress=show)
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

from craft_shared.messages import Budgets, PromptKind
from craft_tuner.adapter.adapter import Adapter
from craft_tuner.blackbox import BlackBox, Task
from craft_tuner.config.fit_config import FitConfig
from craft_tuner.plan import Plan, Workload
from craft_tuner.runs.run import Run


@dataclass(frozen=True)
class Progress:
    """One finished generation, as told to whoever watches."""

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


OnProgress = Callable[[Progress], None]


class Method(Protocol):
    """One way to adapt a black box; one paper or idea per file."""

    @property
    def name(self) -> str:
        """Its name in the registry and in `FitConfig.method`."""
        ...

    @property
    def summary(self) -> str:
        """One line for people who choose."""
        ...

    @property
    def prompt_kind(self) -> PromptKind | None:
        """The kind of prompts that it sends; None: soft where the key may, else text."""
        ...

    def views(self, config: FitConfig) -> int:
        """How many augmented views of the shots `fit` reads; `task.views` needs that many."""
        ...

    def plan(self, config: FitConfig, work: Workload, budgets: Budgets | None = None) -> Plan:
        """What the run will cost; asks nothing.

        Raises:
            BudgetExhausted: it cannot be paid; the sentence says what to change.
        """
        ...

    def fit(self, box: BlackBox, task: Task, *, run: Run, on_progress: OnProgress) -> Adapter:
        """Adapt, or go on with a run that was interrupted, and save the adapter in the run.

        Uses `run.config` and `run.plan`. Never asks about test images.

        Raises:
            BudgetExhausted: the box refused a question; the adapter of the last finished
                generation is saved in the run.
            RunError: the run was started on another task.
            WrongModel: the run was started on another model.
        """
        ...
