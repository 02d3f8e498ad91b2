"""The one loop of every fit: restore, then generation by generation train, commit and report.

The adapter of the last finished generation is kept, so that a fit that is refused or diverges
leaves something that can be used. It is saved now and then, so that one that is killed does too.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, Protocol, TypeVar

from craft_shared.tensors import Tensors
from craft_tuner.activity import Work, doing
from craft_tuner.adapter.adapter import Adapter
from craft_tuner.errors import BudgetExhausted, FitDiverged, RunError
from craft_tuner.methods.base import OnProgress, Progress
from craft_tuner.methods.recorder import Recorder
from craft_tuner.plan import Plan
from craft_tuner.runs.diagnostics import Diagnostics
from craft_tuner.runs.journal import NOT_FINISHED, Checkpoint, Generation, Metrics
from craft_tuner.search.base import Search, digest

SAVING = 1 / 20
"""The share of a fit's time that saving adapters on the way may take."""

S = TypeVar("S", bound=Search)


@dataclass(frozen=True)
class Step:
    """What one generation asked and learnt."""

    asked: str
    """A digest of what was asked, for the journal."""
    fitness: tuple[float, ...] = ()
    """What a replay of the journal needs."""
    metrics: Metrics = field(default_factory=dict)


class Training(Protocol):
    """A method at work on one task: what `fit_generations` drives."""

    @property
    def generation(self) -> int:
        """How many generations are done."""
        ...

    @property
    def stopped(self) -> str | None:
        """Why training is over, for people; None while it is not."""
        ...

    def queries(self, plan: Plan) -> int:
        """How many queries the generations done have cost."""
        ...

    def restore(self, past: Checkpoint) -> None:
        """Bring a new training to the state after `past`, without a query that is not paid."""
        ...

    def step(self) -> Step:
        """Ask and learn once: one generation."""
        ...

    def state(self) -> Tensors:
        """Float32 tensors that, with the journal, are the whole state."""
        ...

    def facts(self) -> Mapping[str, Any]:
        """What the adapter's card says of training, beside generations, queries and the end."""
        ...

    def adapter(self, training: dict[str, Any]) -> Adapter:
        """What the state is worth now; the plain prompt before the first generation."""
        ...


def fit_generations(training: Training, recorder: Recorder, on_progress: OnProgress) -> Adapter:
    """Train, or go on, until `training.stopped`; the adapter is then saved by the recorder.

    Raises:
        BudgetExhausted: the box refused; the adapter of the last generation is saved.
        FitDiverged: numbers are not finite; the adapter of the last generation is saved.
    """
    past = recorder.restore()
    with doing("restoring what was done"):
        training.restore(past)
    watch = Diagnostics(past.metrics)
    generations = doing(
        "training", total=recorder.plan.generations, unit="generations", done=training.generation
    )
    with generations as work:
        return _train(training, recorder, watch, on_progress=on_progress, work=work)


def _train(
    training: Training,
    recorder: Recorder,
    watch: Diagnostics,
    *,
    on_progress: OnProgress,
    work: Work,
) -> Adapter:
    kept, due = _adapter(training, recorder.plan), 0.0
    while training.stopped is None:
        started = time.monotonic()
        try:
            step = training.step()
        except (BudgetExhausted, FitDiverged) as error:
            recorder.save_adapter(kept)
            done = kept.card.training["generations"]
            raise type(error)(f"{error} {recorder.kept(done)}") from error
        metrics = _commit(training, recorder, step, seconds=time.monotonic() - started)
        kept = _adapter(training, recorder.plan)
        due = _save_if_due(recorder, kept, due)
        work.done = training.generation
        warnings = watch.observe(metrics, last=training.stopped is not None)
        on_progress(_progress(recorder.plan, metrics, warnings))
    recorder.save_adapter(kept)
    return kept


def _save_if_due(recorder: Recorder, kept: Adapter, due: float) -> float:
    """Save an adapter of a fit that goes on; when the next one is due, on the monotonic clock."""
    began = time.monotonic()
    if began < due:
        return due
    recorder.save_adapter(kept)
    now = time.monotonic()
    return now + (now - began) / SAVING


def _commit(training: Training, recorder: Recorder, step: Step, *, seconds: float) -> Metrics:
    """Make the generation count; see `craft_tuner.runs.journal` for the order of writes."""
    generation, queries = training.generation, training.queries(recorder.plan)
    spent = {"generation": generation, "queries": queries, "seconds": seconds}
    metrics = {**spent, **step.metrics}
    line = Generation(
        generation=generation, fitness=step.fitness, asked=step.asked, queries=queries
    )
    recorder.commit(line, metrics, training.state())
    return metrics


def _adapter(training: Training, plan: Plan) -> Adapter:
    """The adapter, whose card says how far the fit came; the same for the same fit."""
    return training.adapter(
        {
            "generations": training.generation,
            "generations_planned": plan.generations,
            "queries": training.queries(plan),
            **training.facts(),
            "stopped": training.stopped or NOT_FINISHED,
        }
    )


def _progress(plan: Plan, metrics: Metrics, warnings: tuple[str, ...]) -> Progress:
    return Progress(
        generation=int(metrics["generation"]),
        generations=plan.generations,
        queries=int(metrics["queries"]),
        queries_planned=plan.fit.queries,
        metrics=metrics,
        warnings=warnings,
        validated=plan.validation > 0,
    )


class SearchTraining(Generic[S]):
    """What trainings around a search have in common; the search alone is the state.

    A subclass gives `step` and `adapter`.
    """

    search: S

    @property
    def generation(self) -> int:
        """See `Training`."""
        return self.search.generation

    @property
    def stopped(self) -> str | None:
        """See `Training`."""
        return self.search.stopped

    def queries(self, plan: Plan) -> int:
        """See `Training`; every generation costs the same."""
        return self.generation * (plan.fit.queries // plan.generations)

    def restore(self, past: Checkpoint) -> None:
        """See `Training`; the search is replayed."""
        replay(self.search, past.journal)

    def state(self) -> Tensors:
        """Nothing beside the search."""
        return {}

    def facts(self) -> Mapping[str, Any]:
        """The lowest fitness."""
        return {"fitness_lowest": self.search.best if self.generation else None}


def replay(search: Search, lines: Sequence[Generation]) -> None:
    """Bring a new search to the state after these generations, without a query (decision 0006).

    Raises:
        RunError: this machine's arithmetic asks other points than the journal recorded.
    """
    for line in lines:
        if digest(search.ask()) != line.asked:
            raise RunError(
                f"generation {line.generation} cannot be replayed: this machine's arithmetic "
                "draws other prompts; resume where the run was started, with its numpy and cma"
            )
        search.tell(line.fitness)
