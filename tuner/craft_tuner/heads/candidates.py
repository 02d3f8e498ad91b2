"""Candidates for a linear head on logits: which there are, and how one is fitted.

Owns the grid of hyper-parameters and the rows that heads are fitted on. A candidate is a family of
`craft_tuner.heads.linear` in one feature basis, at one strength of regularisation. Both families
may stand on the zero-shot logits zs times r, so that the head starts as zero-shot and departs from
it as far as the shots say. Zero-shot itself is a candidate.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from craft_tuner.blackbox import IntArray
from craft_tuner.heads.feature_basis import FEATURE_BASES, Matrix, centre_prompts
from craft_tuner.heads.linear import (
    Linear,
    Moments,
    best_temperature,
    gda,
    logistic,
    moments,
)

SHRINKAGE = (0.01, 0.1, 0.3, 0.6, 0.9)
RIDGE = (1e-3, 1e-2, 1e-1)

MAX_COST = 2e9
"""Rows x directions x classes above which the logistic family, which is iterative, is left out."""

PRIOR_BASIS = (0.5, 1e-5)
PRIOR_RIDGE, PRIOR_RIDGE_ALONE = (0.1, 0.025), 0.01
"""Of the prior: beside zero-shot at one shot and at more, and without it."""


class Spec(NamedTuple):
    """One candidate: its feature basis, how it is regularised, how much zero-shot it stands on."""

    family: Literal["zero-shot", "gda", "logistic"]
    power: float
    floor: float
    strength: float
    """Shrinkage g, or ridge lambda."""
    residual: float
    """r, the weight of the zero-shot logits."""


@dataclass(frozen=True)
class Shots:
    """What a head is fitted on, rows grouped by image: row i is of image i % images."""

    x: Matrix
    """(rows, P * K') logits."""
    labels: IntArray
    """(images,)."""
    classes: int
    has_zero_shot: bool = False
    """Whether the first K columns of x are the zero-shot logits."""
    names: int | None = None
    """K', the columns of each prompt, the first of which says whether an image is like the shots;
    None: columns are not logits."""

    @property
    def images(self) -> int:
        """How many images there are; rows are these, then as many again for each view."""
        return len(self.labels)

    @cached_property
    def image_of_row(self) -> IntArray:
        """(rows,): the image of each row."""
        return np.arange(len(self.x)) % self.images

    @cached_property
    def centred(self) -> Matrix:
        """Rows of x, centred."""
        return self.centre(self.x)

    def centre(self, x: Matrix) -> Matrix:
        """Rows of logits less the mean of each prompt's, where they are centred."""
        return centre_prompts(x, self.names) if self.names and self.is_centred else x

    @property
    def is_centred(self) -> bool:
        """Whether names beside the classes are asked; else rows stay as they are.

        The mean of the classes alone is one of few numbers, and of rows that are disclosed in part
        it says how sure the model is (`craft_tuner.client.partial_logits`).
        """
        return self.names is not None and self.names > self.classes

    @cached_property
    def zero_shot_logits(self) -> Matrix:
        """(rows, K), a view of x; 0 where there are none."""
        if self.has_zero_shot:
            return self.x[:, : self.classes]
        return np.zeros((len(self.x), self.classes))

    @cached_property
    def temperature(self) -> float:
        """Factor at which the shots believe their own zero-shot logits: at most 1, 0 without."""
        if not self.has_zero_shot:
            return 0.0
        return min(1.0, best_temperature(self.zero_shot_logits[: self.images], self.labels)[0])

    @cached_property
    def median_shots(self) -> int:
        """Shots of the median class."""
        return int(np.median(np.bincount(self.labels, minlength=self.classes)))

    @property
    def few_enough(self) -> bool:
        """Whether the logistic family is quick enough."""
        rows, width = self.x.shape
        return float(rows * min(rows, width) * self.classes) <= MAX_COST


def candidates(shots: Shots) -> Iterator[Spec]:
    """All specs that are compared by cross-validation."""
    residuals = sorted({0.0, shots.temperature, 1.0}) if shots.has_zero_shot else [0.0]
    if shots.has_zero_shot:
        yield Spec("zero-shot", 0, 1, 0, 1.0)
    for power, floor in FEATURE_BASES:
        for residual in residuals:
            if power == 0:
                yield from (Spec("gda", power, floor, g, residual) for g in SHRINKAGE)
            elif shots.few_enough:
                yield from (Spec("logistic", power, floor, ridge, residual) for ridge in RIDGE)


def prior(shots: Shots) -> Spec:
    """The candidate that is taken unseen; r is a quarter of the way from 1 to the temperature."""
    ridge = PRIOR_RIDGE[shots.median_shots > 1] if shots.has_zero_shot else PRIOR_RIDGE_ALONE
    return Spec("logistic", *PRIOR_BASIS, ridge, shots.temperature**0.25)


def by_basis(specs: Iterable[Spec]) -> dict[tuple[float, float], list[Spec]]:
    """Candidates of one feature basis together, so that one basis's inputs are in memory."""
    found: dict[tuple[float, float], list[Spec]] = {}
    for spec in specs:
        found.setdefault((spec.power, spec.floor), []).append(spec)
    return found


class TrainingRows:
    """Rows to fit on, and their moments once they are needed.

    Args:
        shots: which rows there are.
        inputs: of all rows, (rows, inputs), in one feature basis.
        keep: which rows to fit on.
    """

    def __init__(
        self, shots: Shots, inputs: Matrix, *, keep: slice | NDArray[np.bool_] = slice(None)
    ) -> None:
        self._inputs = inputs[keep]
        self._labels = shots.labels[shots.image_of_row][keep]
        self._zero_shot_logits, self._keep = shots.zero_shot_logits, keep
        self._moments: Moments | None = None

    def fit(self, spec: Spec) -> Linear:
        """What the candidate adds to r times the zero-shot logits."""
        if spec.family == "logistic":
            offset = spec.residual * self._zero_shot_logits[self._keep]
            return logistic(self._inputs, self._labels, offset, ridge=spec.strength)
        if self._moments is None:
            classes = self._zero_shot_logits.shape[1]
            self._moments = moments(self._inputs, self._labels, classes)
        return gda(self._moments, shrinkage=spec.strength)
