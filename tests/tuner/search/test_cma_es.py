"""The search is pycma's own, drawn from the run's seed, replayable without a query."""

from pathlib import Path

import cma
import numpy as np
import pytest
from cma.sigma_adaptation import CMAAdaptSigmaCSA, CMAAdaptSigmaTPA
from hypothesis import given, settings
from hypothesis import strategies as st

from craft_tuner.config.fit_config import build
from craft_tuner.errors import FitDiverged, RunError
from craft_tuner.methods.loop import replay
from craft_tuner.runs.journal import Generation
from craft_tuner.search.base import digest
from craft_tuner.search.cma_es import CmaEs
from craft_tuner.search.projection import kept_variance, project, projection

SMALL = {"intrinsic_dim": 12, "population": 8}


def sphere(z: np.ndarray) -> list[float]:
    return [float(((row - 1) ** 2).sum()) for row in z]


def advance(search: CmaEs, generations: int) -> list[Generation]:
    journal = []
    for _ in range(generations):
        z = search.ask()
        fitness = sphere(z)
        search.tell(fitness)
        number = search.generation
        journal.append(
            Generation(generation=number, fitness=tuple(fitness), asked=digest(z), queries=number)
        )
    return journal


def test_normal_projection_has_the_std_and_uniform_the_edge_of_nn_linear() -> None:
    normal = projection(build({"std": 0.7}), 64)
    assert normal.shape == (256, 512)
    assert normal.dtype == np.float32
    assert normal.std() == pytest.approx(0.7, rel=0.01)
    uniform = projection(build({"projection": "uniform"}), 64)
    assert np.abs(uniform).max() <= 1 / 512**0.5
    assert uniform.std() == pytest.approx(0.0255, abs=1e-4)  # method.md, ImageNet


def test_projection_depends_on_the_seed_alone() -> None:
    assert np.array_equal(projection(build(), 8), projection(build({"sigma": 0.1}), 8))
    assert not np.array_equal(projection(build(), 8), projection(build({"seed": 2}), 8))


@given(scale=st.floats(-4, 4), seed=st.integers(0, 1000))
def test_offsets_are_linear_in_z(scale: float, seed: int) -> None:
    a = projection(build(SMALL), 3)
    draw = np.random.RandomState(seed)
    x, y = draw.randn(2, 5, 12)
    left = project(a, x + scale * y, n_ctx=4)
    right = project(a, x, n_ctx=4) + scale * project(a, y, n_ctx=4)
    assert left.shape == (5, 4, 3)
    np.testing.assert_allclose(left, right, atol=1e-5)


def test_a_single_z_gives_a_single_context() -> None:
    a = projection(build(SMALL), 3)
    z = np.arange(12.0)
    np.testing.assert_allclose(project(a, z, n_ctx=4), (a @ z).reshape(4, 3), rtol=1e-5)


@pytest.mark.parametrize(
    ("a", "share"),
    [
        (np.eye(6), 1.0),
        (3 * np.eye(6)[:, :2], 2 / 6),
        (np.ones((6, 4)), 1 / 6),
    ],
)
def test_kept_variance_is_the_participation_ratio(a: np.ndarray, share: float) -> None:
    assert kept_variance(a.astype(np.float32)) == pytest.approx(share)


def test_kept_variance_of_a_normal_projection_is_about_d_over_d_plus_width() -> None:
    assert kept_variance(projection(build(), 512)) == pytest.approx(0.2, abs=0.005)


@pytest.mark.parametrize("bound", [None, 0.5])
@pytest.mark.parametrize("step_size", ["csa", "tpa"])
def test_the_stream_is_the_one_pycma_draws_with_that_seed(
    bound: float | None, step_size: str
) -> None:
    config = build({**SMALL, "seed": 7, "sigma": 0.3, "bound": bound, "step_size": step_size})
    ours = CmaEs(config, generations=5)
    bounds = {} if bound is None else {"bounds": [-bound, bound]}
    rules = {"csa": CMAAdaptSigmaCSA, "tpa": CMAAdaptSigmaTPA}
    state = np.random.get_state()
    theirs = cma.CMAEvolutionStrategy(
        12 * [0],
        0.3,
        inopts={
            "seed": 7,
            "popsize": 8,
            "maxiter": 5,
            "verbose": -9,
            "AdaptSigma": rules[step_size],
            **bounds,
        },
    )
    while not theirs.stop():
        solutions = theirs.ask()
        assert np.array_equal(ours.ask(), np.array(solutions))
        theirs.tell(solutions, sphere(np.array(solutions)))
        ours.tell(sphere(np.array(solutions)))
        assert np.array_equal(ours.center, theirs.result.xfavorite)
        assert ours.sigma == theirs.sigma
    assert ours.stopped == "the plan's generations are done"
    np.random.set_state(state)


