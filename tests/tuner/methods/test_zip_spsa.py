"""ZIP and SPSA as methods: their formulas by hand, what they ask, and kills that change nothing."""

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from craft_tuner import methods
from craft_tuner.adapter.adapter import Adapter
from craft_tuner.blackbox import Images
from craft_tuner.config.fit_config import build
from craft_tuner.errors import BudgetExhausted
from craft_tuner.methods import spsa
from craft_tuner.methods import zip as zip_
from craft_tuner.methods.zip import Fastfood, Shape
from craft_tuner.plan import Workload
from craft_tuner.runs.run import Run
from tests.support.tuner_fakes import SmoothBox, a_task
from tests.support.tuner_runs import TEST, Fit, fit

pytestmark = pytest.mark.slow

SMALL: dict[str, Any] = {"shots": 4, "intrinsic_dim": 12, "sigma": 0.3, "budget": 6 * 4 + 2}
SETTINGS: dict[str, dict[str, Any]] = {
    "zip": {**SMALL, "method": "zip", "zip_pairs": 2, "zip_intrinsic_dim": 20, "zip_rank": 2},
    "spsa": {**SMALL, "method": "spsa", "spsa_pairs": 2},
}
LONGER = {
    "zip": {**SETTINGS["zip"], "zip_a": 0.5, "budget": 100 * 4 + 2},
    "spsa": {**SETTINGS["spsa"], "budget": 100 * 4 + 2},
}
both = pytest.mark.parametrize("method", ["zip", "spsa"])


# --- ZIP's context, by hand -----------------------------------------------------------------------

TINY = Shape(tokens=2, features=2, rank=1)
W = np.array([1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0])
"""U = (1, 2)^T, s = (3), V = (4, 5)^T, u = (6, 7)."""


def test_the_papers_shape_searches_417_numbers() -> None:
    words = {"context": "a b c d e f g h"}
    assert Shape.of(build(words), width=512) == Shape(tokens=8, features=62, rank=5)
    assert Shape.of(build(words), width=512).size == 417  # the paper's delta at 500 and rank 5
    assert Shape.of(build(), width=512) == Shape(tokens=4, features=125, rank=5)
    assert Shape.of(build(), width=100).features == 100
    assert Shape.of(build({"zip_intrinsic_dim": 3}), width=100).features == 1


def test_the_context_is_low_rank_plus_what_tokens_share() -> None:
    """Row i is U_i s V^T + u: 1 * 3 * (4, 5) + (6, 7) and 2 * 3 * (4, 5) + (6, 7)."""
    assert TINY.size == 7
    assert TINY.matrix(W).tolist() == [[18, 22], [30, 37]]
    assert TINY.matrix(np.stack([W, 0 * W]))[1].tolist() == [[0, 0], [0, 0]]


def test_the_diagonal_scales_each_rank_alone() -> None:
    """With m = 1, q = 1, r = 2: (2 * 10) * 5 + (3 * 100) * 7 + 1."""
    assert Shape(1, 1, 2).matrix(np.array([2.0, 3, 10, 100, 5, 7, 1])).tolist() == [[2201]]


def test_fastfood_by_hand() -> None:
    """L = 4, x = (1, 2): B x = (1, -2, 0, 0); H: (-1, 3, -1, 3); Pi: (-1, -1, 3, 3).

    G: (-1, -2, -3, 1.5); H: (-4.5, -3.5, -1.5, 5.5); three of them over sqrt(4 * 6.25 * 3 / 4).
    """
    food = Fastfood(
        signs=np.array([1, -1, 1, 1]),
        order=np.array([2, 0, 3, 1]),
        scales=np.array([1, 2, -1, 0.5]),
    )
    moved = food.matrix(3, 2) @ [1, 2]
    np.testing.assert_allclose(moved, np.array([-4.5, -3.5, -1.5]) / math.sqrt(18.75))


def test_fastfood_keeps_lengths_on_average_and_tokens_differ() -> None:
    shape = Shape(tokens=12, features=30, rank=1)
    matrices = zip_.transforms(build(), shape, width=100)
    assert matrices.shape == (12, 100, 30)
    assert matrices.dtype == np.float32
    lengths = (matrices.astype(np.float64) ** 2).sum(axis=1)
    assert lengths.mean() == pytest.approx(1, abs=0.05)
    assert not np.array_equal(matrices[0], matrices[1])
    again, other = (zip_.transforms(build({"seed": s}), shape, width=100) for s in (1, 2))
    assert np.array_equal(matrices, again)
    assert not np.array_equal(matrices, other)


