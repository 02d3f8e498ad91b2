"""What a run may spend: the limits of its key, one loop over all of them, and its own budget.

Owns the refusal of what cannot be paid.
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple

from craft_shared.messages import Budgets, Counters
from craft_tuner.config.fit_config import FitConfig
from craft_tuner.errors import BudgetExhausted
from craft_tuner.plan.cost import LIMITS, words

Left = Mapping[str, int]
"""What may be spent of each counter that is limited."""

_MEANING = {
    "logit_vectors": " (prompts x images)",
    "texts": " (prompts x names)",
    "logits": " (numbers told)",
}
"""What the counters are that people see less often."""

_BY_IMAGES = ("logit_vectors", "logits")
"""Counters that fewer images lower."""


class Room(NamedTuple):
    """How often something fits, and the counter that does not allow it once more."""

    times: int
    binds: str


def left_of(budgets: Budgets | None) -> dict[str, int]:
    """What a key has left of each counter that it is limited in."""
    found = {} if budgets is None else {name: getattr(budgets, name) for name in LIMITS}
    return {name: budget.remaining for name, budget in found.items() if budget is not None}


def left_words(left: Left) -> str:
    """The same for people: "8,000 queries, 2,000 texts"."""
    return ", ".join(f"{value:,} {words(name)}" for name, value in left.items())


def lacks(cost: Counters, left: Left) -> str | None:
    """The first counter of which there is too little; None if all of a price can be paid."""
    return next((name for name in LIMITS if getattr(cost, name) > left.get(name, 10**18)), None)


def room(left: Left, *, fixed: Counters, each: Counters) -> Room:
    """How often `each` can be paid beside what is `fixed`; `left` names at least one counter."""
    found = [
        Room((left[name] - getattr(fixed, name)) // getattr(each, name), name)
        for name in LIMITS
        if name in left and getattr(each, name)
    ]
    return min(found, key=lambda one: one.times)


def largest(fits: Callable[[int], bool], low: int, high: int) -> int:
    """The largest of `low` to `high` that fits, if what is smaller fits too; `low` if none does."""
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if fits(middle) else (low, middle - 1)
    return low


def spendable(
    config: FitConfig, budgets: Budgets | None, *, least: Counters, lever: str = "--population"
) -> dict[str, int]:
    """What a run may spend of each counter: the paper's queries unless a budget is set.

    Args:
        config: says the budget, in queries.
        budgets: what the key has left; None: the configured budget is the one limit.
        least: what the run costs at least.
        lever: the option that lowers that, for messages.

    Raises:
        BudgetExhausted: the budget or what the key has left is below `least`, or the set budget is
            above what the key has left.
    """
    left = left_of(budgets)
    short = lacks(least, left)
    if short is not None:
        raise BudgetExhausted(_refusal(short, getattr(least, short), left[short], lever))
    queries = left.get("queries")
    if config.budget is not None and queries is not None and config.budget > queries:
        raise BudgetExhausted(
            f"--budget {config.budget:,} is more than the key has left, {queries:,} queries; lower "
            f"--budget to at most {queries:,} (at least {least.queries:,}), or leave it out"
        )
    budget = config.budget or config.paper_budget
    if budget < least.queries:
        raise BudgetExhausted(
            f"a budget of {budget:,} queries does not cover one generation and the test, "
            f"{least.queries:,}; raise --budget to at least {least.queries:,} or lower {lever}"
        )
    return left | {"queries": budget if queries is None else min(budget, queries)}


def _refusal(counter: str, least: int, left: int, lever: str) -> str:
    what = words(counter) + _MEANING.get(counter, "")
    way = f"{lever} or --shots, or ask" if counter in _BY_IMAGES else f"{lever} or ask"
    more = "more" if counter in _MEANING else "a larger budget"
    return (
        f"this run needs at least {least:,} {what} and the key has {left:,} left; lower {way} the "
        f"server's owner for {more}"
    )
