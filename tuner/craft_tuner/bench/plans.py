"""What the cells of a bench will cost, before any of them begins.

Owns the plan of each cell, the sum, and the refusal of what cannot be paid. Writes nothing, and
asks a server only by `check`.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from operator import attrgetter
from pathlib import Path

from craft_shared.messages import Budgets, Counters
from craft_tuner.bench.grid import Cell, Grid
from craft_tuner.config.fit_config import FitConfig
from craft_tuner.data.dataset import Dataset
from craft_tuner.data.sources import read_dataset
from craft_tuner.errors import BudgetExhausted, CraftTunerError
from craft_tuner.plan import Plan, left_of, words
from craft_tuner.training.foresight import Foreseen, Terms, plan_fit

_TESTS = {"zero-shot", "test"}


@dataclass(frozen=True)
class Planned:
    """A cell with its plan, or with the reason why it cannot be run."""

    cell: Cell
    plan: Plan | None
    """That of `fit` for this key; where this key cannot pay it, that for a key without limits."""
    refusal: str = ""
    unpaid: str = ""
    """Why this key cannot pay it; empty where it can."""
    smaller: bool = False
    """Whether this key's limits make it smaller than its settings do."""


@dataclass(frozen=True)
class Bill:
    """What a cell that is to be done still costs."""

    cell: Cell
    left: Counters


def plan_grid(
    grid: Grid,
    terms: Terms,
    *,
    outside: Sequence[Path] = (),
    check: Callable[[Foreseen], None] = lambda _: None,
) -> list[Planned]:
    """Every cell with its plan, dataset by dataset, method by method, each as if it were alone.

    A method that asks about nothing but test images cannot depend on shots, seed or budget: it has
    one cell a dataset. Images may be in the folders `outside` beside their dataset's own.
    A plan that `check` refuses is a cell that cannot be run.

    Raises:
        DataError: a dataset cannot be read.
        UsageError: a setting is unknown or out of bounds.
    """
    return [
        planned
        for source in grid.data
        for dataset in [read_dataset(source, outside=outside)]
        for plan in [partial(_plan_cell, dataset, check)]
        for method in grid.methods
        for planned in _plan_method(grid, source, method, terms, plan=plan)
    ]


def _plan_method(
    grid: Grid, source: str, method: str, terms: Terms, *, plan: Callable[[Cell, Terms], Planned]
) -> Iterator[Planned]:
    cell = grid.alone(source, method)
    alone = plan(cell, replace(terms, budgets=None)).plan
    if alone and {phase.purpose for phase in alone.phases} <= _TESTS:
        yield plan(cell, terms)
        return
    for cell in grid.cells(source, method):
        yield plan(cell, terms)


def _plan_cell(
    dataset: Dataset, check: Callable[[Foreseen], None], cell: Cell, terms: Terms
) -> Planned:
    try:
        foreseen = plan_fit(cell.config, dataset, terms)
        check(foreseen)
        plan = foreseen.plan
        free = _free(dataset, cell, terms) if _may_be_smaller(plan, cell.config) else plan
    except BudgetExhausted as error:
        free = _free(dataset, cell, terms)
        if free is None:
            return Planned(cell, None, error.message)
        return Planned(cell, free, unpaid=error.message)
    except CraftTunerError as error:
        return Planned(cell, None, error.message)
    return Planned(cell, plan, smaller=free is not None and plan.total != free.total)


def _free(dataset: Dataset, cell: Cell, terms: Terms) -> Plan | None:
    """The plan for a key without limits; None where the settings allow none."""
    try:
        return plan_fit(cell.config, dataset, replace(terms, budgets=None)).plan
    except BudgetExhausted:
        return None


def _may_be_smaller(plan: Plan, config: FitConfig) -> bool:
    """Whether a limit of the key may have made it smaller."""
    return plan.budget < (config.budget or config.paper_budget) or plan.binds not in ("", "queries")


def check_payable(bills: Sequence[Bill], budgets: Budgets) -> None:
    """Refuse cells that the key cannot pay all of.

    Raises:
        BudgetExhausted: says what there is to leave out, and how much that saves.
    """
    for name, left in left_of(budgets).items():
        _check(bills, left, words(name), attrgetter(name))


def check_each(names: Mapping[str, Sequence[str]]) -> None:
    """Refuse cells that the key cannot pay one of; `names` are those, by the reason.

    Raises:
        BudgetExhausted: there are such cells.
    """
    if names:
        reasons = "; ".join(f"{short(cells)}: {why}" for why, cells in names.items())
        raise BudgetExhausted(f"nothing was begun, the key cannot pay {reasons}")


def short(names: Sequence[str]) -> str:
    """Three names, and how many more."""
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more


def _check(bills: Sequence[Bill], left: int, what: str, count: Callable[[Counters], int]) -> None:
    need = sum(count(bill.left) for bill in bills)
    if need <= left:
        return
    axes: dict[str, Callable[[Cell], object]] = {
        "--data": lambda cell: cell.title,
        "--methods": lambda cell: cell.config.method,
        "--shots": lambda cell: cell.config.shots,
        "--seeds": lambda cell: cell.config.seed,
        "--budgets": lambda cell: cell.config.budget or "the paper's",
    }
    shares = "".join(
        f"\n  {option}: {', '.join(_shares(bills, key, count))}" for option, key in axes.items()
    )
    raise BudgetExhausted(
        f"the cells need {need:,} {what} and the key has {left:,} left, {need - left:,} too few; "
        "leave some out, give each less (--budgets), or ask the server's owner for more. "
        f"Their shares:{shares}"
    )


def _shares(
    bills: Iterable[Bill], key: Callable[[Cell], object], count: Callable[[Counters], int]
) -> Iterator[str]:
    sums: dict[object, int] = {}
    for bill in bills:
        sums[key(bill.cell)] = sums.get(key(bill.cell), 0) + count(bill.left)
    for value, share in sums.items():
        yield f"{value} {share:,}"
