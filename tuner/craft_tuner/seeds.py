"""Random streams: each consumer has its own, all follow from the run's one seed.

Owns the numbering of streams, so that no two draw the same numbers and none depends on how much
another has drawn. `RandomState` on purpose: numpy promises that its streams never change (NEP 19),
so a run that is resumed after an upgrade, or repeated in years, sees the same numbers. pycma draws
from one too, seeded with the run's seed itself (see `craft_tuner.search.cma_es`).
"""

from enum import IntEnum

import numpy as np


class Stream(IntEnum):
    """Who draws. Numbers are part of the file format of a run: never reuse one."""

    PROJECTION = 1
    HEAD_WEIGHTS = 2
    HEAD_ORDER = 3
    FOLDS = 4
    PERTURBATIONS = 5
    ZIP_START = 6
    FASTFOOD = 7
    TEXT_EDITS = 8
    BANK = 9
    VALIDATION = 10


def stream(seed: int, consumer: Stream, *index: int) -> np.random.RandomState:
    """The stream of a consumer, or of its `index`-th part (a fold, a generation)."""
    return np.random.RandomState([seed, consumer, *index])
