"""A plan fits what may be spent, is as long as it can be, or is refused with what to change."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from craft_tuner.blackbox import Images
from craft_tuner.config.fit_config import build
from craft_tuner.errors import BudgetExhausted
from craft_tuner.plan import Plan, Workload, plan_generations, plan_phases, price
from tests.support.tuner_fakes import SmoothBox, a_task, some_budgets

DTD = Workload(classes=47, shots=752, test_images=1692, test_sets=1)


def test_eight_thousand_queries_are_195_generations() -> None:
    plan = plan_generations(build(), DTD, head_queries=1)
    assert plan.generations == 195
    assert plan.total.queries == 195 * 41 + 2 == 7997
    assert plan.fit.queries == 7995
    assert plan.total.logit_vectors == 7995 * 752 + 2 * 1692
    assert plan.total.texts == 7997 * 47
    assert plan.total.calls == 195 * 2 + 2


def test_without_head_the_same_budget_buys_more_generations() -> None:
    assert plan_generations(build(), DTD, head_queries=0).generations == 199


def test_without_test_images_nothing_is_reserved() -> None:
    plan = plan_generations(build(), Workload(classes=2, shots=8), head_queries=1)
    assert [phase.purpose for phase in plan.phases] == ["fitness", "head"]
    assert plan.total == plan.fit


def test_the_key_lowers_the_budget_silently_but_a_flag_does_not() -> None:
    plan = plan_generations(build(), DTD, some_budgets(1000), head_queries=1)
    assert (plan.budget, plan.generations) == (1000, 24)
    with pytest.raises(BudgetExhausted, match=r"--budget 2,000 is more than the key has left"):
        plan_generations(build({"budget": 2000}), DTD, some_budgets(1000), head_queries=1)


@pytest.mark.parametrize(
    ("settings", "left", "said"),
    [
        ({}, 42, "this run needs at least 43 queries and the key has 42 left; lower --population"),
        ({"budget": 42}, None, "raise --budget to at least 43 or lower --population"),
        ({"population": 4000}, None, "a budget of 8,000 queries does not cover"),
        ({"budget": 60}, 50, "lower --budget to at most 50 (at least 43), or leave it out"),
    ],
)
def test_what_cannot_be_paid_is_refused_in_words(
    settings: dict[str, int], left: int | None, said: str
) -> None:
    work = DTD if "population" not in settings else Workload(47, 752, 2, 1692, 1)
    budgets = None if left is None else some_budgets(left)
    with pytest.raises(BudgetExhausted, match=re.escape(said)):
        plan_generations(build(settings), work, budgets, head_queries=1)


def test_a_method_says_how_many_it_asks_and_what_lowers_that() -> None:
    plan = plan_generations(build(), DTD, head_queries=0, population=10)
    assert (plan.generations, plan.population, plan.fit.queries) == (799, 10, 7990)
    ask = {"head_queries": 0, "population": 10, "lever": "--zip-pairs"}
    with pytest.raises(BudgetExhausted, match=r"at least 12 queries .* lower --zip-pairs or ask"):
        plan_generations(build(), DTD, some_budgets(11), **ask)
    with pytest.raises(BudgetExhausted, match="raise --budget to at least 12 or lower --zip-pairs"):
        plan_generations(build({"budget": 11}), DTD, **ask)
    with pytest.raises(BudgetExhausted, match="lower --zip-pairs or --shots"):
        plan_generations(build(), DTD, some_budgets(8000, vectors=99), **ask)


def test_a_limit_on_logit_vectors_shortens_the_run() -> None:
    budgets = some_budgets(8000, vectors=41 * 752 * 10 + 2 * 1692)
    assert plan_generations(build(), DTD, budgets, head_queries=1).generations == 10


def test_too_few_logit_vectors_are_refused_in_words() -> None:
    least = 41 * 752 + 2 * 1692
    with pytest.raises(BudgetExhausted, match=f"needs at least {least:,} logit vectors"):
        plan_generations(build(), DTD, some_budgets(8000, vectors=least - 1), head_queries=1)


def test_zero_shot_costs_one_query_a_test_set() -> None:
    plan = plan_phases(
        build({"method": "zero_shot"}), Workload(10, 0, 1, 500, 2), phases=(), test_prompts=0
    )
    assert (plan.total.queries, plan.total.logit_vectors, plan.generations) == (2, 500, 0)
    with pytest.raises(BudgetExhausted):
        plan_phases(build(), Workload(10, 0, 1, 500, 2), some_budgets(1), phases=(), test_prompts=0)


def test_fixed_phases_and_a_bank_of_prompts_at_the_test_are_priced() -> None:
    work = Workload(10, 160, 2, 500, 3)
    bank = price("bank", "25 prompts", prompts=25, images=160, sets=2, names=30)
    plan = plan_phases(build(), work, phases=(bank,), test_prompts=25, test_names=30)
    assert [phase.purpose for phase in plan.phases] == ["zero-shot", "bank", "test"]
    assert [phase.cost.queries for phase in plan.phases] == [3, 50, 75]
    assert [phase.cost.texts for phase in plan.phases] == [30, 1500, 2250]
    assert [phase.cost.logit_vectors for phase in plan.phases] == [500, 4000, 12_500]
    assert plan.fit == bank.cost
    with pytest.raises(BudgetExhausted, match="at least 128"):
        plan_phases(build({"budget": 127}), work, phases=(bank,), test_prompts=25)


def test_workload_reads_task_and_test_set() -> None:
    task = a_task(SmoothBox(), shots=3)
    assert Workload.of(task) == Workload(classes=3, shots=9)
    test = Images(("a", "b"), 12)
    assert Workload.of(task, test) == Workload(3, 9, 1, test_images=12, test_sets=2)


def test_plan_is_readable_and_survives_json() -> None:
    plan = plan_generations(build(), DTD, head_queries=1)
    assert Plan.model_validate_json(plan.model_dump_json()) == plan
    lines = plan.table().splitlines()
    assert [line.split()[0] for line in lines] == [
        "phase",
        "zero-shot",
        "fitness",
        "head",
        "test",
        "total",
    ]
    assert "7,800" in lines[2]
    assert "195 generations x 40 x 752 shots" in lines[2]
    assert lines[-1].split()[1] == "7,997"
    assert "budget of 8,000" in lines[-1]


@given(
    budget=st.integers(1, 20_000),
    population=st.integers(4, 100),
    shot_sets=st.integers(1, 4),
    test_sets=st.integers(0, 4),
    head=st.sampled_from([0, 1]),
)
def test_a_plan_never_exceeds_its_budget_and_wastes_less_than_a_generation(
    *, budget: int, population: int, shot_sets: int, test_sets: int, head: int
) -> None:
    config = build({"budget": budget, "population": population})
    work = Workload(5, 80, shot_sets, test_images=50 * test_sets, test_sets=test_sets)
    price = (population + head) * shot_sets
    if budget < price + 2 * test_sets:
        with pytest.raises(BudgetExhausted):
            plan_generations(config, work, head_queries=head)
        return
    plan = plan_generations(config, work, head_queries=head)
    assert plan.generations >= 1
    assert budget - price < plan.total.queries <= budget
