"""Rows disclosed in part become whole, without claiming more than was disclosed."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from craft_tuner.client.partial_logits import LEAST_REST, fill


@given(arrays(np.float32, (3, 6), elements=st.floats(-20, 20, width=32)), st.integers(1, 6))
def test_what_was_disclosed_stays_and_the_rest_is_shared_evenly(logits, k):
    shifted = np.float64(logits) - np.float64(logits).max(axis=-1, keepdims=True)
    partial = (shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))).astype(np.float32)
    order = np.argsort(-partial, axis=-1, kind="stable")
    np.put_along_axis(partial, order[:, k:], np.float32(-np.inf), axis=-1)
    known = np.isfinite(partial)
    whole = fill(partial)
    assert whole.dtype == np.float32
    assert np.isfinite(whole).all()
    np.testing.assert_array_equal(whole[known], partial[known])
    for row, seen in zip(whole, known, strict=True):
        assert len(set(row[~seen].tolist())) <= 1
        if not seen.all():
            assert row[~seen].max() <= row[seen].min()
            assert np.exp(row[~seen].astype(np.float64)).sum() <= max(
                LEAST_REST, 1 - np.exp(row[seen].astype(np.float64)).sum()
            ) * (1 + 1e-4)


def test_a_label_is_no_certainty():
    partial = np.array([[0, -np.inf, -np.inf]], np.float16)
    np.testing.assert_allclose(
        np.exp(fill(partial)), [[1, LEAST_REST / 2, LEAST_REST / 2]], rtol=1e-3
    )
