"""Heads are applied to rows in chunks, so a large test needs memory for its logits and scores."""

import tracemalloc

import numpy as np
import pytest

from craft_tuner.adapter import head as deployed
from craft_tuner.adapter.head import DeployedHead, Layer

DRAW = np.random.default_rng(4)


def layer(inputs, outputs):
    weight = DRAW.standard_normal((outputs, inputs), np.float32)
    return Layer(weight, DRAW.standard_normal(outputs, np.float32))


@pytest.mark.parametrize("residual", [0.0, 1.0])
def test_chunks_of_rows_score_as_all_of_them(monkeypatch, residual):
    head = DeployedHead(
        (layer(6, 5), layer(5, 3)), centre=np.ones(6, np.float32), residual=residual
    )
    logits = DRAW.standard_normal((2, 11, 3), np.float32)
    base = logits.mean(axis=0)
    whole = head(logits, base)
    monkeypatch.setattr(deployed, "_CHUNK_VALUES", 4 * 6)
    np.testing.assert_allclose(head(logits, base), whole, rtol=1e-5, atol=1e-5)


def test_beside_logits_and_scores_memory_is_a_chunk():
    head = DeployedHead((layer(100, 64), layer(64, 100)))
    logits = np.zeros((1, 200_000, 100), np.float32)
    tracemalloc.start()
    scores = head(logits, logits[0])
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < scores.nbytes + 6 * 4 * deployed._CHUNK_VALUES
    assert 2 * scores.nbytes > 6 * 4 * deployed._CHUNK_VALUES  # or it would say nothing
