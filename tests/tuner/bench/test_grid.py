"""The cells of a grid, and what they cost before any begins."""

import pytest

from craft_shared.messages import Counters
from craft_tuner import methods
from craft_tuner.bench.grid import Grid, parse_methods, parse_numbers, parse_shots
from craft_tuner.bench.plans import Bill, check_each, check_payable, plan_grid
from craft_tuner.errors import BudgetExhausted, DataError, UsageError
from craft_tuner.training.foresight import Terms
from tests.support.tuner_fakes import some_budgets
from tests.support.tuner_server import model_card


@pytest.fixture(autouse=True)
def zoo(tmp_path, monkeypatch):
    """Two classes of three training images and one test image; empty files will do."""
    for split, count in (("train", 3), ("test", 1)):
        for label in ("cat", "ox"):
            for index in range(count):
                path = tmp_path / "zoo" / split / label / f"{index}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                path.touch()
    monkeypatch.chdir(tmp_path)


def a_grid(**changes):
    axes = {"data": ("zoo",), "shots": (2, 1), "seeds": (1, 2), "methods": ("bbt",)}
    return Grid(**(axes | changes))


def names(grid, card=None):
    return [planned.cell.name for planned in plan_grid(grid, Terms(card or model_card()))]


# --- the grid -----------------------------------------------------------------------------------


def test_every_combination_is_a_cell_with_settings_of_its_own():
    grid = a_grid(budgets=(90, 200), settings={"population": 8})
    cells = list(grid.cells("zoo", "bbt"))
    assert len(cells) == 8
    assert len({cell.name for cell in cells}) == 8
    assert cells[1].name == "zoo-bbt-2shots-seed1-200queries"
    config = cells[-1].config
    assert (config.shots, config.seed, config.budget, config.population) == (1, 2, 200, 8)


@pytest.mark.parametrize(
    ("data", "asked", "preset"),
    [
        ("coop:dtd@/data", "auto", "dtd"),
        ("coop:dtd@/data", "digits", "digits"),
        ("coop:dtd@/data", "", None),
        ("digits", "auto", "digits"),
        *((data, "auto", None) for data in ("dtd", "photos/caltech101", "dtd.csv", "hf:me/dtd")),
    ],
)
def test_auto_takes_the_preset_of_a_dataset_of_the_paper_and_of_no_folder(data, asked, preset):
    assert next(a_grid(preset=asked).cells(data, "bbt")).config.preset == preset


def test_validation_is_for_the_methods_that_choose_by_it():
    grid = a_grid(methods=methods.names(), shots=(1,), settings={"validation": 0.4})
    validated = {method: methods.get(method).validated for method in methods.names()}
    assert {*validated.values()} == {True, False}
    for planned in plan_grid(grid, Terms(model_card())):
        assert planned.plan is not None, planned.refusal
        chooses = validated[planned.cell.config.method]
        assert planned.cell.config.validation == ("0.4" if chooses else "none")
        assert planned.plan.validation == (2 if chooses else 0)


def test_a_folder_that_is_called_digits_is_a_folder(tmp_path):
    (tmp_path / "zoo").rename(tmp_path / "digits")
    [first, *_] = plan_grid(a_grid(data=("digits",)), Terms(model_card()))
    assert first.cell.config.preset is None


@pytest.mark.parametrize(
    ("text", "shots", "names"),
    [
        ("16,8", (16, 8), ["16shots", "8shots"]),
        ("all", ("all",), ["allshots"]),
        ("4, Up to  2,ALL", (4, "up to 2", "all"), ["4shots", "upto2shots", "allshots"]),
    ],
)
def test_shots_are_what_fit_takes(text, shots, names):
    grid = a_grid(shots=parse_shots(text), seeds=(1,))
    cells = list(grid.cells("zoo", "bbt"))
    assert grid.shots == tuple(cell.config.shots for cell in cells) == shots
    assert [cell.name for cell in cells] == [f"zoo-bbt-{name}-seed1" for name in names]


@pytest.mark.parametrize("text", ["0", "some", "up to", "4,10001", "1.5", "all,all"])
def test_other_shots_are_refused(text):
    with pytest.raises(
        UsageError, match=r'--shots .*(needed: 1 to 10,000, "up to N" or "all"|twice)'
    ):
        a_grid(shots=parse_shots(text))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"shots": (2, 2)}, "--shots names 2 twice"),
        ({"seeds": ()}, "--seeds is empty"),
        ({"methods": ("magic",)}, "--methods 'magic' does not exist; there are: zero_shot"),
        ({"settings": {"seed": 3}}, "seed is not a setting of a bench; say it with --seeds"),
        ({"data": ("a/photos", "b/photos")}, "a/photos and --data b/photos are both called photos"),
        ({"settings": {"sigmas": 3}}, "no setting is called sigmas; did you mean sigma?"),
        ({"data": ("nowhere",)}, "there is no dataset at 'nowhere'"),
    ],
)
def test_what_cannot_be_meant_is_refused(changes, words):
    with pytest.raises(UsageError, match=words):
        plan_grid(a_grid(**changes), Terms(model_card()))


def test_lists_are_read_with_commas():
    assert parse_numbers("16, 8,4", option="--shots") == (16, 8, 4)
    assert parse_methods("all") == methods.names()
    assert parse_methods("bbt,craft") == ("bbt", "craft")
    for text in ("0", "4,x", "-1", "1.5"):
        with pytest.raises(UsageError, match=r"--shots .*; needed: whole numbers from 1"):
            parse_numbers(text, option="--shots")


# --- plans --------------------------------------------------------------------------------------


