"""CraFT as a whole: what it asks, what it leaves, and that a kill changes nothing."""

import os
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from craft_tuner import methods
from craft_tuner.adapter.adapter import Adapter
from craft_tuner.config.fit_config import FitConfig, build
from craft_tuner.errors import BudgetExhausted, FitDiverged, RunError, UsageError, WrongModel
from craft_tuner.heads.residual import Head
from craft_tuner.methods import loop
from craft_tuner.plan import Workload
from craft_tuner.runs import journal
from craft_tuner.runs.run import Run
from tests.support.tuner_fakes import SmoothBox, a_task
from tests.support.tuner_runs import TEST, Fit, fit

SMALL = {
    "method": "craft",
    "intrinsic_dim": 12,
    "population": 6,
    "head_hidden": 8,
    "views": 2,
    "shots": 4,
    "batch_size": 5,
    "sigma": 0.3,
    "budget": 3 * 7 + 2,
}
CONFIG = build(SMALL)


def rows(run: Run) -> list[dict[str, float]]:
    """Metrics without wall time."""
    return [{k: v for k, v in row.items() if k != "seconds"} for row in run.restore().metrics]


def test_a_fit_asks_what_its_plan_says(tmp_path: Path) -> None:
    box = SmoothBox()
    done = fit(tmp_path / "run", box, None, CONFIG)
    assert box.used == done.run.plan.fit.queries == 21
    assert box.asked == [f"{kind}/{g}" for g in (1, 2, 3) for kind in ("fitness", "head")]
    spent = Counter()
    for question in box.paid.values():
        spent[question.purpose] += question.prompts
    assert spent == {"fitness": 18, "head": 3}
    assert [step.queries for step in done.progress] == [7, 14, 21]
    assert [step.generation for step in done.progress] == [1, 2, 3]
    assert {(step.generations, step.queries_planned) for step in done.progress} == {(3, 21)}
    training = done.adapter.card.training
    assert training["stopped"] == "the plan's generations are done"
    assert (training["generations"], training["queries"]) == (3, 21)


def test_head_queries_go_round_the_views(tmp_path: Path) -> None:
    box, seen = SmoothBox(), []
    task = a_task(box, views=2)
    score = box.score

    def watch(texts, offsets, images, *, purpose, step):
        seen.append((purpose, images.sets))
        return score(texts, offsets, images, purpose=purpose, step=step)

    box.score = watch  # type: ignore[method-assign]
    fit(tmp_path / "run", box, task, CONFIG)
    assert [sets for purpose, sets in seen if purpose == "head"] == [
        ("view-0",),
        ("view-1",),
        ("view-0",),
    ]
    assert {sets for purpose, sets in seen if purpose == "fitness"} == {("shots",)}


def test_fold_heads_change_nothing_else(tmp_path: Path) -> None:
    with_folds = fit(tmp_path / "a", SmoothBox(), None, CONFIG)
    without = fit(tmp_path / "b", SmoothBox(), None, build({**SMALL, "validation_folds": 0}))
    assert np.array_equal(with_folds.adapter.offsets, without.adapter.offsets)
    for mine, yours in zip(with_folds.adapter.head, without.adapter.head, strict=True):
        assert np.array_equal(mine.weight, yours.weight)
        assert np.array_equal(mine.bias, yours.bias)
    for row, bare in zip(rows(with_folds.run), rows(without.run), strict=True):
        assert row.pop("heldout_accuracy") >= 0
        assert row == bare


def test_the_same_seed_gives_the_same_bytes_and_another_does_not(tmp_path: Path) -> None:
    one, two, other = (
        fit(tmp_path / str(n), SmoothBox(), None, build({**SMALL, "seed": seed})).adapter
        for n, seed in enumerate((1, 1, 2))
    )
    assert one.to_bytes() == two.to_bytes() != other.to_bytes()


@pytest.mark.slow
def test_fitting_beats_zero_shot_on_shifted_classes(tmp_path: Path) -> None:
    box = SmoothBox()
    task = a_task(box, shots=8, noise=0.3)
    zero = box.text_features(np.zeros((4, 6), np.float32))
    before = ((box.sets["shots"] @ zero.T).argmax(axis=1) == task.labels).mean()
    config = build({**SMALL, "shots": 8, "budget": 40 * 7 + 2, "lr": 0.01})
    done = fit(tmp_path / "run", box, task, config)
    raw = box.score(task.texts, done.adapter.offsets, task.shots, purpose="test", step="t")
    after = (done.adapter.predict(raw[0]) == task.labels).mean()
    assert before < 0.7
    assert after > 0.95


# --- kills --------------------------------------------------------------------------------------


class Killed(BaseException):
    """The process is gone: nothing after this line has run."""


@dataclass
class Grim:
    """Kills at the `at`-th point, before or after the operation there; counts points if None."""

    at: int | None = None
    points: int = 0

    def reach(self) -> None:
        self.points += 1
        if self.points == self.at:
            raise Killed


