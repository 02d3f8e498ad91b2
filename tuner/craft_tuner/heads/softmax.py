"""Softmax and cross-entropy of rows of scores, in numpy.

Owns the one place where scores are exponentiated. `scipy.special.logsumexp` is another formula and
differs in the last bits. L-BFGS and CMA-ES carry such a difference on, so that a resumed run would
ask other prompts and pay twice.
"""

from typing import Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from craft_tuner.blackbox import IntArray

F = TypeVar("F", bound=np.floating[Any])
Scores = NDArray[np.floating[Any]]


class Exponentials(NamedTuple):
    """Rows of scores s (n, K) in parts: softmax is powers / totals, logsumexp log(totals) + top."""

    top: Scores
    """max s, (n, 1)."""
    powers: Scores
    """exp(s - max s), (n, K), in the dtype of the scores."""
    totals: Scores
    """Sums of the powers, (n,)."""


def exponentials(scores: Scores) -> Exponentials:
    """The parts of softmax and logsumexp of scores (n, K), each row shifted by its largest."""
    top = scores.max(axis=1, keepdims=True)
    powers = scores - top
    np.exp(powers, out=powers)
    return Exponentials(top, powers, powers.sum(axis=1))


def softmax(scores: NDArray[F]) -> NDArray[F]:
    """Probabilities (n, K) of scores (n, K), in their dtype."""
    _, powers, totals = exponentials(scores)
    return (powers / totals[:, None]).astype(scores.dtype, copy=False)


def cross_entropy(scores: Scores, labels: IntArray) -> float:
    """Mean cross-entropy in nats of scores (n, K) for labels (n,)."""
    top, _, totals = exponentials(scores)
    own = scores[np.arange(len(labels)), labels] - top[:, 0]
    return float((np.log(totals) - own).mean())