def test_each_token_goes_through_its_own_transform() -> None:
    matrices = np.array([[[1, 0], [0, 1], [1, 1]], [[2, 0], [0, 0], [0, 3]]], np.float32)
    found = zip_.offsets(TINY, matrices, np.stack([W, 0 * W]))
    assert found.dtype == np.float32
    assert found.tolist() == [[[18, 22, 40], [60, 0, 111]], [[0, 0, 0], [0, 0, 0]]]


def test_zip_begins_where_its_words_are_and_can_leave() -> None:
    shape = Shape(tokens=4, features=30, rank=5)
    w = zip_.start(shape, seed=1)
    left, scale, right, shared = shape.factors(w)
    assert not left.any()
    assert not shared.any()
    assert np.array_equal(scale, np.ones(5))
    assert right.std() == pytest.approx(1, abs=0.2)
    assert not shape.matrix(w).any()
    assert not np.array_equal(w, zip_.start(shape, seed=2))


def test_zips_gains_are_the_published_ones_and_its_clip_is_the_root_of_delta() -> None:
    """One pair, fitness 1e6 apart: the step is a / 2^0.4 of an estimate of norm sqrt(delta)."""
    config = build({"zip_pairs": 1})
    shape = Shape(tokens=8, features=62, rank=5)
    search = zip_.descent(config, shape, iterations=3)
    begin = search.center
    above, below = search.ask()
    reach = np.abs(above - below) / 2
    assert reach.min() >= 0.005  # c_1 = 0.01, perturbations from 1/2 to 1
    assert reach.max() <= 0.01
    search.tell([1e6, 0])
    moved = float(np.linalg.norm(search.center - begin))
    assert moved == pytest.approx(0.01 / 2**0.4 * math.sqrt(417))


# --- SPSA's gains ---------------------------------------------------------------------------------


def test_spsas_first_step_is_spsa_step_times_sigma_and_shrinks_as_spall_says() -> None:
    config = build({"spsa_step": 0.25, "sigma": 0.4, "bound": 5.0, "spsa_pairs": 1})
    search = spsa.descent(config, iterations=100)
    above, below = search.ask()
    np.testing.assert_allclose(np.abs(above - below) / 2, config.of(spsa.SpsaSettings).spsa_c * 0.4)
    search.tell([1, 0])
    np.testing.assert_allclose(np.abs(search.center), 0.1)
    assert search.metrics["step_gain"] == pytest.approx(0.1)
    search.ask()
    before = search.center
    search.tell([1 + 2**-0.101, 1])  # as steep as the first: c_2 = c_1 / 2^0.101
    np.testing.assert_allclose(np.abs(search.center - before), 0.1 * (11 / 12) ** 0.602)


# --- as methods -----------------------------------------------------------------------------------


@both
def test_a_fit_spends_its_plan_in_one_call_an_iteration(method: str, tmp_path: Path) -> None:
    box = SmoothBox()
    done = fit(tmp_path / "run", box, None, build(SETTINGS[method]))
    assert (done.run.plan.generations, done.run.plan.population) == (6, 4)
    assert box.used == done.run.plan.fit.queries == 24
    assert box.asked == [f"fitness/{number}" for number in range(1, 7)]
    assert {question.prompts for question in box.paid.values()} == {4}
    assert [step.queries for step in done.progress] == [4, 8, 12, 16, 20, 24]
    card = done.adapter.card
    assert (card.method, card.training["queries"]) == (method, 24)
    assert card.training["stopped"] == "the plan's generations are done"
    assert done.adapter.offsets.shape == (1, 4, 6)
    assert done.adapter.head == ()


@both
def test_the_first_pair_lies_about_the_words_themselves(method: str, tmp_path: Path) -> None:
    box = SmoothBox()
    fit(tmp_path / "run", box, None, build(SETTINGS[method]))
    first = np.frombuffer(box.paid["fitness/1"].content, np.float32).reshape(2, 2, 4, 6)
    assert first.any()
    if method == "spsa":  # offsets are linear in z
        np.testing.assert_allclose(first.mean(axis=0), 0, atol=1e-6)
    else:  # and quadratic in w: the middle is off by c^2 at most
        assert np.abs(first.mean(axis=0)).max() < np.abs(first).max() / 10


@both
def test_training_lowers_the_loss(method: str, tmp_path: Path) -> None:
    box = SmoothBox()
    task = a_task(box, shots=4, noise=0.3)
    done = fit(tmp_path / "run", box, task, build(LONGER[method]))
    first, last = done.progress[0].metrics, done.progress[-1].metrics
    assert last["fitness_median"] < first["fitness_median"] / 2
    assert last["prompt_accuracy"] > first["prompt_accuracy"]
    assert last["step_gain"] < first["step_gain"]


