"""A linear head on the logits of a bank, chosen by cross-validation or on validation images.

Owns the choice between candidates and their average, at no query. The best candidates are averaged;
linear heads average to a linear head. One more, the prior, is never judged and always averaged in,
with a weight that falls with the number of shots. Where zero-shot is the best, it stays. Works in
float64; `feature_basis`, `candidates` and `cross_validation` are its parts.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np

from craft_tuner.activity import doing
from craft_tuner.adapter.head import DeployedHead, Layer, LeverageGate
from craft_tuner.heads.candidates import Shots, Spec, TrainingRows, by_basis, candidates, prior
from craft_tuner.heads.cross_validation import CvResult, Unseen, cross_validate, judge_on
from craft_tuner.heads.feature_basis import centre_prompts, feature_bases
from craft_tuner.heads.leverage import fit_gate
from craft_tuner.heads.linear import Linear
from craft_tuner.threads import one_blas_thread

PRIOR_SHOTS = 2
"""Shots of the median class that the prior candidate is worth: up to so many it is alone, of n its
weight among the averaged is `PRIOR_SHOTS` / n. What few held-out shots say is worth no more."""

KEPT = 5
"""How many of the best candidates are averaged."""
FOLDS = 4


@dataclass(frozen=True)
class Choice:
    """The head that was chosen, and what was known when it was."""

    head: DeployedHead | None
    """One layer on all P * K' logits; None: zero-shot is not to be improved upon."""
    kept: tuple[Spec, ...]
    held_out: dict[str, float] = field(default_factory=dict)
    """accuracy, loss, zero_shot_accuracy, zero_shot_loss on held-out shots, of which few have none,
    or on validation images."""


def choose(shots: Shots, *, seed: int, validation: Unseen | None = None) -> Choice:
    """Fit all candidates on folds of the shots, keep the best, fit these on all and average them.

    Of one or two shots too little can be held out to choose by, of a class without any nothing:
    there the prior is alone. Validation images judge in place of the folds, of however few shots;
    the prior then is worth `PRIOR_SHOTS` of them in each class.
    """
    with one_blas_thread():
        unseen, evidence = prior(shots), shots.median_shots
        some_of_each = np.bincount(shots.labels, minlength=shots.classes).all()
        if not some_of_each or (validation is None and evidence <= PRIOR_SHOTS):
            return Choice(average(shots, [(unseen, 1.0)]), (unseen,))
        if validation is None:
            folds = min(FOLDS, evidence)
            results = cross_validate(
                shots, [*candidates(shots)], folds=folds, most_kept=KEPT, seed=seed
            )
        else:
            results = judge_on(shots, candidates(shots), validation)
            evidence = PRIOR_SHOTS + validation.median_images
        weight = PRIOR_SHOTS / evidence if shots.few_enough else 0.0
        return _decide(shots, results, unseen=(unseen, weight))


def judge(shots: Shots, spec: Spec, *, seed: int, validation: Unseen | None = None) -> CvResult:
    """One candidate on held-out shots or validation images, as `choose` judges it among all."""
    with one_blas_thread():
        if validation is not None:
            return judge_on(shots, [spec], validation)[0]
        folds = min(FOLDS, shots.median_shots)
        return cross_validate(shots, [spec], folds=folds, most_kept=KEPT, seed=seed)[0]


def _decide(shots: Shots, results: list[CvResult], *, unseen: tuple[Spec, float]) -> Choice:
    ranked = sorted(results, key=lambda each: each.loss)
    facts = {"accuracy": ranked[0].accuracy, "loss": ranked[0].loss}
    zero_shot = next((each for each in results if each.spec.family == "zero-shot"), None)
    if zero_shot is not None:
        facts |= {"zero_shot_accuracy": zero_shot.accuracy, "zero_shot_loss": zero_shot.loss}
    if zero_shot is ranked[0]:
        return Choice(None, (ranked[0].spec,), facts)
    best = [each for each in ranked if each is not zero_shot][:KEPT]
    parts = [(each.spec, (1 - unseen[1]) * each.temperature / len(best)) for each in best]
    parts += [unseen] if unseen[1] else []
    return Choice(average(shots, parts), tuple(spec for spec, _ in parts), facts)


def average(shots: Shots, parts: Iterable[tuple[Spec, float]]) -> DeployedHead:
    """The sum of heads fitted on all rows, each times its factor, as one layer."""
    with doing("fitting the chosen heads"):
        linear, residual = _sum(shots, parts)
    weight, bias = linear
    if shots.names and shots.is_centred:
        weight = centre_prompts(weight.T, shots.names).T
    centre = shots.x.mean(axis=0).astype(np.float32)
    if shots.has_zero_shot:  # r zs is a linear map of x too
        weight[np.diag_indices(shots.classes)] += residual
        bias += residual * centre[: shots.classes]
    layer = Layer(weight.T.astype(np.float32), bias.astype(np.float32))
    return DeployedHead((layer,), centre, residual=0.0, gate=_gate(shots))


def _sum(shots: Shots, parts: Iterable[tuple[Spec, float]]) -> tuple[Linear, float]:
    """Weights on centred rows (P * K', K) and bias of all parts, and the weight of zero-shot."""
    factors: dict[Spec, float] = {}
    for spec, factor in parts:
        factors[spec] = factors.get(spec, 0.0) + factor
    bases = feature_bases(shots.centred)
    weight, bias = np.zeros((shots.x.shape[1], shots.classes)), np.zeros(shots.classes)
    residual = 0.0
    for basis, members in by_basis(factors).items():
        rows = TrainingRows(shots, bases[basis].project(shots.centred))
        for spec in members:
            linear = rows.fit(spec)
            weight += factors[spec] * bases[basis].directions @ linear.weight
            bias += factors[spec] * linear.bias
            residual += factors[spec] * spec.residual
    return Linear(weight, bias), residual


def _gate(shots: Shots) -> LeverageGate | None:
    """None where there are no zero-shot logits to fall back on."""
    if not shots.has_zero_shot:
        return None
    return fit_gate(shots.x[: shots.images, : shots.names], factor=shots.temperature)
