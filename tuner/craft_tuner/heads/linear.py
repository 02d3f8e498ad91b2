"""Two families of linear classifiers, and how their scores are judged.

Owns formulas of single fits, in float64.

    GDA        shared covariance, shrunk: S = (1 - g) S_within + g tr(S_within)/d I;
               score = a S^-1 mu_k - mu_k S^-1 mu_k / 2            (Wang et al., ICLR 2024)
    logistic   min CE(r zs + a W + b, y) + lambda/2 (|W|^2 + |b|^2) from 0, zs the zero-shot logits
"""

from typing import NamedTuple

import numpy as np
from scipy.optimize import minimize

from craft_tuner.blackbox import IntArray
from craft_tuner.heads.feature_basis import Matrix
from craft_tuner.heads.softmax import Scores, cross_entropy, exponentials

JUDGES = 1000
"""Images that are enough to judge a temperature by."""


class Linear(NamedTuple):
    """Scores a W + b of inputs a."""

    weight: Matrix
    """W, (inputs, K)."""
    bias: Matrix
    """b, (K,)."""


class Moments(NamedTuple):
    """What GDA knows of its rows."""

    means: Matrix
    """(K, d); of a class without examples the origin, the mean of all."""
    covariance: Matrix
    """(d, d), within classes."""
    scale: float
    """The mean variance of a direction."""


def moments(a: Matrix, labels: IntArray, classes: int) -> Moments:
    """Of rows (n, d)."""
    means = np.zeros((classes, a.shape[1]))
    for label in np.unique(labels):
        means[label] = a[labels == label].mean(axis=0)
    within = a - means[labels]
    # One example of each class has no spread within: then all directions are taken as equal.
    spread = within if within.any() else a
    return Moments(means, within.T @ within / len(a), float((spread**2).mean()))


def gda(of: Moments, *, shrinkage: float) -> Linear:
    """Gaussian discriminant analysis with one covariance, shrunk to its mean variance.

    Without two examples of any class this is the nearest mean.
    """
    covariance = (1 - shrinkage) * of.covariance
    covariance[np.diag_indices_from(covariance)] += shrinkage * of.scale + np.finfo(np.float64).tiny
    weight = np.asarray(np.linalg.solve(covariance, of.means.T), np.float64)
    return Linear(weight, -0.5 * (of.means.T * weight).sum(axis=0))


def logistic(
    a: Matrix, labels: IntArray, offset: Matrix, *, ridge: float, steps: int = 60
) -> Linear:
    """Multinomial logistic regression beside a fixed offset (rows, K), from zero, by L-BFGS.

    Minimises the mean cross-entropy of offset + a W + b plus ridge / 2 (|W|^2 + |b|^2): with the
    bias free, few shots and a large ridge would move the classes' priors and nothing else.
    """
    rows, width = a.shape
    classes = offset.shape[1]
    index = np.arange(rows)

    def loss(flat: Matrix) -> tuple[float, Matrix]:
        w = flat.reshape(width + 1, classes)
        scores = a @ w[:-1] + w[-1] + offset
        top, powers, totals = exponentials(scores)
        value = (np.log(totals) + top[:, 0] - scores[index, labels]).mean()
        powers /= totals[:, None]
        powers[index, labels] -= 1
        powers /= rows
        gradient = np.vstack([a.T @ powers, powers.sum(axis=0)]) + ridge * w
        return float(value + ridge / 2 * (w**2).sum()), gradient.ravel()

    start = np.zeros((width + 1) * classes)
    found: Matrix = minimize(loss, start, jac=True, method="L-BFGS-B", options={"maxiter": steps}).x
    w: Matrix = found.reshape(width + 1, classes)
    return Linear(w[:-1], w[-1])


_TEMPERATURES = np.geomspace(1 / 64, 4, 33)


def best_temperature(scores: Scores, labels: IntArray) -> tuple[float, float]:
    """The factor of scores (n, K) with the lowest cross-entropy, and that.

    Of more than `JUDGES` images, evenly spaced ones say which factor it is.
    """
    some = slice(None, None, -(-len(labels) // JUDGES))
    losses = [cross_entropy(factor * scores[some], labels[some]) for factor in _TEMPERATURES]
    best = float(_TEMPERATURES[int(np.argmin(losses))])
    return best, cross_entropy(best * scores, labels)
