"""The classifier tells what can be told, and is a coin where nothing can be."""

import random

import pytest

from benchmarks.common.guess import TOGETHER, tell


def seen(make, count=2000):
    rng = random.Random(1)
    return [(make(rng, label), label) for label in [False, True] * (count // 2)]


@pytest.mark.parametrize(
    "make",
    [
        lambda rng, _: {"seconds": rng.gauss(1, 0.1)},
        lambda rng, _: {"seconds": rng.gauss(1, 0.1), "id": f"{rng.random()}"},
        lambda rng, _: {"a": rng.random(), "b": rng.random(), "same": "always", "one": 1.0},
    ],
)
def test_noise_is_a_coin(make):
    found, _ = tell(seen(make))
    assert abs(found.right - 0.5) < 3.5 * found.spread


@pytest.mark.parametrize("sign", [-1, 1])
def test_a_number_that_differs_by_two_spreads_is_told_as_well_as_can_be(sign):
    found, _ = tell(seen(lambda rng, label: {"seconds": rng.gauss(sign * 2 * label, 1)}))
    assert found.feature in {"seconds", TOGETHER}
    assert found.right == pytest.approx(0.841, abs=3.5 * found.spread)


def test_a_header_that_only_one_kind_has_is_told():
    def make(rng, label):
        return {"seconds": rng.random()} | ({"x-cache": "hit"} if label else {})

    found, each = tell(seen(make))
    assert found.right == 1
    assert {guess.feature for guess in each} == {"seconds", "x-cache", TOGETHER}


def test_what_many_weak_features_say_together_is_told():
    def make(rng, label):
        return {f"f{number}": rng.gauss(0.5 * label, 1) for number in range(16)}

    found, each = tell(seen(make))
    assert found.feature == TOGETHER
    assert found.right > 0.75 > max(guess.right for guess in each if guess.feature != TOGETHER)
