"""What is kept of a key for answers: a run that spends all of it leaves an adapter nobody can ask.

Owns what is kept: the price of one batch of answers, about one image at least.
"""

from collections.abc import Callable
from contextlib import suppress

from craft_shared.messages import Budgets
from craft_tuner.config.fit_config import FitConfig
from craft_tuner.errors import BudgetExhausted
from craft_tuner.plan.cost import LIMITS, Phase, price, sum_costs, words
from craft_tuner.plan.limits import lacks, largest, left_of
from craft_tuner.plan.plan import Plan
from craft_tuner.plan.workload import Workload

_PARTS = 2**10
"""How finely it is tried how much a plan has to keep."""

MakePlan = Callable[[FitConfig, Workload, Budgets | None], Plan]
"""As `Method.plan`."""


def with_answers(
    make: MakePlan, config: FitConfig, work: Workload, budgets: Budgets | None
) -> Plan | None:
    """The largest plan that leaves the key a batch of answers; None if none of this method does.

    Raises:
        BudgetExhausted: not even the run itself can be paid.
    """
    plan = make(config, work, budgets)
    if budgets is None or not _short(plan, work, budgets):
        return plan
    batch = _batch(plan, work)

    def smaller(given: int) -> Plan | None:
        """With all of the batch kept but for so many parts; None: that is not to be paid."""
        less = _without(budgets, batch, parts=_PARTS - given)
        most = less.queries.remaining
        own = config.model_copy(update={"budget": config.budget and min(config.budget, most)})
        with suppress(BudgetExhausted):
            return make(own, work, less).model_copy(update={"budget": plan.budget})
        return None

    def keeps(given: int) -> bool:
        """Whether that is enough for a batch of the smaller plan, if there is one."""
        found = smaller(given)
        return found is None or not _short(found, work, budgets)

    found = smaller(largest(keeps, 0, _PARTS))
    return None if found is None or _short(found, work, budgets) else found


def said_short(plan: Plan, work: Workload, budgets: Budgets | None) -> Plan:
    """The plan, which says so where it leaves the key too little for a batch of answers."""
    counter = _short(plan, work, budgets)
    if counter is None:
        return plan
    left = left_of(budgets)[counter] - getattr(plan.total, counter)
    needed = getattr(_batch(plan, work).cost, counter)
    short = (
        f"the key is left {left:,} {words(counter)}, too few for a batch of answers ({needed:,})"
    )
    return plan.model_copy(update={"short": short})


def _short(plan: Plan, work: Workload, budgets: Budgets | None) -> str | None:
    """The counter of which a batch of answers lacks something."""
    return lacks(sum_costs([*plan.phases, _batch(plan, work)]), left_of(budgets))


def _batch(plan: Plan, work: Workload) -> Phase:
    asked = [each.cost.texts // each.cost.queries for each in plan.phases if each.cost.queries]
    return price(
        "inference",
        "a batch of answers",
        prompts=plan.answer,
        images=1,
        sets=1,
        names=max(asked, default=work.classes),
        told=work.told,
    )


def _without(budgets: Budgets, kept: Phase, *, parts: int) -> Budgets:
    """What the key has left beside so many parts of what is kept, rounded up."""
    found = {name: getattr(budgets, name) for name in LIMITS}
    less = {
        name: budget.remaining - -(-getattr(kept.cost, name) * parts // _PARTS)
        for name, budget in found.items()
        if budget is not None
    }
    return budgets.model_copy(
        update={
            name: found[name].model_copy(update={"remaining": max(0, left)})
            for name, left in less.items()
        }
    )