def test_a_method_that_asks_of_nothing_but_the_test_is_one_cell_a_dataset():
    found = names(a_grid(methods=("zero_shot", "bbt"), budgets=(90,)))
    assert found[0] == "zoo-zero_shot"
    assert len(found) == 1 + 4


def test_a_cell_that_cannot_be_has_a_reason_and_the_others_have_plans():
    few, *_, good = plan_grid(a_grid(shots=(99, 1), seeds=(1,)), Terms(model_card()))
    assert (few.plan, good.refusal) == (None, "")
    assert "99 shots need 99; add images, use --shots 3, or" in few.refusal
    assert good.plan.total.queries == 40 * 49 + 2


def test_a_model_that_sells_no_soft_prompts_leaves_the_methods_that_need_none():
    card = model_card().model_copy(update={"prompt_kinds": ["text"]})
    grid = a_grid(methods=("zero_shot", "bbt"), shots=(1,), seeds=(1,))
    plain, soft = plan_grid(grid, Terms(card))
    assert plain.plan is not None
    assert "sends soft prompts, and this key may send text prompts" in soft.refusal


@pytest.mark.parametrize(
    ("method", "left", "planned", "smaller"),
    [
        ("bbt", 10_000, 2 + 40 * 49, False),
        ("bbt", 100, 2 + 40 * 2, True),
        ("bbt", 82, 2 + 40, True),
        ("auto", 10_000, 17, False),
        ("auto", 100, 17, False),
        ("auto", 20, 9, True),
        ("auto", 1, 1, True),
        ("zero_shot", 1, 1, False),
    ],
)
def test_a_cell_is_planned_for_what_the_key_has_left(method, left, planned, smaller):
    """One query is kept for answers: 82 pay two generations and both tests, and no answer."""
    grid = a_grid(methods=(method,), shots=(1,), seeds=(1,))
    [one] = plan_grid(grid, Terms(model_card(), budgets=some_budgets(left)))
    assert (one.plan.total.queries, one.smaller, one.unpaid) == (planned, smaller, "")


def test_a_method_that_asks_of_the_test_alone_is_one_cell_whatever_the_key_has():
    for left in (0, 1, 5, 10_000):
        terms = Terms(model_card(), budgets=some_budgets(left))
        planned = plan_grid(a_grid(methods=("zero_shot", "auto")), terms)
        assert [one.cell.alone for one in planned] == [True, False, False, False, False]


def test_a_cell_that_the_key_cannot_pay_ends_the_bench():
    terms = Terms(model_card(), budgets=some_budgets(41))
    [one] = plan_grid(a_grid(shots=(1,), seeds=(1,)), terms)
    assert one.plan.total.queries == 2 + 40 * 49
    assert "needs at least 42 queries and the key has 41 left" in one.unpaid
    with pytest.raises(
        BudgetExhausted, match=r"nothing was begun, the key cannot pay zoo-bbt.*: this"
    ):
        check_each({one.unpaid: [one.cell.name]})
    check_each({})


def test_a_cell_that_neither_key_nor_settings_allow_has_the_reason_that_fit_gives():
    grid = a_grid(shots=(1,), seeds=(1,), budgets=(3,))
    [settled] = plan_grid(grid, Terms(model_card()))
    assert "a budget of 3 queries does not cover" in settled.refusal
    [one] = plan_grid(grid, Terms(model_card(), budgets=some_budgets(0)))
    assert (one.plan, one.unpaid) == (None, "")
    assert "needs at least 42 queries and the key has 0 left" in one.refusal


def test_data_that_cannot_be_read_stops_all(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError):
        plan_grid(a_grid(data=("zoo", str(tmp_path / "empty"))), Terms(model_card()))


# --- what can be paid ---------------------------------------------------------------------------


def bills(**changes):
    grid = a_grid(methods=("bbt", "craft"), shots=(2, 1), seeds=(1, 2), budgets=(90,), **changes)
    return [Bill(one.cell, one.plan.total) for one in plan_grid(grid, Terms(model_card()))]


@pytest.mark.slow
def test_a_sum_that_the_key_just_covers_is_begun():
    """bbt: 2 generations of 40 and 2 tests; craft: 2 of 41 and 2 tests."""
    needed = 4 * 82 + 4 * 84
    check_payable(bills(), some_budgets(needed))
    with pytest.raises(BudgetExhausted, match="need 664 queries and the key has 663 left, 1 too"):
        check_payable(bills(), some_budgets(needed - 1))


def test_a_refusal_lists_what_there_is_to_leave_out():
    with pytest.raises(BudgetExhausted) as refused:
        check_payable(bills(), some_budgets(10))
    lines = refused.value.message.splitlines()[1:]
    assert [line.strip() for line in lines] == [
        "--data: zoo 664",
        "--methods: bbt 328, craft 336",
        "--shots: 2 332, 1 332",
        "--seeds: 1 332, 2 332",
        "--budgets: 90 664",
    ]


@pytest.mark.parametrize("counter", ["logit_vectors", "texts", "logits"])
def test_every_counter_is_checked_where_the_key_is_limited_in_it(counter):
    small = {"queries": 1, "calls": 1, "logit_vectors": 1, "texts": 1, "logits": 1, counter: 900}
    few = [Bill(bills()[0].cell, Counters(**small))]
    name = "vectors" if counter == "logit_vectors" else counter
    check_payable(few, some_budgets(10, **{name: 900}))
    what = counter.replace("_", " ")
    with pytest.raises(BudgetExhausted, match=f"need 900 {what} and the key has 899 left"):
        check_payable(few, some_budgets(10, **{name: 899}))
