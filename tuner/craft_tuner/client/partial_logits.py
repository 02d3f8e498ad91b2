"""Rows that a server discloses in part, made whole: heads and losses need a number everywhere.

A server may disclose to a key no more than the best classes of each row, or the best one
(`ModelCard.output` is `top_k` or `label`); the rest is -inf. What is known then is a part of a
probability distribution. The rest of the probability is spread evenly over the hidden classes,
since that assumes least, but none of them gets more than the least that is disclosed.
"""

import numpy as np
from numpy.typing import NDArray

LEAST_REST = 0.01
"""Probability that all classes without a number share at least: a label is no certainty."""


def fill(partial: NDArray[np.floating]) -> NDArray[np.float32]:
    """Float32 (..., K) log-probabilities without -inf, from those of some classes."""
    partial = partial.astype(np.float32)
    disclosed = np.isfinite(partial)
    hidden = (~disclosed).sum(axis=-1, keepdims=True)
    rest = np.maximum(1 - np.exp(partial).sum(axis=-1, keepdims=True), LEAST_REST)
    each = np.log(rest / np.maximum(hidden, 1))
    least = np.where(disclosed, partial, np.inf).min(axis=-1, keepdims=True)
    return np.where(disclosed, partial, np.minimum(each, least)).astype(np.float32)
