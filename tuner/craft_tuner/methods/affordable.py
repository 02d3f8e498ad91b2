"""A plan, or a refusal that says what would fit: less of the same method, or another.

Nothing is asked: plans are tried, each within every limit of the key.
"""

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from functools import partial

from craft_shared.messages import Budgets
from craft_tuner import method_registry
from craft_tuner.config.fit_config import FitConfig, fields
from craft_tuner.errors import BudgetExhausted, UsageError
from craft_tuner.methods.base import Method
from craft_tuner.plan import Plan, Workload, amounts, largest, said_short, with_answers

_OTHERS = ("auto", "zero_shot")
"""Methods that shrink to what there is; the first that fits is named."""


def affordable(
    method: Method, config: FitConfig, work: Workload, budgets: Budgets | None = None
) -> Plan:
    """The plan of a method; it leaves the key a batch of answers, or says that it cannot.

    Raises:
        UsageError: the method plans something else.
        BudgetExhausted: it cannot be paid; the sentence names the counter, what is needed of it,
            what is left, and what would fit instead, if anything does.
    """
    try:
        return _leaving_answers(method, config, work, budgets)
    except BudgetExhausted as error:
        found = [*_less(method, config, work, budgets), *_other(method, config, work, budgets)]
        if not found:
            raise
        raise BudgetExhausted(f"{error.message}. What would fit: {', or '.join(found)}") from error


def _leaving_answers(
    method: Method, config: FitConfig, work: Workload, budgets: Budgets | None
) -> Plan:
    make = partial(_planned, method)
    found = with_answers(make, config, work, budgets)
    return found or said_short(make(config, work, budgets), work, budgets)


def _planned(method: Method, config: FitConfig, work: Workload, budgets: Budgets | None) -> Plan:
    """What a method plans, which may be of another package."""
    plan: object = method.plan(config, work, budgets)
    if not isinstance(plan, Plan):
        raise UsageError(f"method {method.name!r} plans {plan!r}; needed: a Plan")
    return plan


def _less(
    method: Method, config: FitConfig, work: Workload, budgets: Budgets | None
) -> Iterator[str]:
    """The most of each of the method's levers, the others as they are."""
    for lever in method.levers:

        def plan(value: int, lever: str = lever) -> Plan | None:
            return _plan(method, config.model_copy(update={lever: value}), work, budgets)

        low = _least(config.method, lever)
        value = largest(lambda value: plan(value) is not None, low, getattr(config, lever) - 1)
        smaller = plan(value)
        if smaller is not None and value < getattr(config, lever):
            yield f"--{lever.replace('_', '-')} {value} ({amounts(smaller.total)})"


def _other(
    method: Method, config: FitConfig, work: Workload, budgets: Budgets | None
) -> Iterator[str]:
    bundle = work.shots * (1 + config.views) + work.validation
    for name in _OTHERS:
        other = method_registry.load(name)
        if name == method.name or not (isinstance(other, type) and issubclass(other, Method)):
            continue
        if work.validation and not other.validated:
            continue
        asked = config.model_copy(update={"method": name})
        plan = _plan(other(), asked, replace(work, bundle=bundle), budgets)
        if plan is not None:
            taken = f"{plan.method}: " if plan.method != name else ""
            yield f"--method {name} ({taken}{amounts(plan.total)})"
            return


def _plan(
    method: Method, config: FitConfig, work: Workload, budgets: Budgets | None
) -> Plan | None:
    with suppress(BudgetExhausted):
        return method.plan(config, work, budgets)
    return None


def _least(method: str, setting: str) -> int:
    """The lowest value that a setting may have."""
    bounds = (getattr(each, "ge", None) for each in fields(method)[setting].metadata)
    return next((bound for bound in bounds if bound is not None), 1)