@both
def test_the_same_seed_gives_the_same_bytes_and_another_does_not(
    method: str, tmp_path: Path
) -> None:
    one, two, other = (
        fit(tmp_path / str(n), SmoothBox(), None, build({**SETTINGS[method], "seed": seed})).adapter
        for n, seed in enumerate((1, 1, 2))
    )
    assert one.to_bytes() == two.to_bytes() != other.to_bytes()


class Killed(BaseException):
    """The process is gone."""


def killed_at(box: SmoothBox, at: int, when: str) -> None:
    """Let the box die at its `at`-th question, before or after it is paid."""
    score, count = box.score, 0

    def dying(*args: Any, **kwargs: Any) -> Any:
        nonlocal count
        count += 1
        if count == at and when == "before":
            raise Killed
        answer = score(*args, **kwargs)
        if count == at:
            raise Killed
        return answer

    box.score = dying  # type: ignore[method-assign]


@both
@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("at", [1, 4, 6])
def test_a_killed_run_resumes_to_the_same_bytes_and_pays_nothing_twice(
    method: str, when: str, at: int, tmp_path: Path
) -> None:
    config = build(SETTINGS[method])
    whole = fit(tmp_path / "whole", SmoothBox(), None, config)
    box, path = SmoothBox(), tmp_path / "run"
    score = box.score
    killed_at(box, at, when)
    with pytest.raises(Killed):
        fit(path, box, None, config)
    box.score = score  # type: ignore[method-assign]
    resumed = fit(path, box, None, config)
    assert resumed.adapter.to_bytes() == whole.adapter.to_bytes()
    assert resumed.run.restore().journal == whole.run.restore().journal
    assert box.used == whole.run.plan.fit.queries
    assert len(resumed.progress) == 7 - at


@both
def test_an_exhausted_budget_leaves_the_last_iterations_adapter(
    method: str, tmp_path: Path
) -> None:
    config = build(SETTINGS[method])
    whole = fit(tmp_path / "whole", SmoothBox(), None, config)
    box, path = SmoothBox(), tmp_path / "run"
    task = a_task(box, views=config.views)
    with Run.create(path, config) as run:
        run.save_plan(methods.get(method).plan(config, Workload.of(task, TEST), box.budgets()))
        box.limit = 14
        with pytest.raises(BudgetExhausted, match="adapter of generation 3 of 6 is saved"):
            methods.get(method).fit(box, task, recorder=run, on_progress=lambda _: None)
    saved = Adapter.load(path)
    assert saved.card.training["queries"] == box.used == 12
    box.limit = 10**6
    assert fit(path, box, task, config).adapter.to_bytes() == whole.adapter.to_bytes()
    assert box.used == 24


@both
def test_a_budget_for_less_than_one_iteration_is_refused_before_a_query(method: str) -> None:
    config = build({**SETTINGS[method], "budget": 5})
    work = Workload(3, 12, 1, TEST.count, len(TEST.sets))
    with pytest.raises(BudgetExhausted, match=f"at least 6 or lower --{method}-pairs"):
        methods.get(method).plan(config, work)


@both
def test_fitness_sees_the_augmented_view_where_it_is_asked_to(method: str, tmp_path: Path) -> None:
    box, seen = SmoothBox(), set()
    task = a_task(box)
    config = build({**SETTINGS[method], "fitness_view": "augmented"})
    assert (methods.get(method).views(config), methods.get(method).views(build())) == (1, 0)
    only = dataclasses.replace(task, shots=Images(("not to be asked",), task.shots.count))
    score = box.score

    def watch(texts, offsets, images, *, purpose, step):
        seen.add(images.sets)
        return score(texts, offsets, images, purpose=purpose, step=step)

    box.score = watch  # type: ignore[method-assign]
    fit(tmp_path / "run", box, only, config)
    assert seen == {("view-0",)}


@both
def test_a_checkpoint_is_small(method: str, tmp_path: Path) -> None:
    """The state follows from the journal, whose line is what an iteration learnt."""
    done: Fit = fit(tmp_path / "run", SmoothBox(), None, build(SETTINGS[method]))
    assert (done.run.path / "checkpoint.safetensors").stat().st_size < 100
    lines = (done.run.path / "journal.jsonl").read_text().splitlines()
    assert [len(json.loads(line)["fitness"]) for line in lines] == 6 * [4]
