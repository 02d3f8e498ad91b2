"""The bank and its relatives: what they ask, what it costs, and what they leave."""

from dataclasses import replace
from unittest.mock import Mock

import numpy as np
import pytest

from craft_tuner import methods
from craft_tuner.adapter.adapter import Adapter
from craft_tuner.config.fit_config import FitConfig, build
from craft_tuner.errors import BudgetExhausted, UsageError
from craft_tuner.heads.selection import judge
from craft_tuner.methods import affordable, bank
from craft_tuner.plan import Workload, lacks, left_of
from craft_tuner.runs.diagnostics import BY_PROMPTS
from craft_tuner.texts import anchors
from tests.support.tuner_fakes import SmoothBox, a_bundle, a_task, some_budgets, validated
from tests.support.tuner_runs import TEST, fit

pytestmark = pytest.mark.slow


def config(method: str, **changes: object) -> FitConfig:
    small = {"method": method, "views": 2, "shots": 4, "bank_prompts": 4, "bank_names": 10}
    return build({**small, **changes})


def bundled(box: SmoothBox, settings: FitConfig, **task: object):
    return a_bundle(box, a_task(box, views=settings.views, **task))


@pytest.mark.parametrize(
    ("method", "kinds", "prompts"),
    [
        ("bank", ("soft", "text"), 4),
        ("bank", ("text",), 4),
        ("craft_plus", ("soft", "text"), 1),
        ("auto", ("soft", "text"), 4),
        ("auto", ("soft",), 4),
    ],
)
def test_one_question_is_all_that_is_asked_and_what_the_plan_said(
    tmp_path, method, kinds, prompts
) -> None:
    box, settings = SmoothBox(kinds=kinds), config(method)
    task = bundled(box, settings)
    done = fit(tmp_path / "run", box, task, settings)
    assert box.asked == ["bank"]
    assert box.used == done.run.plan.fit.queries == prompts
    asked = box.paid["bank"]
    assert asked.logits.shape == (prompts, 36, 13)
    assert done.adapter.prompts_per_image == prompts
    assert done.adapter.asked.class_names[:3] == task.texts.class_names
    assert (done.adapter.offsets is None) == (prompts == 1 or "soft" not in kinds)
    (step,) = done.progress
    assert (step.generation, step.queries) == (1, prompts)
    assert step.metrics["heldout_accuracy"] == done.adapter.card.training["held_out"]["accuracy"]


@pytest.mark.parametrize("method", ["bank", "craft_plus"])
def test_it_classifies_better_than_zero_shot_and_survives_its_file(tmp_path, method) -> None:
    box, settings = SmoothBox(), config(method, shots=6)
    task = bundled(box, settings, shots=6)
    done = fit(tmp_path / "run", box, task, settings)
    again = Adapter.load(done.run.path)
    raw, refined = again.logits(box, task.shots, purpose="test", step="test")
    assert raw is not None
    assert (refined.argmax(axis=1) == task.labels).mean() > (
        raw.argmax(axis=1) == task.labels
    ).mean()


def test_a_finished_fit_asked_again_pays_nothing_and_gives_the_same(tmp_path) -> None:
    box, settings = SmoothBox(), config("bank")
    task = bundled(box, settings)
    first = fit(tmp_path / "run", box, task, settings)
    second = fit(tmp_path / "run", box, task, settings)
    assert box.used == 4
    assert first.adapter.to_bytes() == second.adapter.to_bytes()


def test_fewer_prompts_per_image_are_the_informative_ones(tmp_path) -> None:
    box, settings = SmoothBox(), config("bank", prompts_per_image=2)
    task = bundled(box, settings)
    done = fit(tmp_path / "run", box, task, settings)
    assert done.adapter.prompts_per_image == 2
    assert box.paid["bank"].prompts == 4
    test = [phase for phase in done.run.plan.phases if phase.purpose == "test"]
    assert test[0].cost.queries == 2


def test_a_bank_says_what_fewer_prompts_per_image_would_give(tmp_path) -> None:
    box, settings = SmoothBox(), config("bank", shots=4)
    done = fit(tmp_path / "run", box, bundled(box, settings), settings)
    [row] = done.run.restore().metrics
    reported = {name: value for name, value in row.items() if name.startswith(BY_PROMPTS)}
    assert [*reported] == [f"{BY_PROMPTS}{count}" for count in (1, 2, 4)]
    assert reported[f"{BY_PROMPTS}4"] == row["heldout_accuracy"]


