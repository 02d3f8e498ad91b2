"""Softmax and cross-entropy agree with scipy's, but for the last bits."""

import numpy as np
import pytest
from scipy import special

from craft_tuner.heads.softmax import cross_entropy, exponentials, softmax

SCORES = 30 * np.random.RandomState(3).randn(50, 7)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_softmax_is_scipys_in_the_dtype_of_the_scores(dtype) -> None:
    scores = SCORES.astype(dtype)
    scores[0, 2] = -np.inf
    found = softmax(scores)
    assert found.dtype == dtype
    np.testing.assert_allclose(found, special.softmax(scores, axis=1), rtol=1e-6)


def test_cross_entropy_is_logsumexp_less_the_labels_score() -> None:
    labels = np.arange(50) % 7
    picked = SCORES[np.arange(50), labels]
    expected = (special.logsumexp(SCORES, axis=1) - picked).mean()
    assert cross_entropy(SCORES, labels) == pytest.approx(expected, rel=1e-12)
    top, _, totals = exponentials(SCORES)
    np.testing.assert_allclose(np.log(totals) + top[:, 0], special.logsumexp(SCORES, axis=1))
