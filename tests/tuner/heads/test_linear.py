"""Two families of linear classifiers against formulas by hand."""

import numpy as np

from craft_tuner.heads.linear import gda, logistic, moments


def test_gda_is_the_log_ratio_of_gaussians_with_one_covariance() -> None:
    a = np.array([[0.0, 0], [2, 0], [0, 3], [2, 5]])
    labels = np.array([0, 0, 1, 1])
    # Means (1, 0) and (1, 4); within-class covariance [[1, .5], [.5, .5]]; nothing shrunk.
    linear = gda(moments(a, labels, 2), shrinkage=0.0)
    inverse = np.linalg.inv([[1, 0.5], [0.5, 0.5]])
    means = np.array([[1.0, 0], [1, 4]])
    np.testing.assert_allclose(linear.weight, inverse @ means.T)
    np.testing.assert_allclose(linear.bias, [-0.5 * m @ inverse @ m for m in means])


def test_gda_shrinks_towards_the_mean_variance() -> None:
    a = np.array([[0.0, 0], [2, 0], [0, 3], [2, 5]])
    linear = gda(moments(a, np.array([0, 0, 1, 1]), 2), shrinkage=0.5)
    covariance = 0.5 * np.array([[1, 0.5], [0.5, 0.5]]) + 0.5 * 0.75 * np.eye(2)
    means = np.array([[1.0, 0], [1, 4]])
    np.testing.assert_allclose(linear.weight, np.linalg.solve(covariance, means.T))


def test_a_class_without_examples_is_at_the_origin_of_gda() -> None:
    linear = gda(moments(np.array([[1.0], [3.0]]), np.array([0, 0]), 2), shrinkage=1.0)
    assert linear.weight[0, 1] == 0
    assert linear.bias[1] == 0


def test_logistic_regression_is_at_the_minimum_of_its_loss() -> None:
    draw = np.random.RandomState(1)
    a, offset = draw.randn(40, 3), draw.randn(40, 4)
    labels = draw.randint(4, size=40)
    ridge = 0.05

    def loss(w: np.ndarray) -> float:
        scores = offset + a @ w[:-1] + w[-1]
        log_sum = np.log(np.exp(scores).sum(axis=1))
        value = (log_sum - scores[np.arange(40), labels]).mean()
        return float(value + ridge / 2 * (w**2).sum())

    linear = logistic(a, labels, offset, ridge=ridge, steps=500)
    best = np.vstack([linear.weight, linear.bias])
    for _ in range(30):
        assert loss(best) <= loss(best + 1e-2 * draw.randn(*best.shape))


def test_with_a_large_ridge_the_offset_alone_is_left() -> None:
    draw = np.random.RandomState(1)
    a, offset = draw.randn(40, 3), 5 * np.eye(4)[np.arange(40) % 4]
    linear = logistic(a, np.arange(40) // 10, offset, ridge=1e9)
    assert np.abs(linear.weight).max() < 1e-6
    assert np.abs(linear.bias).max() < 1e-6


def test_gda_of_one_example_a_class_is_the_nearest_mean() -> None:
    a = np.array([[1.0, 0], [-1, 0], [0, 2]])
    linear = gda(moments(a, np.arange(3), 3), shrinkage=0.3)
    assert np.isfinite(linear.weight).all()
    points = np.array([[0.9, 0.3], [-0.2, 0.1], [0.1, 1.4]])
    nearest = ((points[:, None] - a) ** 2).sum(axis=2).argmin(axis=1)
    assert ((points @ linear.weight + linear.bias).argmax(axis=1) == nearest).all()
