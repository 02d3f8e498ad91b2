"""Folds hold something of every class."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from craft_tuner.heads.folds import stratified_folds


@given(
    counts=st.lists(st.integers(1, 9), min_size=1, max_size=6),
    folds=st.integers(2, 5),
    seed=st.integers(0, 99),
    staggered=st.booleans(),
)
def test_every_class_is_spread_over_the_folds(counts, folds, seed, staggered) -> None:
    labels = np.repeat(np.arange(len(counts)), counts)
    fold = stratified_folds(labels, folds, draw=np.random.RandomState(seed), staggered=staggered)
    for label, count in enumerate(counts):
        sizes = np.bincount(fold[labels == label], minlength=folds)
        assert sizes.sum() == count
        assert sizes.max() - sizes.min() <= 1
