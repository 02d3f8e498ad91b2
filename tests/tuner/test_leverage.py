"""How far a head is followed: leverage by its definition, and what becomes of images beyond it."""

import numpy as np
import pytest

from craft_tuner.adapter import Adapter, Layer, describe
from craft_tuner.blackbox import Texts
from craft_tuner.errors import UsageError
from craft_tuner.heads import Shots, choose
from craft_tuner.leverage import RIDGE, reach_of
from craft_tuner.readout import Reach, Readout
from tuner_fakes import a_card

DRAW = np.random.RandomState(7)
NEAR = DRAW.randn(12, 5)


def leverage(reach: Reach, x: np.ndarray) -> np.ndarray:
    d = x.astype(np.float32) - reach.centre
    return reach.scale[0] * (d**2).sum(axis=1) - ((d @ reach.basis.T) ** 2).sum(axis=1)


def by_definition(fitted: np.ndarray, x: np.ndarray, e: float, mean: np.ndarray) -> np.ndarray:
    d = fitted - mean
    inverse = np.linalg.inv(d.T @ d + e * np.eye(d.shape[1]))
    return np.einsum("ni,ij,nj->n", x - mean, inverse, x - mean)


def test_the_leverage_is_that_of_ridge_regression() -> None:
    reach = reach_of(NEAR, factor=1.0)
    assert reach is not None
    mean = NEAR.mean(axis=0)
    e = RIDGE * np.linalg.eigvalsh((NEAR - mean).T @ (NEAR - mean))[-1]
    asked = 3 * DRAW.randn(20, 5)
    expected = by_definition(NEAR, asked, e, mean)
    np.testing.assert_allclose(leverage(reach, asked), expected, rtol=1e-2)


def test_near_and_far_are_median_and_largest_of_shots_left_out() -> None:
    reach = reach_of(NEAR, factor=1.0)
    assert reach is not None
    mean = NEAR.mean(axis=0)
    e = RIDGE * np.linalg.eigvalsh((NEAR - mean).T @ (NEAR - mean))[-1]
    left_out = []
    for index in range(len(NEAR)):
        rest = np.delete(NEAR, index, axis=0)
        own = NEAR[index] - rest.mean(axis=0)
        d = rest - rest.mean(axis=0)
        left_out.append(own @ np.linalg.inv(d.T @ d + e * np.eye(5)) @ own)
    np.testing.assert_allclose(reach.scale[1], np.median(left_out), rtol=1e-2)
    np.testing.assert_allclose(reach.scale[2], max(left_out), rtol=1e-2)


@pytest.mark.parametrize("rows", [NEAR[:2], np.ones((5, 3)), np.array([[1.0], [-1.0], [1.0], [-1.0]])])
def test_too_few_or_equal_images_say_nothing(rows) -> None:
    assert reach_of(rows, factor=1.0) is None


def test_images_beyond_are_left_to_zero_shot_and_images_within_to_the_head() -> None:
    reach = reach_of(NEAR, factor=0.5)
    assert reach is not None
    head = (Layer(DRAW.randn(2, 5).astype(np.float32), np.zeros(2, np.float32)),)
    bounded, free = Readout(head, residual=0.0, reach=reach), Readout(head, residual=0.0)
    middle = NEAR.mean(axis=0, keepdims=True).astype(np.float32)
    beyond = (middle + 1e3).astype(np.float32)
    np.testing.assert_allclose(bounded(middle[None], None), free(middle[None], None), rtol=1e-6)
    np.testing.assert_allclose(bounded(beyond[None], None), 0.5 * beyond[:, :2], rtol=1e-6)


def test_shots_that_share_their_source_with_the_test_are_followed_all_the_same() -> None:
    labels = np.repeat(np.arange(3), 10)
    centres = 3 * DRAW.randn(3, 8)
    x = centres[labels] + DRAW.randn(30, 8)
    choice = choose(Shots(x, labels, 3, np.arange(3)), seed=1)
    assert choice.readout is not None
    assert choice.readout.reach is not None
    test = (centres[labels] + DRAW.randn(30, 8)).astype(np.float32)
    assert (choice.readout(test[None], None).argmax(axis=1) == labels).mean() > 0.9


def test_an_adapter_keeps_its_reach_and_a_damaged_one_is_refused() -> None:
    names = ("cat", "dog")
    card = describe(Texts(names), a_card(), method="bank", config={}, training={})
    head = (Layer(DRAW.randn(2, 2).astype(np.float32), np.zeros(2, np.float32)),)
    reach = reach_of(DRAW.randn(9, 2), factor=1.0)
    assert reach is not None
    adapter = Adapter(card, None, head, None, reach)
    again = Adapter.from_bytes(adapter.to_bytes())
    assert again.to_bytes() == adapter.to_bytes()
    assert again.reach is not None
    damaged = Adapter(card, None, head, None, reach._replace(scale=reach.scale[:3]))
    with pytest.raises(UsageError, match=r"head\.reach of shapes"):
        Adapter.from_bytes(damaged.to_bytes())
