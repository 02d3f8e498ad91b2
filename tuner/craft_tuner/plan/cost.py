"""What is counted: the price of a phase in the protocol's counters, and sums of prices.

Owns which of the counters can be limits, and how they are called. A counter that the protocol gains
is priced in `price` and counted everywhere else by itself.
"""

from collections.abc import Iterable
from typing import Any

from pydantic import BaseModel, ConfigDict, model_validator

from craft_shared.messages import Budgets, Counters, Output
from craft_tuner.blackbox import Purpose

COUNTERS = tuple(Counters.model_fields)
"""All that is counted."""

LIMITS = tuple(Budgets.model_fields)
"""The counters that a key may be limited in."""

EVERY = 10**9
"""More than a row has names: for a key that is told a number for each."""


def words(counter: str) -> str:
    """A counter as people read it: "logit vectors"."""
    return counter.replace("_", " ")


def amounts(cost: Counters, counters: Iterable[str] = LIMITS) -> str:
    """A price in words: "17 queries, 24,453 logit vectors, 8,202 texts, 1,232,000 logits"."""
    return ", ".join(f"{getattr(cost, each):,} {words(each)}" for each in counters)


def numbers_told(output: Output) -> int:
    """How many numbers of each row an output tells, at most; a row of fewer names tells fewer."""
    if output.kind == "label":
        return 1
    return EVERY if output.k is None else output.k


class Phase(BaseModel):
    """One purpose that queries are spent on, and its price."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    purpose: Purpose
    what: str
    cost: Counters

    @model_validator(mode="before")
    @classmethod
    def _count_logits(cls, data: Any) -> Any:
        """Of a plan that was saved before logits were counted: a number for each name of a row."""
        cost = data.get("cost") if isinstance(data, dict) else None
        if not isinstance(cost, dict) or "logits" in cost or not cost.get("queries"):
            return data
        names = cost["texts"] // cost["queries"]
        return {**data, "cost": {**cost, "logits": cost["logit_vectors"] * names}}


def price(
    purpose: Purpose,
    what: str,
    *,
    prompts: int,
    images: int,
    sets: int,
    names: int,
    calls: int = 1,
    told: int = EVERY,
) -> Phase:
    """A phase of `prompts` prompts on `images` images in `sets` sets, in `calls` calls a set.

    Args:
        purpose: what it is for.
        what: the same for people.
        prompts: asked of every image.
        images: in all sets together.
        sets: image sets.
        names: in each prompt.
        calls: requests for each set.
        told: most numbers that the key is told of a row (`Workload.told`).
    """
    cost = Counters(
        queries=prompts * sets,
        calls=calls * sets,
        logit_vectors=prompts * images,
        texts=prompts * sets * names,
        logits=prompts * images * min(names, told),
    )
    return Phase(purpose=purpose, what=what, cost=cost)


def sum_costs(phases: Iterable[Phase]) -> Counters:
    """The counters of several phases together."""
    costs = [phase.cost for phase in phases]
    return Counters(**{name: sum(getattr(cost, name) for cost in costs) for name in COUNTERS})