@contextmanager
def killing(box: SmoothBox, at: int | None) -> Iterator[Grim]:
    """Every fsync, rename and answered question is a point before and a point after it."""
    grim = Grim(at)
    fsync, rename, score = os.fsync, Path.replace, box.score

    def around(operation):
        def wrapped(*args, **kwargs):
            grim.reach()
            answer = operation(*args, **kwargs)
            grim.reach()
            return answer

        return wrapped

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", around(fsync))
        patch.setattr(Path, "replace", around(rename))
        patch.setattr(loop, "SAVING", float("inf"))  # after each generation, however fast they are
        box.score = around(score)  # type: ignore[method-assign]
        try:
            yield grim
        finally:
            box.score = score  # type: ignore[method-assign]


FAST = build({**SMALL, "budget": 2 * 7 + 2, "validation_folds": 2})


def count_points(tmp_path: Path) -> int:
    box = SmoothBox()
    with killing(box, None) as grim:
        fit(tmp_path / "count", box, None, FAST)
    return grim.points


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Fit:
    return fit(tmp_path_factory.mktemp("reference") / "run", SmoothBox(), None, FAST)


def check_what_is_left(path: Path) -> None:
    """The adapter of the last generation but for the one whose adapter was being saved."""
    file, committed = path / "adapter.safetensors", journal.restore(path).generation
    assert file.exists() or committed <= 1
    if file.exists():
        training = Adapter.load(path).card.training
        assert committed - 1 <= training["generations"] <= committed
        assert training["generations"] >= 1
        if training["generations"] < 2:
            assert training["stopped"] == "not finished"


@pytest.mark.slow
def test_a_kill_at_any_point_changes_nothing_and_costs_nothing(
    tmp_path: Path, reference: Fit
) -> None:
    """Every point of a whole run: adapter bytes, journal and bill are those of the undisturbed."""
    points = count_points(tmp_path)
    assert points > 40
    for at in range(1, points + 1):
        box, path = SmoothBox(), tmp_path / f"at-{at}"
        with killing(box, at), pytest.raises(Killed):
            fit(path, box, None, FAST)
        check_what_is_left(path)
        done = fit(path, box, None, FAST)
        assert done.adapter.to_bytes() == reference.adapter.to_bytes(), at
        stored = (path / "adapter.safetensors").read_bytes()
        assert stored == reference.adapter.to_bytes(), at
        assert rows(done.run) == rows(reference.run), at
        assert done.run.restore().journal == reference.run.restore().journal, at
        assert box.used == reference.run.plan.fit.queries, at


def test_two_kills_and_torn_lines_change_nothing(tmp_path: Path, reference: Fit) -> None:
    box, path = SmoothBox(), tmp_path / "run"
    for at in (17, 21):
        with killing(box, at), pytest.raises(Killed):
            fit(path, box, None, FAST)
        for name in ("journal.jsonl", "metrics.jsonl"):
            with (path / name).open("ab") as file:
                file.write(b'{"generation": 7, "fit')
    done = fit(path, box, None, FAST)
    assert done.adapter.to_bytes() == reference.adapter.to_bytes()
    assert box.used == reference.run.plan.fit.queries


def test_a_finished_run_resumes_to_itself_without_a_question(
    tmp_path: Path, reference: Fit
) -> None:
    box = SmoothBox()
    fit(tmp_path / "run", box, None, FAST)
    asked = len(box.asked)
    again = fit(tmp_path / "run", box, None, FAST)
    assert again.adapter.to_bytes() == reference.adapter.to_bytes()
    assert len(box.asked) == asked
    assert again.progress == []


# --- when it goes wrong ---------------------------------------------------------------------------


@pytest.mark.parametrize(("limit", "kept"), [(20, 2), (13, 1), (10, 1), (7, 1), (6, 0), (0, 0)])
def test_an_exhausted_budget_leaves_the_last_generations_adapter(
    limit: int, kept: int, tmp_path: Path
) -> None:
    box = SmoothBox()
    box.limit = 10**6
    with Run.create(tmp_path / "run", CONFIG) as run:
        task = a_task(box, views=2)
        method = methods.get("craft")
        run.save_plan(method.plan(CONFIG, Workload.of(task, TEST), box.budgets()))
        box.limit = limit
        with pytest.raises(BudgetExhausted, match=f"adapter of generation {kept} of 3 is saved"):
            method.fit(box, task, recorder=run, on_progress=lambda step: None)
    adapter = Adapter.load(tmp_path / "run")
    assert adapter.card.training["generations"] == kept
    assert (adapter.offsets is None) == (kept == 0)
    box.limit = 10**6
    resumed = fit(tmp_path / "run", box, task, CONFIG)
    whole = fit(tmp_path / "whole", SmoothBox(), None, CONFIG)
    assert resumed.adapter.to_bytes() == whole.adapter.to_bytes()
    assert box.used == 21


