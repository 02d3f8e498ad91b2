"""A fit without a run directory, a server of ours or a terminal: a black box in, an adapter out."""

from dataclasses import dataclass

from craft_tuner import methods
from craft_tuner.adapter.adapter import Adapter
from craft_tuner.blackbox import BlackBox, Task
from craft_tuner.config.fit_config import FitConfig
from craft_tuner.methods import MemoryRecorder, OnProgress, affordable
from craft_tuner.plan import Plan, Workload, check_names
from craft_tuner.runs.journal import Metrics
from craft_tuner.training.watcher import SILENT


@dataclass(frozen=True)
class Fitted:
    """What came of a fit."""

    adapter: Adapter
    plan: Plan
    """What it was allowed to spend, and did."""
    metrics: tuple[Metrics, ...]
    """One mapping a generation (names: see `craft_tuner.runs.diagnostics`)."""


def fit_in_memory(
    box: BlackBox, task: Task, *, config: FitConfig, on_progress: OnProgress = SILENT.generation
) -> Fitted:
    """Plan within what `box` has left, and fit; no file is read or written.

    To go on with a fit that stopped, use `method.fit` with one `MemoryRecorder` twice.

    Args:
        box: answers questions, say `craft_tuner.client.client.Client` or an object of your own.
        task: shots with labels, and as many views as `method.views(config)`, or a bundle for a
            method that is `bundled`.
        config: from `craft_tuner.config.fit_config.build`.
        on_progress: called after each generation.

    Raises:
        AccessDenied: the key may not send the method's prompts, or not ask about these classes.
        BudgetExhausted: it cannot be paid.
        UsageError: there is no such method.
    """
    method = methods.get(config.method)
    method.check_key(box.card)
    check_names(box.card, task.texts.class_names)
    plan = affordable(method, config, Workload.of(task, card=box.card), box.budgets())
    recorder = MemoryRecorder(config, plan)
    adapter = method.fit(box, task, recorder=recorder, on_progress=on_progress)
    return Fitted(adapter, plan, recorder.metrics)
