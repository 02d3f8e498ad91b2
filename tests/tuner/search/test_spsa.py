"""Descent by pairs of queries: numbers worked by hand, and that it goes down."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from craft_tuner.errors import FitDiverged, RunError
from craft_tuner.methods.loop import replay
from craft_tuner.runs.journal import Generation
from craft_tuner.search.base import Vector, digest
from craft_tuner.search.spsa import Descent, Gains, Rule, segments, signs

CONSTANT = Gains(a=0.1, stability=0, alpha=0, c=0.5, gamma=0)
"""a_k = 0.1 and c_k = 0.5 for all k."""


def given_deltas(*rows: list[float]):
    """A draw that gives these perturbations, whatever the stream."""
    return lambda draw, shape: np.array(rows)


def bowl(points: Vector) -> list[float]:
    """|w - 1|^2 of each point."""
    return [float(((point - 1) ** 2).sum()) for point in points]


def advance(search: Descent, iterations: int) -> list[Generation]:
    lines = []
    for _ in range(iterations):
        points = search.ask()
        fitness = tuple(bowl(points))
        search.tell(fitness)
        number = search.generation
        lines.append(
            Generation(generation=number, fitness=fitness, asked=digest(points), queries=number)
        )
    return lines


# --- by hand --------------------------------------------------------------------------------------


def test_gains_are_spalls_sequences() -> None:
    gains = Gains(a=6, stability=7, alpha=0.5, c=8, gamma=2)
    assert (gains.step(2), gains.step(9)) == (2, 1.5)  # 6 / sqrt(9), 6 / sqrt(16)
    assert (gains.perturbation(1), gains.perturbation(4)) == (8, 0.5)  # 8 / 1, 8 / 16


def test_one_pair_by_hand() -> None:
    """Fitness 9 above and 5 below: (9 - 5) / (2 * 0.5 * (1, -2, 0.5)) = (4, -2, 8)."""
    rule = Rule(CONSTANT, 1, given_deltas([1, -2, 0.5]))
    search = Descent(np.array([1.0, 1.0, 1.0]), rule, seed=1, iterations=2)
    assert search.ask().tolist() == [[1.5, 0, 1.25], [0.5, 2, 0.75]]
    search.tell([9, 5])
    np.testing.assert_allclose(search.center, [0.6, 1.2, 0.2])
    assert search.metrics["estimate_norm"] == pytest.approx(math.sqrt(84))
    assert (search.best, search.generation, search.stopped) == (5, 1, None)


def test_pairs_are_averaged() -> None:
    """(9 - 5) / (1, 1) and (3 - 1) / (1, -1): the mean of (4, 4) and (2, -2) is (3, 1)."""
    rule = Rule(CONSTANT, 2, given_deltas([1, 1], [1, -1]))
    search = Descent(np.zeros(2), rule, seed=1, iterations=1)
    assert search.ask().tolist() == [[0.5, 0.5], [0.5, -0.5], [-0.5, -0.5], [-0.5, 0.5]]
    search.tell([9, 3, 5, 1])
    np.testing.assert_allclose(search.center, [-0.3, -0.1])


@pytest.mark.parametrize(
    ("clip", "center"),
    [
        (5.1, [-0.3, -0.4]),
        (5.0, [-0.3, -0.4]),
        (2.5, [-0.15, -0.2]),
        (None, [-0.3, -0.4]),
    ],
)
def test_a_long_estimate_is_shortened_to_the_clip(clip: float | None, center: list[float]) -> None:
    """Fitness 1 above and 0 below, reach (1/3, 1/4): the estimate is (3, 4), of norm 5."""
    rule = Rule(CONSTANT, 1, given_deltas([1 / 3, 1 / 4]), clip=clip)
    search = Descent(np.zeros(2), rule, seed=1, iterations=1)
    search.ask()
    search.tell([1, 0])
    np.testing.assert_allclose(search.center, center)
    assert search.metrics["estimate_norm"] == pytest.approx(5)


def test_relative_estimates_are_measured_by_the_first_that_is_not_zero() -> None:
    rule = Rule(CONSTANT, 1, given_deltas([1, -1]), relative=True)
    search = Descent(np.zeros(2), rule, seed=1, iterations=9)
    for fitness, center in (
        ([3, 3], [0, 0]),
        ([1006, 1000], [-0.1, 0.1]),  # (6, -6) is the unit
        ([1003, 1000], [-0.15, 0.15]),
    ):
        search.ask()
        search.tell(fitness)
        np.testing.assert_allclose(search.center, center, atol=1e-12)


def test_gains_shrink_from_iteration_to_iteration() -> None:
    gains = Gains(a=2, stability=1, alpha=1, c=1, gamma=1)
    search = Descent(np.zeros(1), Rule(gains, 1, given_deltas([1])), seed=1, iterations=9)
    search.ask()
    search.tell([4, 0])  # estimate 4 / 2, step 2 / 2
    assert search.center.tolist() == [-2]
    assert search.ask().tolist() == [[-1.5], [-2.5]]
    search.tell([1, 4])  # estimate -3 / 1, step 2 / 3
    np.testing.assert_allclose(search.center, [0])
    assert search.metrics["step_gain"] == pytest.approx(2 / 3)
    assert search.metrics["perturbation_gain"] == 0.5


# --- draws ----------------------------------------------------------------------------------------


@given(seed=st.integers(0, 2**32 - 1))
def test_perturbations_are_symmetric_and_keep_away_from_zero(seed: int) -> None:
    draw = np.random.RandomState(seed)
    both = signs(draw, (50, 40))
    assert set(np.unique(both)) == {-1.0, 1.0}
    assert abs(both.mean()) < 0.15
    some = segments(draw, (50, 40))
    assert np.abs(some).min() >= 0.5
    assert np.abs(some).max() <= 1
    assert abs(some.mean()) < 0.15
    assert np.abs(some).mean() == pytest.approx(0.75, abs=0.03)


# --- as a search ----------------------------------------------------------------------------------


@pytest.mark.parametrize("draw", [signs, segments])
@pytest.mark.parametrize("relative", [True, False])
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_the_bottom_of_a_bowl_is_found(draw, relative: bool, seed: int) -> None:
    gains = Gains(a=1.0 if relative else 0.2, stability=20, alpha=0.602, c=0.1, gamma=0.101)
    rule = Rule(gains, 4, draw, relative=relative)
    search = Descent(np.zeros(10), rule, seed=seed, iterations=400)
    while search.stopped is None:
        search.tell(bowl(search.ask()))
    assert search.generation == 400
    assert search.stopped == "the plan's generations are done"
    np.testing.assert_allclose(search.center, 1, atol=0.02)


def test_the_path_depends_on_the_seed_alone() -> None:
    rule = Rule(CONSTANT, 3, segments)
    one, two, other = (
        advance(Descent(np.zeros(6), rule, seed=seed, iterations=9), 5) for seed in (1, 1, 2)
    )
    assert one == two
    assert not {line.asked for line in one} & {line.asked for line in other}


@given(done=st.integers(0, 5), relative=st.booleans())
@settings(max_examples=10, deadline=None)
def test_a_replayed_descent_goes_on_as_the_original(done: int, *, relative: bool) -> None:
    rule = Rule(CONSTANT, 3, signs, clip=4.0, relative=relative)
    original, replayed = (Descent(np.zeros(6), rule, seed=7, iterations=20) for _ in range(2))
    replay(replayed, advance(original, done))
    assert np.array_equal(replayed.center, original.center)
    assert advance(replayed, 3) == advance(original, 3)
    assert (replayed.best, replayed.metrics) == (original.best, original.metrics)


def test_a_replay_that_asks_other_points_is_refused() -> None:
    rule = Rule(CONSTANT, 3, signs)
    lines = advance(Descent(np.zeros(6), rule, seed=1, iterations=9), 2)
    with pytest.raises(RunError, match="generation 1 cannot be replayed"):
        replay(Descent(np.zeros(6), rule, seed=2, iterations=9), lines)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_fitness_that_is_not_finite_moves_nothing(bad: float) -> None:
    search = Descent(np.zeros(2), Rule(CONSTANT, 1, signs), seed=1, iterations=9)
    search.ask()
    with pytest.raises(FitDiverged, match="generation 1: a fitness is not finite"):
        search.tell([bad, 1])
    assert (search.generation, search.center.any()) == (0, False)
