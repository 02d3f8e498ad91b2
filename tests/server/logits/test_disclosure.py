"""What a key is disclosed of a row of logits, and that every kind is what its name says."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from pydantic import ValidationError

from craft_server.logits.disclosure import disclose
from craft_shared.messages import Output

ROWS = arrays(
    np.float32,
    array_shapes(min_dims=1, max_dims=3, min_side=1, max_side=6),
    elements=st.floats(-100, 100, width=32),
)


def softmax(rows):
    weights = np.exp(np.float64(rows) - np.float64(rows).max(axis=-1, keepdims=True))
    return weights / weights.sum(axis=-1, keepdims=True)


@given(ROWS)
def test_logits_are_disclosed_as_they_are(rows):
    assert disclose(rows, Output()) is rows


@given(ROWS, st.sampled_from([0.01, 0.1, 0.5, 4.0]))
def test_rounded_logits_are_the_nearest_multiples(rows, step):
    disclosed = disclose(rows, Output(kind="rounded", step=step))
    assert disclosed.dtype == np.float32
    multiples = disclosed / np.float32(step)
    np.testing.assert_allclose(multiples, np.rint(multiples), atol=1e-3)
    assert np.abs(disclosed - rows).max() <= step / 2 + 1e-4


@given(ROWS, st.sampled_from([1e-50, 1e-30, 9e-7]))
def test_a_step_finer_than_float32_of_an_old_key_leaves_logits_as_they_are(rows, step):
    assert disclose(rows, Output(kind="rounded", step=step)) is rows


@given(ROWS)
def test_log_probabilities_are_those_of_a_softmax(rows):
    disclosed = disclose(rows, Output(kind="log_probabilities"))
    assert disclosed.dtype == np.float32
    np.testing.assert_allclose(np.exp(disclosed), softmax(rows), atol=1e-5)


@given(ROWS, st.integers(1, 8))
def test_of_the_best_classes_log_probabilities_are_reported_and_nothing_of_the_others(rows, k):
    disclosed = disclose(rows, Output(kind="top_k", k=k))
    known = disclosed > -np.inf
    assert (known.sum(axis=-1) == min(k, rows.shape[-1])).all()
    np.testing.assert_allclose(np.exp(disclosed)[known], softmax(rows)[known], atol=1e-5)
    least_disclosed = np.where(known, rows, np.inf).min(axis=-1)
    best_withheld = np.where(known, -np.inf, rows).max(axis=-1)
    assert (least_disclosed >= best_withheld).all()


@given(ROWS)
def test_a_label_is_the_best_class_alone(rows):
    disclosed = disclose(rows, Output(kind="label"))
    assert (disclosed.argmax(axis=-1) == rows.argmax(axis=-1)).all()
    assert set(np.unique(disclosed)) <= {np.float32(-np.inf), np.float32(0)}
    assert ((disclosed == 0).sum(axis=-1) == 1).all()


@given(ROWS, st.sampled_from(["rounded", "log_probabilities", "top_k", "label"]))
def test_telling_changes_nothing_that_it_is_given_and_works_by_rows(rows, kind):
    output = Output(
        kind=kind, step=0.5 if kind == "rounded" else None, k=2 if kind == "top_k" else None
    )
    before = rows.copy()
    disclosed = disclose(rows, output)
    np.testing.assert_array_equal(rows, before)
    flat, disclosed_flat = rows.reshape(-1, rows.shape[-1]), disclosed.reshape(-1, rows.shape[-1])
    np.testing.assert_array_equal(disclose(flat[:1], output), disclosed_flat[:1])


@pytest.mark.parametrize(
    "fields",
    [
        {"kind": "rounded"},
        {"kind": "top_k"},
        {"kind": "logits", "step": 1},
        {"kind": "label", "k": 1},
        {"kind": "rounded", "step": 0},
        {"kind": "rounded", "step": float("inf")},
        {"kind": "top_k", "k": 0},
        {"kind": "everything"},
    ],
)
def test_an_output_that_makes_no_sense_is_refused(fields):
    with pytest.raises(ValidationError):
        Output(**fields)
