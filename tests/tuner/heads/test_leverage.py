"""How far a head is followed: leverages by hand, what they do to scores, and what files hold."""

import numpy as np
import pytest

from craft_tuner.adapter.head import DeployedHead, Layer, LeverageGate
from craft_tuner.errors import UsageError
from craft_tuner.heads.candidates import Shots
from craft_tuner.heads.leverage import RIDGES, fit_gate
from craft_tuner.heads.selection import choose

DRAW = np.random.RandomState(5)


def by_hand(x, z, ridge):
    """d^T (D^T D + e I)^-1 d of rows z, d = z - mean of x."""
    d = x - x.mean(axis=0)
    gram = d.T @ d
    gram = gram + ridge * np.linalg.eigvalsh(gram)[-1] * np.eye(len(gram))
    moved = z - x.mean(axis=0)
    return np.einsum("ij,jk,ik->i", moved, np.linalg.inv(gram), moved)


@pytest.mark.parametrize("shape", [(30, 6), (7, 20)])
def test_leverage_is_that_of_ridge_regression_with_an_intercept(shape) -> None:
    x, z = DRAW.randn(*shape), DRAW.randn(5, shape[1])
    gate = fit_gate(x, factor=1.0)
    assert gate is not None
    expected = np.stack([by_hand(x, z, ridge) for ridge in RIDGES], axis=1)
    np.testing.assert_allclose(gate.leverage(z), expected, rtol=1e-2)


def test_near_and_far_are_leverages_of_shots_that_are_left_out() -> None:
    x = DRAW.randn(40, 5)
    gate = fit_gate(x, factor=0.5)
    assert gate is not None
    assert gate.factor == 0.5
    for ridge, scale in zip(RIDGES, gate.scale, strict=True):
        left_out = [by_hand(np.delete(x, i, axis=0), x[i : i + 1], ridge)[0] for i in range(len(x))]
        # The ridge is a share of the largest variance, which a single shot hardly changes.
        near, far = np.median(left_out), np.max(left_out)
        np.testing.assert_allclose(scale[1:], [near, far], rtol=1e-3 + ridge)


@pytest.mark.parametrize("x", [np.ones((5, 3)), np.eye(2), np.eye(4)])
def test_shots_that_are_equal_few_or_all_as_unusual_say_nothing(x) -> None:
    assert fit_gate(x, factor=1.0) is None


def shots(has_zero_shot=True):
    labels = np.repeat(np.arange(3), 8)
    x = np.hstack([np.eye(3)[labels] * 0.5, 3 * np.eye(3)[labels], np.zeros((24, 4))])
    x += 0.3 * DRAW.randn(*x.shape)
    return Shots(x, labels, 3, has_zero_shot=has_zero_shot)


def test_far_from_its_shots_a_head_gives_way_to_zero_shot() -> None:
    choice = choose(shots(), seed=1)
    assert choice.head is not None
    assert choice.head.gate is not None
    far = shots().x.astype(np.float32)
    far[:, 6:] += 100
    factor = choice.head.gate.factor
    np.testing.assert_allclose(choice.head(far[None], None), factor * far[:, :3], rtol=1e-5)
    unmixed = DeployedHead(choice.head.layers, choice.head.centre, residual=0.0)
    assert not np.allclose(unmixed(far[None], None), factor * far[:, :3])


def test_without_zero_shot_logits_a_head_is_followed_everywhere() -> None:
    choice = choose(shots(has_zero_shot=False), seed=1)
    assert choice.head is not None
    assert choice.head.gate is None


def test_between_near_and_far_scores_are_mixed_in_proportion() -> None:
    rule = np.array([[1.0, 4.0, 16.0]])
    gate = LeverageGate(np.zeros((1, 2)), np.zeros(2), np.zeros((1, 1)), rule, np.array([2.0]))
    x = np.array([[1.0, 0], [0, np.sqrt(7)], [5, 0]])
    mixed = gate.mix(x, np.full((3, 2), 8.0))
    expected = [[8, 8], [0.75 * 8, 0.75 * 8 + 0.25 * 2 * np.sqrt(7)], [10, 0]]
    np.testing.assert_allclose(mixed, expected)


def test_the_rule_that_trusts_the_head_least_decides() -> None:
    rules = np.array([[1.0, 4.0, 16.0], [1.0, 1.0, 3.0]])
    # The second direction is known to the second rule alone.
    gate = LeverageGate(
        np.array([[0.0, 1]]), np.zeros(2), np.array([[0.0], [1.0]]), rules, np.ones(1)
    )
    x = np.array([[0, np.sqrt(7)], [np.sqrt(2), 0], [1, 0]])
    np.testing.assert_allclose(gate.leverage(x), [[7, 0], [2, 2], [1, 1]], atol=1e-12)
    shares = gate.mix(x, np.zeros((3, 2)))[[0, 1], [1, 0]] / x[[0, 1], [1, 0]]
    np.testing.assert_allclose(1 - shares, [0.75, 0.5])
    np.testing.assert_allclose(gate.mix(x, np.full((3, 2), 8.0))[2], 8)


def saved():
    shapes = ((2, 5), (5,), (3, 2), (3, 3), (1,))
    gate = LeverageGate(*(np.full(shape, 2, np.float32) for shape in shapes))
    layer = Layer(np.ones((3, 6), np.float32), np.zeros(3, np.float32))
    return DeployedHead((layer,), np.zeros(6, np.float32), residual=0.0, gate=gate)


def test_a_gate_is_read_as_it_was_written() -> None:
    found = DeployedHead.of(saved().tensors(), relu=True, residual=0.0, widths=(6, 3), source="a")
    assert found.gate is not None
    for one, other in zip(found.gate, saved().gate, strict=True):
        assert np.array_equal(one, other)


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("head.reach", (2, 4)),
        ("head.reach_centre", (7,)),
        ("head.reach_weights", (3,)),
        ("head.reach_weights", (0, 2)),
        ("head.reach_scale", (2, 3)),
        ("head.reach_zero_shot", (3,)),
    ],
)
def test_a_damaged_gate_is_refused(name, shape) -> None:
    arrays = saved().tensors() | {name: np.ones(shape, np.float32)}
    with pytest.raises(UsageError, match=r"head\.reach of shapes .*; the file is damaged"):
        DeployedHead.of(arrays, relu=True, residual=0.0, widths=(6, 3), source="a")
