"""Each warning comes when its numbers say so, once, and tells what to do."""

import pytest

from craft_tuner.config.fit_config import build
from craft_tuner.runs.diagnostics import METRICS, Diagnostics
from tests.support.tuner_fakes import SmoothBox
from tests.support.tuner_runs import fit

FINE = {
    "sigma": 0.5,
    "fitness_lowest": 1.0,
    "head_loss": 0.5,
    "kl_symmetric": 0.01,
    "kept_variance": 0.5,
    "gradient_norm_0": 0.1,
    "gradient_norm_1": 0.1,
}


DESCENT = {name: value for name, value in FINE.items() if name != "sigma"} | {"step_gain": 0.1}


def improving(generation: int) -> dict[str, float]:
    return {**FINE, "fitness_lowest": 2.0 * 0.99**generation}


def warnings_of(rows: list[dict[str, float]]) -> list[str]:
    watch = Diagnostics()
    last = len(rows) - 1
    return [w for n, row in enumerate(rows) for w in watch.observe(row, last=n == last)]


def test_a_healthy_run_is_silent() -> None:
    assert warnings_of([improving(g) for g in range(120)]) == []


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        (60 * [FINE], "fitness has hardly moved for 50 generations (lowest 1.0000, sigma 0.5)"),
        (60 * [DESCENT], "(lowest 1.0000); the steps are too small or too large: see --zip-a"),
        (60 * [{"fitness_lowest": 1.0}], "(lowest 1.0000): more queries of this kind buy little"),
        (
            [improving(g) | {"head_loss": 0.2 + 0.1 * g} for g in range(30)],
            "the head diverges; lower --lr",
        ),
        (
            [improving(g) | {"kl_symmetric": 0.9 if g == 20 else 0.02} for g in range(30)],
            "leapt from about 0.020 to 0.900 nats",
        ),
        (
            [improving(g) | {"kl_symmetric": 0.3} for g in range(30)],
            "ends at 0.300 nats, above 0.1",
        ),
        ([FINE | {"kept_variance": 0.05}], "only 5.0% of the context's dimensions"),
        ([FINE | {"gradient_norm_1": 0.0}], "layer 2 has vanished"),
        ([FINE | {"gradient_norm_0": 1e5}], "layer 1 has exploded"),
        ([FINE | {"gradient_norm_0": float("nan")}], "layer 1 has exploded"),
    ],
)
def test_each_rule_speaks_once(rows: list[dict[str, float]], said: str) -> None:
    found = warnings_of([*rows[:-1], rows[-1]])
    assert len(found) == 1
    assert said in found[0]


def test_a_head_without_a_search_has_no_plateau() -> None:
    assert warnings_of(60 * [{"head_loss": 1.0}]) == []


def test_a_resumed_run_neither_repeats_nor_forgets() -> None:
    rows = [improving(g) | {"kept_variance": 0.05} for g in range(3)]
    whole = Diagnostics()
    assert len([w for row in rows for w in whole.observe(row)]) == 1
    resumed = Diagnostics(rows[:2])
    assert resumed.observe(rows[2]) == ()
    assert len(resumed.observe(improving(9) | {"gradient_norm_0": 0.0})) == 1


def test_rules_need_no_head() -> None:
    rows = [{"sigma": 1.0, "fitness_lowest": 0.99**g, "kept_variance": 1.0} for g in range(70)]
    assert warnings_of(rows) == []


@pytest.mark.parametrize(("method", "depth"), [("craft", 3), ("bbt", 2), ("spsa", 2), ("zip", 2)])
def test_every_metric_of_a_run_is_explained(method: str, depth: int, tmp_path) -> None:
    config = build({"method": method, "head_depth": depth, "intrinsic_dim": 8, "budget": 90})
    done = fit(tmp_path / "run", SmoothBox(), None, config)
    for step in done.progress:
        assert set(step.metrics) <= set(METRICS)
    if method == "craft":
        descents = {"step_gain", "perturbation_gain", "estimate_norm"}
        assert set(done.progress[0].metrics) == set(METRICS) - descents
