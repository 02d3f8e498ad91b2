"""Fold heads judge images that they have not learnt from."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from craft_tuner.config.fit_config import build
from craft_tuner.heads.fold_heads import FoldHeads, assign_folds


@given(shots=st.integers(1, 9), classes=st.integers(2, 6), folds=st.sampled_from([0, 2, 3, 4, 8]))
def test_folds_are_stratified_and_never_more_than_shots(
    shots: int, classes: int, folds: int
) -> None:
    labels = np.tile(np.arange(classes), shots)
    assigned, count = assign_folds(labels, build({"validation_folds": folds}))
    assert count == (0 if min(folds, shots) < 2 else min(folds, shots))
    if not count:
        assert (assigned == -1).all()
        return
    for label in range(classes):
        sizes = np.bincount(assigned[labels == label], minlength=count)
        assert sizes.min() >= 1
        assert sizes.max() - sizes.min() <= 1


@pytest.mark.slow
def test_labels_that_carry_nothing_are_not_predicted() -> None:
    """Labels at random: seen images are learnt by heart, held-out accuracy stays at chance."""
    draw = np.random.RandomState(1)
    logits = draw.randn(400, 4).astype(np.float32)
    labels = draw.randint(0, 4, 400)
    folds = FoldHeads(4, labels, build({"head_hidden": 128, "lr": 0.02, "validation_folds": 4}))
    for generation in range(1, 40):
        folds.epoch(logits, generation=generation, kl_weight=0.0)
    assert folds.accuracy(logits) == pytest.approx(0.25, abs=0.07)
    seen = folds.folds != 0
    predicted = folds.heads[0].refine(logits[seen]).argmax(axis=1)
    assert (predicted == labels[seen]).mean() > 0.4


def test_a_constant_shift_is_learnt_and_recognised_on_held_out_images() -> None:
    draw = np.random.RandomState(2)
    labels = np.repeat(np.arange(3), 20)
    logits = (4 * np.eye(3)[(labels + 1) % 3] + draw.randn(60, 3)).astype(np.float32)
    folds = FoldHeads(3, labels, build({"lr": 0.02}))
    for generation in range(1, 60):
        folds.epoch(logits, generation=generation, kl_weight=0.0)
    assert (logits.argmax(axis=1) == labels).mean() < 0.1
    assert folds.accuracy(logits) > 0.9


def test_without_folds_there_is_no_estimate() -> None:
    folds = FoldHeads(2, np.array([0, 1]), build())
    assert folds.heads == []
    assert folds.accuracy(np.zeros((2, 2), np.float32)) is None
    assert folds.state() == {}