def test_a_head_that_diverges_leaves_the_last_good_adapter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    epoch = Head.epoch

    def explode(self, logits, labels, *, generation, kl_weight):
        if generation == 3 and self._index == 0:
            logits = logits * np.float32(np.inf)
        return epoch(self, logits, labels, generation=generation, kl_weight=kl_weight)

    monkeypatch.setattr(Head, "epoch", explode)
    with pytest.raises(FitDiverged, match=r"generation 3: the head's loss is nan; lower --lr\."):
        fit(tmp_path / "run", SmoothBox(), None, CONFIG)
    adapter = Adapter.load(tmp_path / "run")
    assert adapter.card.training["generations"] == 2
    assert np.isfinite(adapter.head[0].weight).all()


def test_a_box_that_answers_nonsense_stops_the_fit(tmp_path: Path) -> None:
    box = SmoothBox()
    task = a_task(box)
    box.sets["shots"][:] = np.nan
    with pytest.raises(FitDiverged, match="generation 1: a fitness is not finite"):
        fit(tmp_path / "run", box, task, CONFIG)


def test_a_run_goes_on_only_with_its_own_task_and_model(tmp_path: Path) -> None:
    fit(tmp_path / "run", SmoothBox(), None, CONFIG)
    with pytest.raises(RunError, match="other labels"):
        fit(tmp_path / "run", SmoothBox(), a_task(SmoothBox(), shots=5), CONFIG)
    box = SmoothBox()

    class OtherModel(SmoothBox):
        @property
        def card(self):
            return box.card.model_copy(update={"digest": "e" * 64})

    with pytest.raises(WrongModel):
        fit(tmp_path / "run", OtherModel(), None, CONFIG)


# --- the other methods ----------------------------------------------------------------------------


def test_bbt_is_the_search_alone(tmp_path: Path) -> None:
    box = SmoothBox()
    config = build({**SMALL, "method": "bbt", "budget": 4 * 6 + 2})
    done = fit(tmp_path / "run", box, None, config)
    assert box.used == 24
    assert {question.purpose for question in box.paid.values()} == {"fitness"}
    assert done.adapter.head == ()
    assert done.adapter.offsets.shape == (1, 4, 6)
    assert done.adapter.card.method == "bbt"


def test_bbt_and_craft_without_kl_search_alike(tmp_path: Path) -> None:
    """With w = 0 fitness is the cross-entropy alone, in numpy as in torch."""
    craft = fit(tmp_path / "a", SmoothBox(), None, build({**SMALL, "kl_weight": 0.0}))
    bbt = fit(tmp_path / "b", SmoothBox(), None, build({**SMALL, "method": "bbt", "budget": 20}))
    pairs = zip(craft.run.restore().journal, bbt.run.restore().journal, strict=True)
    for mine, yours in pairs:
        assert mine.asked == yours.asked
        np.testing.assert_allclose(mine.fitness, yours.fitness, rtol=1e-5, atol=1e-6)


def test_bbt_resumes_to_the_same_bytes(tmp_path: Path) -> None:
    config = build({**SMALL, "method": "bbt"})
    whole = fit(tmp_path / "whole", SmoothBox(), None, config)
    box = SmoothBox()
    with killing(box, 30), pytest.raises(Killed):
        fit(tmp_path / "run", box, None, config)
    assert fit(tmp_path / "run", box, None, config).adapter.to_bytes() == whole.adapter.to_bytes()
    assert box.used == whole.run.plan.fit.queries


def test_zero_shot_asks_nothing_and_changes_nothing(tmp_path: Path) -> None:
    box = SmoothBox()
    done = fit(tmp_path / "run", box, None, build({"method": "zero_shot"}))
    assert box.used == 0
    assert done.run.plan.total.queries == 1
    assert (done.adapter.offsets, done.adapter.head) == (None, ())


@pytest.mark.parametrize(
    ("settings", "views"),
    [
        ({"method": "craft", "views": 5}, 5),
        ({"method": "bbt"}, 0),
        ({"method": "bbt", "fitness_view": "augmented"}, 1),
        ({"method": "zero_shot"}, 0),
    ],
)
def test_methods_say_how_many_views_they_read(settings: dict[str, object], views: int) -> None:
    config = build(settings)
    assert methods.get(config.method).views(config) == views


@pytest.mark.parametrize("method", ["craft", "bbt"])
def test_fitness_can_see_the_augmented_view(method: str, tmp_path: Path) -> None:
    box, sets = SmoothBox(), set()
    task = a_task(box)
    score = box.score

    def watch(texts, offsets, images, *, purpose, step):
        if purpose == "fitness":
            sets.add(images.sets)
        return score(texts, offsets, images, purpose=purpose, step=step)

    box.score = watch  # type: ignore[method-assign]
    config: FitConfig = build({**SMALL, "method": method, "fitness_view": "augmented"})
    fit(tmp_path / "run", box, task, config)
    assert sets == {("view-0",)}


def test_the_registry_has_every_method_of_the_configuration() -> None:
    assert {"zero_shot", "bbt", "craft"} < {*methods.names()}
    for name in methods.names():
        method = methods.get(name)
        assert method.name == name
        assert method.summary
    with pytest.raises(UsageError, match="method 'magic' does not exist; there are: zero_shot"):
        methods.get("magic")