def test_csa_is_what_the_authors_pycma_chose_and_todays_default_is_not() -> None:
    today = cma.CMAEvolutionStrategy(512 * [0], 1, inopts={"verbose": -9, "seed": 1})
    assert isinstance(today.adapt_sigma, CMAAdaptSigmaTPA)
    assert build().step_size == "csa"


def test_numpys_global_stream_is_left_alone() -> None:
    np.random.seed(1)
    before = np.random.get_state()[1].copy()
    advance(CmaEs(build(SMALL), generations=3), 3)
    projection(build(SMALL), 4)
    assert np.array_equal(np.random.get_state()[1], before)


def test_a_signals_file_lying_around_does_not_steer_the_search(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("cma_signals.in").write_text("{'timeout': 0, 'maxiter': 1}")
    search = CmaEs(build(SMALL), generations=3)
    advance(search, 2)
    assert search.stopped is None
    assert [file.name for file in tmp_path.iterdir()] == ["cma_signals.in"]


@given(seed=st.integers(1, 2**32 - 1), bound=st.sampled_from([0.3, 2.0]))
@settings(max_examples=15, deadline=None)
def test_every_z_and_the_mean_respect_the_bounds(seed: int, bound: float) -> None:
    config = build({**SMALL, "seed": seed, "sigma": bound / 2, "bound": bound})
    search = CmaEs(config, generations=4)
    for _ in range(4):
        z = search.ask()
        assert np.abs(z).max() <= bound
        search.tell(sphere(z))
        assert np.abs(search.center).max() <= bound


@given(
    seed=st.integers(1, 2**32 - 1),
    done=st.integers(0, 5),
    kind=st.sampled_from(["mean", "best", "resampled"]),
)
@settings(max_examples=15, deadline=None)
def test_a_replayed_search_goes_on_as_the_original(seed: int, done: int, kind: str) -> None:
    config = build({**SMALL, "seed": seed, "head_context": kind})
    original, replayed = (CmaEs(config, generations=8) for _ in range(2))
    replay(replayed, advance(original, done))
    assert np.array_equal(replayed.center, original.center)
    assert advance(replayed, 3) == advance(original, 3)
    assert replayed.best == original.best


def test_a_replay_that_asks_other_z_is_refused() -> None:
    journal = advance(CmaEs(build(SMALL), generations=3), 2)
    with pytest.raises(RunError, match="generation 1 cannot be replayed"):
        replay(CmaEs(build({**SMALL, "seed": 2}), generations=3), journal)


def test_best_is_the_sample_with_the_lowest_fitness_so_far() -> None:
    search = CmaEs(build({**SMALL, "head_context": "best"}), generations=9)
    lowest = None
    for _ in range(4):
        z = search.ask()
        fitness = sphere(z)
        search.tell(fitness)
        candidate = (min(fitness), z[int(np.argmin(fitness))])
        lowest = candidate if lowest is None or candidate[0] < lowest[0] else lowest
        assert np.array_equal(search.center, lowest[1])
        assert search.best == lowest[0]


def test_resampling_draws_from_the_search_and_the_mean_does_not() -> None:
    mean, resampled = (
        CmaEs(build({**SMALL, "head_context": kind}), generations=5)
        for kind in ("mean", "resampled")
    )
    for search in (mean, resampled):
        advance(search, 1)
    distance = np.abs(mean.center - resampled.center).max()
    assert 0 < distance < mean.sigma * 4
    assert not np.array_equal(mean.ask(), resampled.ask())


def test_the_center_is_zero_before_the_first_tell() -> None:
    assert not CmaEs(build(SMALL), generations=5).center.any()


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_fitness_that_is_not_finite_stops_the_fit(bad: float) -> None:
    search = CmaEs(build(SMALL), generations=5)
    search.ask()
    with pytest.raises(FitDiverged, match="generation 1: a fitness is not finite"):
        search.tell([bad, *range(7)])


def test_flat_fitness_stops_and_says_so() -> None:
    search = CmaEs(build(SMALL), generations=500)
    while search.stopped is None:
        search.tell(len(search.ask()) * [1.0])
    assert search.generation < 20
    assert "fitness no longer changes; if it is high, raise sigma or std" in search.stopped
