"""Candidates for a linear head on images that they have not seen: shots held out, or others.

Owns the held-out scores and the race. Families are compared by the cross-entropy at the best
temperature, so by what they order, not by how sure they are. A view is always in the fold of its
image.
"""

from collections.abc import Collection, Iterable
from dataclasses import dataclass

import numpy as np

from craft_tuner.activity import Work, doing
from craft_tuner.blackbox import IntArray
from craft_tuner.heads.candidates import Shots, Spec, TrainingRows, by_basis
from craft_tuner.heads.feature_basis import Matrix, feature_bases
from craft_tuner.heads.folds import stratified_folds
from craft_tuner.heads.linear import best_temperature

RACE_IMAGES = 100
"""Images in a fold from which it rules out the worse half of the candidates."""


@dataclass(frozen=True)
class CvResult:
    """How good a candidate is on images that it did not see."""

    spec: Spec
    accuracy: float
    loss: float
    """Cross-entropy in nats at the best temperature."""
    temperature: float
    """The factor of the scores that gives it."""


def cross_validate(
    shots: Shots, specs: list[Spec], *, folds: int, most_kept: int, seed: int
) -> list[CvResult]:
    """Every candidate on every fold; of many images, the better half after the first fold.

    The worse half of one round cannot win by much more data (successive halving; Jamieson and
    Talwalkar, AISTATS 2016): it is `RACE_IMAGES` held-out images that judge it.

    Args:
        shots: what candidates are fitted on and judged by.
        specs: the candidates.
        folds: how many there are.
        most_kept: candidates that will be averaged; twice as many stay in the race.
        seed: of the folds.
    """
    draw = np.random.RandomState(seed)
    fold = stratified_folds(shots.labels, folds, draw=draw, staggered=True)
    held_out = _HeldOutScores(shots, specs, fold=fold)
    held_out.fit(specs, [0])
    first = np.flatnonzero(fold == 0)
    if len(first) >= RACE_IMAGES:
        specs = _better_half([held_out.judge(spec, first) for spec in specs], most_kept)
    held_out.fit(specs, range(1, folds))
    return [held_out.judge(spec, np.arange(shots.images)) for spec in specs]


@dataclass(frozen=True)
class Unseen:
    """Images that candidates are judged on and not fitted to."""

    x: Matrix
    """(images, P * K') logits, columns as those of the shots."""
    labels: IntArray
    """(images,)."""

    @property
    def median_images(self) -> int:
        """Images of the median class that has some."""
        return int(np.median(np.unique(self.labels, return_counts=True)[1]))


def judge_on(shots: Shots, specs: Iterable[Spec], unseen: Unseen) -> list[CvResult]:
    """Every candidate, fitted on all shots and judged on other images."""
    bases, x = feature_bases(shots.centred), shots.centre(unseen.x)
    zero_shot = unseen.x[:, : shots.classes] if shots.has_zero_shot else 0.0
    found: dict[Spec, Matrix] = {}
    wanted = list(specs)
    for basis, members in by_basis(dict.fromkeys(map(residual, wanted))).items():
        rows = TrainingRows(shots, bases[basis].project(shots.centred)) if basis in bases else None
        for spec in members:
            found[spec] = np.zeros((len(x), shots.classes), np.float32)
            if rows is not None:  # zero-shot adds nothing to itself
                linear = rows.fit(spec)
                found[spec] += bases[basis].project(x) @ linear.weight + linear.bias
    return [
        _judged(spec, found[residual(spec)] + spec.residual * zero_shot, unseen.labels)
        for spec in wanted
    ]


class _HeldOutScores:
    """Scores of each candidate on the images of the folds that it was not fitted on."""

    def __init__(self, shots: Shots, specs: Iterable[Spec], *, fold: IntArray) -> None:
        self._shots, self._fold = shots, fold
        self._bases = feature_bases(shots.centred)
        blank = (shots.images, shots.classes)
        self._residuals = {residual(spec): np.zeros(blank, np.float32) for spec in specs}

    def fit(self, specs: Iterable[Spec], folds: Collection[int]) -> None:
        """Fit candidates on all rows but a fold's and score its images, fold by fold."""
        apart = dict.fromkeys(map(residual, specs))
        words = f"comparing {len(apart)} heads on held-out shots"
        with doing(words, total=len(apart) * len(folds), unit="fits") as work:
            for basis, members in by_basis(apart).items():
                if basis in self._bases:  # not zero-shot's, which adds nothing to itself
                    inputs = self._bases[basis].project(self._shots.centred)
                    self._fit(inputs, members, folds=folds, work=work)

    def _fit(self, inputs: Matrix, specs: list[Spec], *, folds: Iterable[int], work: Work) -> None:
        for number in folds:
            out = np.flatnonzero(self._fold == number)
            keep = self._fold[self._shots.image_of_row] != number
            rows = TrainingRows(self._shots, inputs, keep=keep)
            for spec in specs:
                linear = rows.fit(spec)
                self._residuals[spec][out] = inputs[out] @ linear.weight + linear.bias
                work.advance()

    def judge(self, spec: Spec, images: IntArray) -> CvResult:
        """The candidate on images, each scored when it was held out."""
        zero_shot = spec.residual * self._shots.zero_shot_logits[images]
        scores = self._residuals[residual(spec)][images] + zero_shot
        return _judged(spec, scores, self._shots.labels[images])


def _judged(spec: Spec, scores: Matrix, labels: IntArray) -> CvResult:
    temperature, loss = best_temperature(scores, labels)
    return CvResult(spec, float((scores.argmax(axis=1) == labels).mean()), loss, temperature)


def residual(spec: Spec) -> Spec:
    """What a candidate adds to its share of zero-shot: of GDA the same whatever that share is."""
    return spec if spec.family == "logistic" else spec._replace(residual=0.0)


def _better_half(results: list[CvResult], most_kept: int) -> list[Spec]:
    """Candidates by their loss, zero-shot always."""
    ranked = sorted(results, key=lambda each: each.loss)
    left = ranked[: max(2 * most_kept, len(ranked) // 2)]
    return [each.spec for each in results if each in left or each.spec.family == "zero-shot"]
