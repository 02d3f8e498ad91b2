"""Linear heads on a bank of logits: candidates, and the choice between them by cross-validation.

Owns how a head is fitted once its logits are bought; costs no query. Must not know the black box,
prompts or files. Takes and gives numpy arrays, works in float64.

Logits of many prompts are a linear image of the image feature, so a classifier on them is one on
features, up to a change of basis. The basis is a principal one, each direction divided by the
`power`-th power of its spread:

    a = (x - mean) V diag(s)^-power    over the directions with s > floor * s_0

power 0 keeps the geometry, 1 whitens, 1/2 lies between; which is right depends on the model's space
of texts and not on a rule, so it is chosen with the rest. Both families of
`craft_tuner.heads.linear` may stand on the zero-shot logits zs times r, so that the head starts as
zero-shot and departs from it as far as the shots say. Zero-shot itself is a candidate: the gate.
One more candidate, the prior, is never judged and always averaged in, with a weight that falls with
the number of shots.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from craft_tuner.adapter.head import Layer, Reach, Readout
from craft_tuner.blackbox import IntArray
from craft_tuner.heads.leverage import reach_of
from craft_tuner.heads.linear import (
    Linear,
    Matrix,
    Moments,
    Scores,
    best_temperature,
    gda,
    logistic,
    moments,
)
from craft_tuner.threads import one_blas_thread

SPACES = ((0.0, 1e-4), (0.5, 1e-5), (1.0, 1e-4), (1.0, 1e-5), (1.0, 3e-6))
"""(power, floor); float32 logits carry directions down to about 3e-6 of the largest."""
SHRINKAGE = (0.01, 0.1, 0.3, 0.6, 0.9)
RIDGE = (1e-3, 1e-2, 1e-1)
PRIOR_SHOTS = 2
"""Shots of the median class that the prior candidate is worth: up to so many it is alone, of n its
weight among the averaged is `PRIOR_SHOTS` / n. What few held-out shots say is worth no more."""
PRIOR_SPACE = (0.5, 1e-5)
PRIOR_RIDGE, PRIOR_RIDGE_ALONE = (0.1, 0.025), 0.01
"""Of the prior: beside zero-shot at one shot and at more, and without it."""

KEPT = 5
"""How many of the best candidates are averaged; linear heads average to a linear head."""
FOLDS = 4
RACE_IMAGES = 100
"""Images in a fold from which it rules out the worse half of the candidates."""

MAX_WORK = 2e9
"""Rows x directions x classes above which the logistic family, which is iterative, is left out."""


class Spec(NamedTuple):
    """One candidate: where it works, how it is regularised, how much zero-shot it stands on."""

    family: Literal["zero-shot", "gda", "logistic"]
    power: float
    floor: float
    strength: float
    """Shrinkage g, or ridge lambda."""
    residual: float
    """r."""


@dataclass(frozen=True)
class Shots:
    """What a head is fitted on, rows grouped by image: row i is of image i % images."""

    x: Matrix
    """(rows, P * K') logits."""
    labels: IntArray
    """(images,)."""
    classes: int
    own: bool = False
    """Whether the first K columns of x are the zero-shot logits."""
    names: int | None = None
    """K', the columns of each prompt, the first of which says whether an image is like the shots;
    None: columns are not logits."""

    @property
    def images(self) -> int:
        """How many images there are; rows are these, then as many again for each view."""
        return len(self.labels)

    @cached_property
    def level(self) -> Matrix:
        """Rows of x less the mean of each prompt's logits.

        What all names share varies much and tells no class from another; log-probabilities differ
        from logits by that alone.
        """
        return _level(self.x, self.names) if self.names and self.levelled else self.x

    @property
    def levelled(self) -> bool:
        """Whether names beside the classes are asked; else rows stay as they are.

        The mean of the classes alone is one of few numbers, and of rows that are told in part it
        says how sure the model is (`craft_tuner.client.partial_logits`).
        """
        return self.names is not None and self.names > self.classes

    @property
    def base(self) -> Matrix:
        """(rows, K) zero-shot logits, a view of x; 0 where there are none."""
        return self.x[:, : self.classes] if self.own else np.zeros((len(self.x), self.classes))


@dataclass(frozen=True)
class Choice:
    """The head that was chosen, and what was known when it was."""

    readout: Readout | None
    """One layer on all P * K' logits; None: zero-shot is not to be improved upon."""
    kept: tuple[Spec, ...]
    held_out: dict[str, float] = field(default_factory=dict)
    """accuracy, loss, zero_shot_accuracy, zero_shot_loss on held-out shots; empty for few shots."""


@dataclass(frozen=True)
class _Space:
    mean: Matrix
    basis: Matrix

    def __call__(self, x: Matrix) -> Matrix:
        return (x - self.mean) @ self.basis


def choose(shots: Shots, *, seed: int) -> Choice:
    """Fit all candidates on folds of the shots, keep the best, fit these on all and average them.

    A view is always in the fold of its image. The loss is the held-out cross-entropy at the best
    temperature, so families are compared by what they order, not by how sure they are. The prior is
    averaged with them: of one or two shots too little can be held out to choose by, of a class
    without any nothing, and there it is alone.
    """
    with one_blas_thread():
        temper = _temper(shots)
        counts = np.bincount(shots.labels, minlength=shots.classes)
        usual = int(np.median(counts))
        prior = _prior(shots, temper, usual)
        if usual <= PRIOR_SHOTS or not counts.all():
            return Choice(_average(shots, [(prior, 1.0)]), (prior,))
        held = _held_out(shots, [*_candidates(shots, temper)], folds=min(FOLDS, usual), seed=seed)
        weight = PRIOR_SHOTS / usual if _work(shots) <= MAX_WORK else 0.0
        return _decide(shots, held, prior, weight=weight)


def _prior(shots: Shots, temper: float, usual: int) -> Spec:
    """The candidate that is taken unseen; r is a quarter of the way from 1 to `temper`."""
    ridge = PRIOR_RIDGE[usual > 1] if shots.own else PRIOR_RIDGE_ALONE
    return Spec("logistic", *PRIOR_SPACE, ridge, temper**0.25)


@dataclass(frozen=True)
class _Held:
    """A candidate's scores on images that it did not see."""

    spec: Spec
    accuracy: float
    loss: float
    temperature: float


def _decide(shots: Shots, held: list[_Held], prior: Spec, *, weight: float) -> Choice:
    ranked = sorted(held, key=lambda each: each.loss)
    facts = {"accuracy": ranked[0].accuracy, "loss": ranked[0].loss}
    plain = next((each for each in held if each.spec.family == "zero-shot"), None)
    if plain is not None:
        facts |= {"zero_shot_accuracy": plain.accuracy, "zero_shot_loss": plain.loss}
    if plain is not None and plain is ranked[0]:
        return Choice(None, (plain.spec,), facts)
    best = [each for each in ranked if each is not plain][:KEPT]
    parts = [(each.spec, (1 - weight) * each.temperature / len(best)) for each in best]
    parts += [(prior, weight)] if weight else []
    return Choice(_average(shots, parts), tuple(spec for spec, _ in parts), facts)


def _candidates(shots: Shots, temper: float) -> Iterator[Spec]:
    residuals = sorted({0.0, temper, 1.0}) if shots.own else [0.0]
    if shots.own:
        yield Spec("zero-shot", 0, 1, 0, 1.0)
    for power, floor in SPACES:
        for residual in residuals:
            if power == 0:
                yield from (Spec("gda", power, floor, g, residual) for g in SHRINKAGE)
            elif _work(shots) <= MAX_WORK:
                yield from (Spec("logistic", power, floor, ridge, residual) for ridge in RIDGE)


def _work(shots: Shots) -> float:
    rows, width = shots.x.shape
    return float(rows * min(rows, width) * shots.classes)


def _held_out(shots: Shots, specs: list[Spec], *, folds: int, seed: int) -> list[_Held]:
    """Every candidate on every fold; of many images, the better half after the first fold.

    The worse half of one round cannot win by much more data (successive halving; Jamieson and
    Talwalkar, AISTATS 2016): it is `RACE_IMAGES` held-out images that judge it.
    """
    fold = folds_of(shots.labels, folds, seed)
    rows = np.arange(len(shots.x)) % shots.images
    labels, base = shots.labels[rows], shots.base
    blank = (shots.images, shots.classes)
    departures = {_departure(spec): np.zeros(blank, np.float32) for spec in specs}

    def judged(spec: Spec, images: IntArray) -> _Held:
        scores = departures[_departure(spec)][images] + spec.residual * base[images]
        return _held(spec, scores, shots.labels[images])

    spaces = _spaces(shots.level)
    for numbers in ([0], range(1, folds)):
        for space, members in _by_space(dict.fromkeys(map(_departure, specs))).items():
            if space not in spaces:  # zero-shot, which departs by nothing
                continue
            a = spaces[space](shots.level)
            for number in numbers:
                out, keep = np.flatnonzero(fold == number), fold[rows] != number
                part = _Part(a, labels, base, keep)
                for spec in members:
                    linear = part.fit(spec)
                    departures[spec][out] = a[out] @ linear.weight + linear.bias
        first = np.flatnonzero(fold == 0)
        if 0 in numbers and len(first) >= RACE_IMAGES:
            specs = _better_half([judged(spec, first) for spec in specs])
    return [judged(spec, np.arange(shots.images)) for spec in specs]


def _departure(spec: Spec) -> Spec:
    """What a candidate adds to its share of zero-shot: of GDA the same whatever that share is."""
    return spec if spec.family == "logistic" else spec._replace(residual=0.0)


def _by_space(specs: Iterable[Spec]) -> dict[tuple[float, float], list[Spec]]:
    """Candidates of one space together, so that one space's inputs are in memory at a time."""
    found: dict[tuple[float, float], list[Spec]] = {}
    for spec in specs:
        found.setdefault((spec.power, spec.floor), []).append(spec)
    return found


def _held(spec: Spec, scores: Scores, labels: IntArray) -> _Held:
    temperature, loss = best_temperature(scores, labels)
    return _Held(spec, float((scores.argmax(axis=1) == labels).mean()), loss, temperature)


def _better_half(held: list[_Held]) -> list[Spec]:
    """Candidates by their loss, zero-shot always."""
    ranked = sorted(held, key=lambda each: each.loss)
    kept = ranked[: max(2 * KEPT, len(ranked) // 2)]
    return [each.spec for each in held if each in kept or each.spec.family == "zero-shot"]


def _average(shots: Shots, parts: Iterable[tuple[Spec, float]]) -> Readout:
    """The sum of heads fitted on all rows, each times its factor, as one layer."""
    spaces = _spaces(shots.level)
    labels = np.resize(shots.labels, len(shots.x))
    weight, bias = np.zeros((shots.x.shape[1], shots.classes)), np.zeros(shots.classes)
    residual = 0.0
    share: dict[Spec, float] = {}
    for spec, factor in parts:
        share[spec] = share.get(spec, 0.0) + factor
    for each, members in _by_space(share).items():
        part = _Part(spaces[each](shots.level), labels, shots.base)
        for spec in members:
            linear = part.fit(spec)
            weight += share[spec] * spaces[each].basis @ linear.weight
            bias += share[spec] * linear.bias
            residual += share[spec] * spec.residual
    if shots.names and shots.levelled:
        weight = _level(weight.T, shots.names).T
    centre = shots.x.mean(axis=0).astype(np.float32)
    if shots.own:  # r zs is a linear map of x too
        weight[np.diag_indices(shots.classes)] += residual
        bias += residual * centre[: shots.classes]
    layer = Layer(weight.T.astype(np.float32), bias.astype(np.float32))
    return Readout((layer,), centre, residual=0.0, reach=_reach(shots))


def _reach(shots: Shots) -> Reach | None:
    """None where there are no zero-shot logits to fall back on."""
    if not shots.own:
        return None
    return reach_of(shots.x[: shots.images, : shots.names], factor=_temper(shots))


def _level(rows: Matrix, names: int) -> Matrix:
    """Rows (n, P * K') less the mean of each prompt's K'; its own transpose, so of weights too."""
    prompts = rows.reshape(len(rows), -1, names)
    level: Matrix = prompts - prompts.mean(axis=2, keepdims=True)
    return level.reshape(rows.shape)


def _spaces(x: Matrix) -> dict[tuple[float, float], _Space]:
    """The bases of `SPACES`, from the eigenvectors of the smaller Gram matrix."""
    mean = x.mean(axis=0)
    # The mean as it will be stored, so that training and use subtract the same numbers.
    mean = mean.astype(np.float32).astype(np.float64)
    centred = x - mean
    tall = len(x) >= x.shape[1]
    values, vectors = np.linalg.eigh(centred.T @ centred if tall else centred @ centred.T)
    spread = np.sqrt(np.maximum(values[::-1], 0))
    found = {}
    for power, floor in SPACES:
        count = max(1, int((spread > floor * spread[0]).sum()))
        s = np.maximum(spread[:count], np.finfo(np.float64).tiny)
        right = vectors[:, ::-1][:, :count]
        right = right if tall else centred.T @ right / s
        found[power, floor] = _Space(
            mean, right * np.sqrt(len(x)) / (s**power * max(spread[0], s[0]) ** (1 - power))
        )
    return found


class _Part:
    """Rows to fit on, and their moments once they are needed."""

    def __init__(
        self,
        a: Matrix,
        labels: IntArray,
        base: Matrix,
        keep: slice | NDArray[np.bool_] = slice(None),
    ) -> None:
        self._a, self._labels, self._base, self._keep = a[keep], labels[keep], base, keep
        self._moments: Moments | None = None

    def fit(self, spec: Spec) -> Linear:
        if spec.family == "logistic":
            offset = spec.residual * self._base[self._keep]
            return logistic(self._a, self._labels, offset, ridge=spec.strength)
        if self._moments is None:
            self._moments = moments(self._a, self._labels, self._base.shape[1])
        return gda(self._moments, shrinkage=spec.strength)


def folds_of(labels: IntArray, folds: int, seed: int) -> IntArray:
    """The fold of each image, (images,): every class is spread over the folds."""
    draw = np.random.RandomState(seed)
    fold = np.empty(len(labels), np.int64)
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        start = draw.randint(folds)
        fold[draw.permutation(members)] = (np.arange(len(members)) + start) % folds
    return fold


def _temper(shots: Shots) -> float:
    """How far the zero-shot logits of the shots themselves are to be believed: at most 1."""
    if not shots.own:
        return 0.0
    return min(1.0, best_temperature(shots.base[: shots.images], shots.labels)[0])
