"""A plan keeps to every limit of its key, and a refusal says which it cannot keep to."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from craft_shared.messages import Budgets, Counters, Output
from craft_tuner import methods
from craft_tuner.config.fit_config import build
from craft_tuner.errors import BudgetExhausted
from craft_tuner.methods import affordable
from craft_tuner.plan import (
    LIMITS,
    Phase,
    Plan,
    Workload,
    amounts,
    lacks,
    left_of,
    numbers_told,
    plan_generations,
    plan_phases,
    price,
)
from tests.support.tuner_fakes import some_budgets

DIGITS = Workload(10, 160, test_images=1437, test_sets=1, bundle=1440, set_size=50_000)
PLENTY = dict.fromkeys(LIMITS, 10**12)
NAMES = tuple(name for name in methods.names() if name != "zero_shot")


def limited(**limits: int) -> Budgets:
    """A key with much of everything but these."""
    found = PLENTY | limits
    return some_budgets(found.pop("queries"), vectors=found.pop("logit_vectors"), **found)


def total(method: str, budgets: Budgets | None = None, work: Workload = DIGITS) -> Counters:
    return methods.get(method).plan(build({"method": method}), work, budgets).total


def test_the_limits_are_the_protocol_s() -> None:
    assert LIMITS == ("queries", "logit_vectors", "texts", "logits")
    assert set(LIMITS) == {*Counters.model_fields} - {"calls"}


def test_every_counter_of_a_plan_is_priced() -> None:
    """7,800 fitness and 195 head queries of 160 shots, two tests of 1,437 images, ten classes."""
    cost = total("craft")
    assert cost.texts == 7997 * 10
    assert cost.logit_vectors == 7995 * 160 + 2 * 1437
    assert cost.logits == 10 * cost.logit_vectors


@pytest.mark.parametrize(
    ("output", "told"),
    [({"kind": "label"}, 1), ({"kind": "top_k", "k": 3}, 3), ({"kind": "rounded", "step": 1}, 10)],
)
def test_numbers_told_follow_from_the_output_of_the_key(
    output: dict[str, object], told: int
) -> None:
    most = numbers_told(Output.model_validate(output))
    one = price("test", "", prompts=2, images=7, sets=1, names=10, told=most)
    assert one.cost.logits == 2 * 7 * told


@pytest.mark.parametrize("method", NAMES)
@pytest.mark.parametrize("counter", LIMITS)
@pytest.mark.parametrize("part", [1.0, 0.999, 0.5, 0.1, 0.01, 0.0])
def test_no_method_plans_more_than_is_left_of_any_counter(
    method: str, counter: str, part: float
) -> None:
    left = int(part * getattr(total(method), counter))
    budgets = limited(**{counter: left})
    try:
        found = total(method, budgets)
    except BudgetExhausted as error:
        said = str(error)
    else:
        said = ""
        assert lacks(found, left_of(budgets)) is None
    words = f"needs at least .* {counter.replace('_', ' ')}.* and the key has {left:,} left"
    assert not said or re.search(words, said)


@given(
    limits=st.fixed_dictionaries({name: st.integers(0, 3_000_000) for name in LIMITS}),
    classes=st.integers(2, 300),
    told=st.sampled_from([1, 3, 10**9]),
)
def test_auto_never_plans_more_than_is_left_whatever_the_key(
    limits: dict[str, int], classes: int, told: int
) -> None:
    work = Workload(classes, 160, 1, 500, 1, 1440, 50_000, labels=told == 1, told=told)
    if told != 10**9:
        work = Workload(classes, 160, 1, 500, 1, 1440, 50_000, names=0, labels=told == 1, told=told)
    try:
        found = total("auto", limited(**limits), work)
    except BudgetExhausted:
        assert lacks(total("zero_shot", None, work), limits) is not None
    else:
        assert lacks(found, limits) is None


def test_a_search_is_as_long_as_the_scarcest_counter_allows_and_says_which() -> None:
    each = 41 * 10
    budgets = limited(texts=20 + 3 * each + each - 1)
    plan = plan_generations(build({"method": "craft"}), DIGITS, budgets, head_queries=1)
    assert (plan.generations, plan.binds) == (3, "texts")
    assert plan.table().splitlines()[-1].endswith("the key's texts allow no more")
    free = plan_generations(build(), DIGITS, limited(), head_queries=1)
    assert (free.generations, free.binds) == (195, "queries")
    assert "allow no more" not in free.table()


@pytest.mark.parametrize("counter", LIMITS)
def test_what_cannot_be_paid_is_refused_with_counter_need_and_what_is_left(counter: str) -> None:
    plan = methods.get("zero_shot").plan(build({"method": "zero_shot"}), DIGITS)
    need = getattr(plan.total, counter)
    what = counter.replace("_", " ")
    words = rf"needs at least {need:,} {what}.* and the key has {need - 1:,} left; lower"
    with pytest.raises(BudgetExhausted, match=words):
        plan_phases(build(), DIGITS, limited(**{counter: need - 1}), phases=(), test_prompts=0)


def test_a_refusal_says_what_would_fit() -> None:
    """2,000 texts: 410 a generation of 41 prompts, and 20 of two tests."""
    budgets, config = some_budgets(8000, texts=200), build({"method": "craft"})
    with pytest.raises(BudgetExhausted) as refused:
        affordable(methods.get("craft"), config, DIGITS, budgets)
    said = str(refused.value)
    assert "needs at least 430 texts (prompts x names) and the key has 200 left" in said
    population = int(re.search(r"What would fit: --population (\d+) \(", said)[1])
    assert population == (200 - 20) // 10 - 1
    smaller = config.model_copy(update={"population": population})
    assert affordable(methods.get("craft"), smaller, DIGITS, budgets).generations == 1
    assert ", or --method auto (craft_plus: 3 queries" in said


def test_where_nothing_fits_a_refusal_offers_nothing() -> None:
    with pytest.raises(BudgetExhausted) as refused:
        affordable(methods.get("bank"), build({"method": "bank"}), DIGITS, limited(texts=9))
    assert "would fit" not in str(refused.value)


@pytest.mark.parametrize("method", ["bank", "head_only", "template_ensemble", "zip", "bbt", "spsa"])
def test_what_a_refusal_offers_does_fit(method: str) -> None:
    budgets, config = limited(queries=7), build({"method": method})
    with pytest.raises(BudgetExhausted) as refused:
        affordable(methods.get(method), config, DIGITS, budgets)
    offers = re.findall(r"--([a-z-]+) (\d+) \(", str(refused.value))
    assert len(offers) == 1
    for option, value in offers:
        smaller = config.model_copy(update={option.replace("-", "_"): int(value)})
        assert methods.get(method).plan(smaller, DIGITS, budgets).total.queries <= 7


def test_amounts_are_words() -> None:
    cost = price("test", "", prompts=2, images=1000, sets=1, names=10).cost
    assert amounts(cost) == "2 queries, 2,000 logit vectors, 20 texts, 20,000 logits"


# --- files of before ------------------------------------------------------------------------------


def test_a_plan_of_before_logits_were_counted_is_read_as_dear_as_it_was() -> None:
    old = {
        "purpose": "bank",
        "what": "8 prompts",
        "cost": {"queries": 8, "calls": 1, "logit_vectors": 80, "texts": 400},
    }
    assert Phase.model_validate(old).cost.logits == 80 * 50
    plan = {"method": "bank", "budget": 9, "generations": 1, "population": 8, "phases": [old]}
    assert Plan.model_validate(plan).binds == ""
    empty = {"queries": 0, "calls": 0, "logit_vectors": 0, "texts": 0}
    assert Phase.model_validate({**old, "cost": empty}).cost.logits == 0
