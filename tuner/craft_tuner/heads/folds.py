"""Stratified folds: every class is spread over all of them."""

import numpy as np

from craft_tuner.blackbox import IntArray


def stratified_folds(
    labels: IntArray, folds: int, *, draw: np.random.RandomState, staggered: bool = False
) -> IntArray:
    """The fold of each image, int64 (N,): each class is shuffled and dealt to the folds in turn.

    Args:
        labels: (N,), classes.
        folds: how many there are.
        draw: where random numbers come from.
        staggered: whether each class begins at a fold of its own, so that classes of few images do
            not all fill the first folds; else every class begins at fold 0.
    """
    fold = np.empty(len(labels), np.int64)
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        first = draw.randint(folds) if staggered else 0
        fold[draw.permutation(members)] = (np.arange(len(members)) + first) % folds
    return fold
