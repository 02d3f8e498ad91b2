"""What the cells of a bench will cost, before any of them begins.

Owns the plan of each cell, the sum, and the refusal of what cannot be paid. Writes nothing, and
asks a server only by `check`.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from operator import attrgetter
from pathlib import Path

from craft_shared.messages import Budgets, Counters, ModelCard, Policy
from craft_tuner.bench.grid import Cell, Grid
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
    refusal: str = ""


@dataclass(frozen=True)
class Bill:
    """What a cell that is to be done still costs."""

    cell: Cell
    left: Counters


def plan_grid(
    grid: Grid,
    card: ModelCard,
    policy: Policy | None = None,
    *,
    outside: Sequence[Path] = (),
    check: Callable[[Foreseen], None] = lambda _: None,
) -> list[Planned]:
    """Every cell with its plan, dataset by dataset, method by method.

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
        for plan in [partial(_plan_cell, dataset, Terms(card, policy), check)]
        for method in grid.methods
        for planned in _plan_method(grid, source, method, plan=plan)
    ]


def _plan_method(
    grid: Grid, source: str, method: str, *, plan: Callable[[Cell], Planned]
) -> Iterator[Planned]:
    alone = plan(grid.alone(source, method))
    if alone.plan and {phase.purpose for phase in alone.plan.phases} <= _TESTS:
        yield alone
        return
    for cell in grid.cells(source, method):
        yield plan(cell)


def _plan_cell(
    dataset: Dataset, terms: Terms, check: Callable[[Foreseen], None], cell: Cell
) -> Planned:
    try:
        foreseen = plan_fit(cell.config, dataset, terms)
        check(foreseen)
        return Planned(cell, foreseen.plan)
    except CraftTunerError as error:
        return Planned(cell, None, error.message)


def check_payable(bills: Sequence[Bill], budgets: Budgets) -> None:
    """Refuse cells that the key cannot pay all of.

    Raises:
        BudgetExhausted: says what there is to leave out, and how much that saves.
    """
    for name, left in left_of(budgets).items():
        _check(bills, left, words(name), attrgetter(name))


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
        f"leave some out, or ask the server's owner for more. Their shares:{shares}"
    )


def _shares(
    bills: Iterable[Bill], key: Callable[[Cell], object], count: Callable[[Counters], int]
) -> Iterator[str]:
    sums: dict[object, int] = {}
    for bill in bills:
        sums[key(bill.cell)] = sums.get(key(bill.cell), 0) + count(bill.left)
    for value, share in sums.items():
        yield f"{value} {share:,}"
