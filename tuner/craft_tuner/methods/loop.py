"""A fit as a sequence of committed generations: go on, commit, tell, keep the best so far.

Owns the order of replay, generation, commit and progress for every method that searches. Must not
know what a generation does.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from craft_shared.tensors import Tensors
from craft_tuner.adapter.adapter import Adapter
from craft_tuner.errors import BudgetExhausted, FitDiverged, RunError
from craft_tuner.methods.base import OnProgress, Progress
from craft_tuner.runs import journal
from craft_tuner.runs.diagnostics import Diagnostics
from craft_tuner.runs.journal import Generation, Metrics
from craft_tuner.runs.run import Run
from craft_tuner.search.base import Search, Vector, digest


@dataclass(frozen=True)
class Bought:
    """What one generation asked and learnt."""

    z: Vector
    """Float64 (P, d)."""
    fitness: tuple[float, ...]
    """(P,), as told to the search."""
    metrics: Metrics


class Work(Protocol):
    """A method at work on a task: what `fit_generations` drives."""

    @property
    def search(self) -> Search:
        """What asks and is told."""
        ...

    def generation(self, number: int) -> Bought:
        """Ask, tell and train once; `number` counts from 1 and names the questions."""
        ...

    def state(self) -> Tensors:
        """Float32 tensors that, with the search, are the whole state."""
        ...

    def load(self, state: Tensors) -> None:
        """Continue from `state`; the search is replayed already."""
        ...

    def adapter(self, training: dict[str, Any]) -> Adapter:
        """What the state is worth now; the identity before the first generation."""
        ...


def fit_generations(work: Work, run: Run, on_progress: OnProgress) -> Adapter:
    """Run, or resume, until the search stops; the adapter is then saved in the run.

    Raises:
        BudgetExhausted: the box refused; the adapter of the last generation is saved.
        FitDiverged: numbers are not finite; the adapter of the last generation is saved.
    """
    past = run.restore()
    replay(work.search, past.journal)
    if past.journal:
        work.load(past.tensors)
    watch = Diagnostics(past.metrics)
    kept = work.adapter(_training(work.search, run))
    while work.search.stopped is None:
        started = time.monotonic()
        try:
            bought = work.generation(work.search.generation + 1)
        except (BudgetExhausted, FitDiverged) as error:
            run.save_adapter(kept)
            raise type(error)(f"{error} {_consolation(kept, run)}") from error
        metrics = _commit(work, run, bought, seconds=time.monotonic() - started)
        kept = work.adapter(_training(work.search, run))
        warnings = watch.observe(metrics, last=work.search.stopped is not None)
        on_progress(_progress(run, metrics, warnings))
    run.save_adapter(kept)
    return kept


def _commit(work: Work, run: Run, bought: Bought, *, seconds: float) -> Metrics:
    """Make the generation count; see `craft_tuner.runs.journal` for the order of writes."""
    generation, queries = work.search.generation, _queries(work.search, run)
    spent = {"generation": generation, "queries": queries, "seconds": seconds}
    metrics = {**spent, **bought.metrics}
    line = journal.Generation(
        generation=generation,
        fitness=bought.fitness,
        asked=digest(bought.z),
        queries=queries,
    )
    run.commit(line, metrics, work.state())
    return metrics


def _queries(search: Search, run: Run) -> int:
    """Queries of the generations done: every generation costs the same."""
    return search.generation * (run.plan.fit.queries // run.plan.generations)


def _training(search: Search, run: Run) -> dict[str, Any]:
    """The adapter card's word on how far the fit came; the same for the same fit."""
    return {
        "generations": search.generation,
        "generations_planned": run.plan.generations,
        "queries": _queries(search, run),
        "fitness_lowest": search.best if search.generation else None,
        "stopped": search.stopped or "not finished",
    }


def _consolation(kept: Adapter, run: Run) -> str:
    done = kept.card.training["generations"]
    return (
        f"The adapter of generation {done} of {run.plan.generations} is saved in {run.path}; it "
        f"can be used, and --resume {run.path} goes on from there once the cause is gone"
    )


def _progress(run: Run, metrics: Metrics, warnings: tuple[str, ...]) -> Progress:
    return Progress(
        generation=int(metrics["generation"]),
        generations=run.plan.generations,
        queries=int(metrics["queries"]),
        queries_planned=run.plan.fit.queries,
        metrics=metrics,
        warnings=warnings,
    )


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
