"""What is said before a bench begins: how its cells stand, and what those to be done still cost."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence

from craft_shared.messages import Budgets, Counters
from craft_tuner.bench.plans import Bill, short
from craft_tuner.bench.results_dir import CellStatus, spent
from craft_tuner.client.account import fetch_spent_by_run
from craft_tuner.client.purchases import add, subtract
from craft_tuner.client.transport import Transport
from craft_tuner.errors import AccessDenied
from craft_tuner.plan import LIMITS, Plan, amounts, left_of, left_words

Say = Callable[[str], None]


def bills_of(todo: Sequence[CellStatus], transport: Transport | None) -> list[Bill]:
    """What cells still cost: their plans less what the ledger says that their runs spent.

    The runs' own belief may lack the call that a kill cut off; it stands in for the ledger where
    the key may not read that, or no server is asked.
    """
    believed = {one.run_id: spent(one.run) for one in todo}
    try:
        ledger = believed if transport is None else fetch_spent_by_run(transport)
    except AccessDenied:
        ledger = believed
    return [Bill(one.cell, _left(one, ledger.get(one.run_id))) for one in todo]


def _left(status: CellStatus, bought: Counters | None) -> Counters:
    total = status.plan.total if status.plan else add([])
    bought = bought or add([])
    return subtract(total, bought)


def announce(
    say: Say,
    statuses: Sequence[CellStatus],
    bills: Sequence[Bill],
    budgets: Budgets | None = None,
) -> None:
    """Say how the cells stand and what they will cost, method by method."""
    counts = Counter(one.state for one in statuses)
    states = ", ".join(f"{count} {state}" for state, count in counts.items())
    say(f"{len(statuses)} cells: {states}; to do: {len(bills)}")
    for reason, names in failures(statuses).items():
        say(f"failed: {short(names)}: {reason}")
    plans = {one.cell.name: one.plan for one in statuses if one.plan}
    for method in dict.fromkeys(bill.cell.config.method for bill in bills):
        mine = [bill for bill in bills if bill.cell.config.method == method]
        price = _price(add(bill.left for bill in mine))
        planned = _spending([plans[bill.cell.name] for bill in mine])
        say(f"  {method:<18}{len(mine):>5} cells  {price}; planned: {planned}")
    smaller = [one.cell.name for one in statuses if one.smaller]
    if smaller:
        say(f"smaller than their settings allow, for what the key has left: {short(smaller)}")
    total = _price(add(bill.left for bill in bills))
    left = f"; the key has {left_words(left_of(budgets))} left" if budgets else ""
    say(f"all together: {total}{left}")


def unpaid(todo: Sequence[CellStatus]) -> Mapping[str, list[str]]:
    """Names of the cells that the key cannot pay even alone, by reason."""
    return _by_reason((one.unpaid, one.cell.name) for one in todo if one.unpaid)


def failures(statuses: Sequence[CellStatus]) -> Mapping[str, list[str]]:
    """Names of the cells that failed, by reason."""
    return _by_reason((one.reason, one.cell.name) for one in statuses if one.state == "failed")


def _by_reason(pairs: Iterable[tuple[str, str]]) -> Mapping[str, list[str]]:
    found: dict[str, list[str]] = {}
    for reason, name in pairs:
        found.setdefault(reason, []).append(name)
    return found


def _spending(plans: Sequence[Plan]) -> str:
    """What the queries of plans are for, as `Plan.spending` says it of one."""
    fit = sum(plan.fit.queries for plan in plans)
    test = sum(plan.total.queries for plan in plans) - fit
    answers = sorted({plan.answer for plan in plans})
    answer = f"{answers[0]:,}" + (f" to {answers[-1]:,}" if answers[1:] else "")
    return f"{fit:,} to fit, {test:,} to test, {answer} per batch of answers"


def _price(cost: Counters) -> str:
    queries, *others = LIMITS
    return f"{amounts(cost, [queries])} ({amounts(cost, [*others, 'calls'])})"