@pytest.mark.parametrize(("shots", "judged"), [(4, [1, 2]), (3, [1, 2]), (2, []), (1, [])], ids=str)
def test_what_fewer_prompts_give_costs_one_candidate_for_each_count(
    tmp_path, monkeypatch, shots, judged
) -> None:
    seen: list[int] = []

    def counted(shots, spec, **rest):
        seen.append(shots.x.shape[1] // shots.names)
        return judge(shots, spec, **rest)

    monkeypatch.setattr(bank, "judge", counted)
    monkeypatch.setattr(bank, "choose", once := Mock(wraps=bank.choose))
    box, settings = SmoothBox(), config("bank", shots=shots)
    fit(tmp_path / "run", box, bundled(box, settings, shots=shots), settings)
    assert once.call_count == 1
    assert seen == judged


def test_one_prompt_per_image_of_a_bank_is_the_plain_one(tmp_path) -> None:
    box, settings = SmoothBox(), config("bank", prompts_per_image=1)
    done = fit(tmp_path / "run", box, bundled(box, settings), settings)
    np.testing.assert_array_equal(done.adapter.offsets, np.zeros_like(done.adapter.offsets))


def test_where_zero_shot_cannot_be_improved_upon_it_is_the_result(tmp_path) -> None:
    box, settings = SmoothBox(seed=3), config("craft_plus", bank_names=0)
    task = bundled(box, settings)
    centres = box.text_features(np.zeros((4, 6), np.float32))
    box.sets["shots"] = centres[task.labels]
    draw = np.random.RandomState(0)
    box.sets["bundle"] = np.tile(centres[task.labels], (3, 1))
    box.sets["bundle"] += 1e-4 * draw.randn(*box.sets["bundle"].shape).astype(np.float32)
    done = fit(tmp_path / "run", box, task, settings)
    _, refined = done.adapter.logits(box, task.shots, purpose="test", step="test")
    assert (refined.argmax(axis=1) == task.labels).all()


@pytest.mark.parametrize(("output", "names"), [("logits", 13), ("top_k", 3), ("label", 3)])
def test_a_key_reported_of_the_best_alone_is_asked_about_the_classes_alone(
    tmp_path, output, names
) -> None:
    box, settings = SmoothBox(output=output), config("bank")
    done = fit(tmp_path / "run", box, bundled(box, settings), settings)
    assert box.paid["bank"].logits.shape[-1] == names
    assert done.run.plan.fit.texts == 4 * names


def test_a_task_that_is_not_bundled_is_refused(tmp_path) -> None:
    box, settings = SmoothBox(), config("bank")
    with pytest.raises(UsageError, match="one bundle"):
        fit(tmp_path / "run", box, a_task(box, views=2), settings)


WORK = Workload(classes=10, shots=160, test_images=500, test_sets=1, bundle=1440, set_size=50_000)


@pytest.mark.parametrize(
    ("budget", "method", "prompts"),
    [(1, "zero_shot", 0), (3, "craft_plus", 1), (5, "bank", 2), (10, "bank", 4), (17, "bank", 8)],
)
def test_auto_takes_what_the_budget_allows_and_says_so(budget, method, prompts) -> None:
    plan = methods.get("auto").plan(build({"method": "auto", "budget": budget}), WORK)
    assert (plan.method, plan.population) == (method, prompts)
    assert plan.total.queries <= budget
    assert plan.table().splitlines()[-1] == f"auto takes {method}: {plan.why}"


def test_auto_looks_at_what_the_key_has_left() -> None:
    plan = methods.get("auto").plan(build({"method": "auto"}), WORK, some_budgets(13))
    assert (plan.method, plan.total.queries) == ("bank", 9)
    with pytest.raises(BudgetExhausted):
        methods.get("auto").plan(build({"method": "auto"}), WORK, some_budgets(0))


@pytest.mark.parametrize(
    ("left", "budget", "method", "spent", "answer"),
    [
        *((1, None, "zero_shot", 1, 1), (2, None, "zero_shot", 1, 1), (3, None, "zero_shot", 1, 1)),
        *((4, None, "craft_plus", 3, 1), (6, None, "craft_plus", 3, 1), (7, None, "bank", 5, 2)),
        *((12, None, "bank", 5, 2), (13, None, "bank", 9, 4), (24, None, "bank", 9, 4)),
        *((25, None, "bank", 17, 8), (17, 17, "bank", 9, 4), (9, 9, "bank", 5, 2)),
        (30, 17, "bank", 17, 8),
    ],
)
def test_auto_keeps_a_batch_of_answers_of_what_the_key_has(
    left, budget, method, spent, answer
) -> None:
    settings = build({"method": "auto", "budget": budget})
    plan = affordable(methods.get("auto"), settings, WORK, some_budgets(left))
    assert (plan.method, plan.total.queries, plan.answer) == (method, spent, answer)
    assert plan.budget == min(left, budget or left)
    assert plan.spending.endswith(f" to test, {answer} per batch of answers")
    said = f"the key is left {left - spent} queries, too few for a batch of answers ({answer})"
    assert plan.short == (said if left - spent < answer else "")
    assert (plan.table().splitlines()[-1] == said) == bool(plan.short)
    if method == "zero_shot" and left > 2:
        assert plan.why.endswith("no question about the shots that leaves a batch of answers")


@pytest.mark.parametrize(
    ("budget", "method", "prompts"), [(8, "zero_shot", 0), (9, "bank", 4), (17, "bank", 8)]
)
def test_auto_asks_several_prompts_or_none_of_a_key_of_labels(budget, method, prompts) -> None:
    for classes in (10, 1000):
        work = replace(WORK, classes=classes, names=0, labels=True)
        plan = methods.get("auto").plan(build({"method": "auto", "budget": budget}), work)
        assert (plan.method, plan.population) == (method, prompts)
        assert ("labels" in plan.why) == (method == "zero_shot")


def test_many_classes_need_one_prompt_and_fit_into_memory_by_asking_about_fewer_views() -> None:
    work = Workload(
        classes=1000, shots=16_000, test_images=50_000, test_sets=1, bundle=144_000, set_size=50_000
    )
    plan = methods.get("auto").plan(build({"method": "auto"}), work)
    assert (plan.method, plan.population) == ("craft_plus", 1)
    assert plan.why == "1 prompt costs 3 queries; with 1,000 classes and other names one is enough"
    (bank,) = [phase for phase in plan.phases if phase.purpose == "bank"]
    assert bank.cost.queries == 1
    assert bank.cost.logit_vectors == 50_000


@pytest.mark.parametrize(
    ("texts", "method", "prompts", "names"),
    [
        (12298, "bank", 8, 512),
        (12297, "bank", 8, 511),
        (3000, "bank", 4, 249),
        (2000, "bank", 2, 331),
        (300, "craft_plus", 1, 96),
        (40, "craft_plus", 1, 10),
        (39, "zero_shot", 0, 0),
    ],
)
def test_auto_asks_fewer_names_of_a_key_of_few_texts_and_keeps_to_them(
    texts, method, prompts, names
) -> None:
    """Ten texts are zero-shot's; shots, test and answers are P prompts of N names each."""
    plan = methods.get("auto").plan(
        build({"method": "auto"}), WORK, some_budgets(8000, texts=texts)
    )
    assert (plan.method, plan.population) == (method, prompts)
    assert plan.total.texts == 10 + 2 * prompts * names <= texts
    answers = max(10, prompts * names)
    assert answers <= texts - plan.total.texts < answers + max(3 * prompts, 30)
    assert plan.binds == ("texts" if 0 < names < 512 else "")
    if plan.binds:
        assert f"texts allow {names} names each" in plan.why


@pytest.mark.parametrize("kinds", [("soft", "text"), ("text",)])
@pytest.mark.parametrize("counter", ["queries", "logit_vectors", "texts", "logits"])
def test_a_fit_on_a_key_of_half_spends_what_was_planned_of_every_counter(
    tmp_path, counter, kinds
) -> None:
    settings, box = config("auto", bank_names=40), SmoothBox(kinds=kinds)
    task = bundled(box, settings)
    whole = methods.get("auto").plan(settings, Workload.of(task, TEST, card=box.card))
    limits = {"queries": 10**9, counter: getattr(whole.total, counter) // 2}
    box.limit, box.limits = limits.pop("queries"), limits
    before = left_of(box.budgets())
    plan = fit(tmp_path / "run", box, task, settings).run.plan
    assert box.spent == plan.fit
    assert lacks(plan.total, before) is None
    assert plan.total != whole.total


def test_a_key_with_a_list_of_names_is_asked_the_classes_alone(tmp_path) -> None:
    settings, box = config("auto"), SmoothBox()
    box.names = ["class 2", "class 0", "class 1"]
    done = fit(tmp_path / "run", box, bundled(box, settings), settings)
    assert done.run.plan.population == 4
    assert done.adapter.asked.class_names == ("class 0", "class 1", "class 2")
    assert box.spent.texts == 4 * 3


def test_a_prompt_of_many_names_keeps_to_what_the_server_takes() -> None:
    work = Workload(classes=10, shots=160, bundle=1440, set_size=50_000, names=100)
    plan = methods.get("craft_plus").plan(build({"method": "craft_plus"}), work)
    assert plan.fit.texts == 100


def test_the_anchors_are_plain_names_each_once() -> None:
    names = anchors()
    assert len(names) == len(set(names)) > 500
    assert all(name == name.strip() and name for name in names)


@pytest.mark.parametrize("method", ["bank", "craft_plus", "auto"])
@pytest.mark.parametrize("shots", [1, 4])
def test_a_head_is_chosen_on_validation_images_in_the_same_question(
    tmp_path, method, shots
) -> None:
    box, settings = SmoothBox(), config(method, shots=shots)
    task = a_bundle(box, validated(box, a_task(box, shots=shots, views=2)))
    done = fit(tmp_path / "run", box, task, settings)
    assert box.asked == ["bank"]
    assert box.paid["bank"].logits.shape[1] == 3 * (3 * shots + 3)
    training = done.adapter.card.training
    assert training["chosen_on"] == {"validation_images": 9}
    _, refined = done.adapter.logits(box, task.validation.images, purpose="test", step="test")
    assert (refined.argmax(axis=1) == task.validation.labels).mean() >= 8 / 9
    (step,) = done.progress
    assert step.metrics["heldout_accuracy"] == training["held_out"]["accuracy"]


def test_image_sets_that_are_asked_about_always_hold_the_validation_images() -> None:
    work = Workload(
        classes=1000,
        shots=16_000,
        test_images=0,
        bundle=194_000,
        validation=50_000,
        validation_sets=1,
        set_size=50_000,
    )
    plan = methods.get("bank").plan(build({"method": "bank", "bank_prompts": 8}), work)
    assert plan.fit.logit_vectors == 8 * 100_000
