"""Linear heads: the choice by held-out loss, where zero-shot stays, and what the average is."""

from dataclasses import replace

import numpy as np
import pytest

from craft_tuner.heads import candidates, cross_validation, selection
from craft_tuner.heads.candidates import Shots, Spec, TrainingRows
from craft_tuner.heads.cross_validation import Unseen
from craft_tuner.heads.linear import Linear, best_temperature
from craft_tuner.heads.selection import choose

pytestmark = pytest.mark.slow  # trains heads over and over


def clusters(
    *,
    classes: int,
    images: int,
    views: int = 1,
    spread: float = 1.0,
    width: int = 12,
    seed: int = 0,
) -> tuple[np.ndarray, np.ndarray]:
    """Rows (images * classes * views, width) around a mean for each class, and image labels."""
    draw = np.random.RandomState(0)
    labels = np.repeat(np.arange(classes), images)
    centres = draw.randn(classes, width) * 2
    clean = centres[labels] + spread * draw.randn(len(labels), width)
    rows = [clean + 0.1 * draw.randn(*clean.shape) for _ in range(views)]
    return np.concatenate(rows).astype(np.float32).astype(np.float64), labels


@pytest.mark.parametrize("own", [False, True])
def test_a_head_learns_what_zero_shot_does_not_know(own) -> None:
    x, labels = clusters(classes=3, images=8, views=3)
    choice = choose(Shots(x, labels, 3, has_zero_shot=own), seed=1)
    test, truth = clusters(classes=3, images=50)
    assert choice.head is not None
    scores = choice.head(test[None].astype(np.float32), None)
    assert (scores.argmax(axis=1) == truth).mean() > 0.9
    assert choice.held_out["accuracy"] > 0.9
    assert ("zero_shot_accuracy" in choice.held_out) == own


def test_zero_shot_that_is_right_stays_where_other_columns_are_noise() -> None:
    draw = np.random.RandomState(0)
    labels = np.repeat(np.arange(3), 4)
    sure = 8.0 * np.eye(3)[labels] + 0.1 * draw.randn(12, 3)
    x = np.hstack([sure, draw.randn(12, 20)])
    choice = choose(Shots(x, labels, 3, has_zero_shot=True), seed=1)
    assert choice.held_out["zero_shot_accuracy"] == 1
    scores = sure if choice.head is None else choice.head(x[None].astype(np.float32), None)
    assert (scores.argmax(axis=1) == labels).all()


def test_the_gate_keeps_zero_shot_where_no_head_is_better_held_out() -> None:
    # Shots whose labels are random: nothing can be learnt, and zero-shot knows a little.
    draw = np.random.RandomState(4)
    labels = np.tile(np.arange(2), 12)
    x = draw.randn(24, 6)
    x[:, :2] += 1.5 * np.eye(2)[labels]
    choice = choose(Shots(x, labels, 2, has_zero_shot=True), seed=3)
    assert choice.held_out["loss"] <= choice.held_out["zero_shot_loss"]


def test_one_shot_a_class_has_nothing_to_hold_out_and_stands_on_zero_shot() -> None:
    x, labels = clusters(classes=4, images=1, views=5)
    choice = choose(Shots(x, labels, 4, has_zero_shot=True), seed=1)
    (spec,) = choice.kept
    assert (spec.family, spec.power) == ("logistic", 0.5)
    assert choice.held_out == {}
    assert choice.head is not None


def test_large_tasks_leave_the_iterative_family_out(monkeypatch) -> None:
    monkeypatch.setattr(candidates, "MAX_COST", 1.0)
    x, labels = clusters(classes=3, images=4)
    choice = choose(Shots(x, labels, 3), seed=1)
    assert {spec.family for spec in choice.kept} == {"gda"}


def test_the_sum_of_heads_is_the_sum_of_their_scores() -> None:
    x, labels = clusters(classes=3, images=5, views=2)
    shots = Shots(x, labels, 3, has_zero_shot=True)
    specs = (
        Spec("gda", 0.0, 1e-4, 0.1, 0.5),
        Spec("logistic", 1.0, 1e-5, 0.01, 1.0),
    )
    one, other = (selection.average(shots, [(spec, 1.0)]) for spec in specs)
    # One that is there twice counts twice.
    both = selection.average(shots, [(specs[0], 0.2), (specs[1], 1.5), (specs[0], 0.05)])
    rows = x[None].astype(np.float32)
    expected = 0.25 * one(rows, None) + 1.5 * other(rows, None)
    np.testing.assert_allclose(both(rows, None), expected, rtol=1e-3, atol=1e-3)


def test_more_columns_than_rows_give_the_same_spaces_as_their_transpose() -> None:
    wide, labels = clusters(classes=2, images=3, width=30)
    choice = choose(Shots(wide, labels, 2), seed=1)
    assert choice.head is not None
    scores = choice.head(wide[None].astype(np.float32), None)
    assert (scores.argmax(axis=1) == labels).all()


def test_the_same_seed_chooses_the_same_head() -> None:
    x, labels = clusters(classes=3, images=6, views=2)
    one, two = (choose(Shots(x, labels, 3, has_zero_shot=True), seed=5) for _ in range(2))
    assert one.kept == two.kept
    assert one.head is not None
    assert two.head is not None
    assert np.array_equal(one.head.layers[0].weight, two.head.layers[0].weight)


def test_three_shots_a_class_leave_every_candidate_finite() -> None:
    x, labels = clusters(classes=5, images=3)
    choice = choose(Shots(x, labels, 5), seed=1)
    assert np.isfinite(choice.held_out["loss"])


@pytest.mark.parametrize(("images", "ridge"), [(1, 0.1), (2, 0.025)])
def test_few_shots_hold_nothing_out_and_weigh_the_prior_less_the_more_they_are(
    images, ridge
) -> None:
    x, labels = clusters(classes=4, images=images)
    choice = choose(Shots(x, labels, 4, has_zero_shot=True), seed=1)
    assert [spec.strength for spec in choice.kept] == [ridge]
    assert choice.held_out == {}


@pytest.mark.parametrize(("images", "weight"), [(3, 2 / 3), (8, 1 / 4)])
def test_the_prior_is_worth_two_shots_beside_what_was_held_out(images, weight) -> None:
    x, labels = clusters(classes=3, images=images, spread=2.0)
    shots = Shots(x, labels, 3, has_zero_shot=True)
    choice = choose(shots, seed=1)
    *held, prior = choice.kept
    assert (prior.family, prior.power, prior.strength) == ("logistic", 0.5, 0.025)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(selection, "PRIOR_SHOTS", 0)
        without = choose(shots, seed=1)
    assert [*without.kept] == held
    alone = selection.average(shots, [(prior, 1.0)])
    rows = x[None].astype(np.float32)
    expected = (1 - weight) * without.head(rows, None) + weight * alone(rows, None)
    np.testing.assert_allclose(choice.head(rows, None), expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(("counts", "chosen"), [((8, 8, 1), True), ((8, 0, 8), False)])
def test_one_class_of_few_shots_does_not_keep_the_others_from_choosing(counts, chosen) -> None:
    x, labels = clusters(classes=3, images=8)
    kept = np.concatenate([np.flatnonzero(labels == k)[:n] for k, n in enumerate(counts)])
    choice = choose(Shots(x[kept], labels[kept], 3, has_zero_shot=True), seed=1)
    assert bool(choice.held_out) == chosen


def test_what_all_logits_of_a_prompt_share_changes_no_head() -> None:
    x, labels = clusters(classes=3, images=8, width=12)
    prompts = x.reshape(len(x), 2, 6)
    shifted = prompts + np.random.RandomState(1).randn(len(x), 2, 1)
    one, other = (
        choose(Shots(rows.reshape(len(x), 12), labels, 3, names=6), seed=1).head
        for rows in (prompts, shifted)
    )
    np.testing.assert_allclose(one.layers[0].weight, other.layers[0].weight, atol=1e-3)
    np.testing.assert_allclose(one.layers[0].weight.reshape(3, 2, 6).sum(axis=2), 0, atol=1e-3)
    scores = [
        head(np.float32(rows.transpose(1, 0, 2)), None)
        for head, rows in ((one, prompts), (other, shifted))
    ]
    np.testing.assert_allclose(*scores, atol=1e-3)


def test_of_the_classes_alone_the_mean_of_a_prompt_stays() -> None:
    x, labels = clusters(classes=3, images=8, width=6)
    assert Shots(x, labels, 3, has_zero_shot=True, names=3).centred is x
    assert (
        np.abs(Shots(x, labels, 3, has_zero_shot=True, names=6).centred.sum(axis=1)).max() < 1e-12
    )
    # Under each of two prompts the sum of the logits alone tells the classes apart.
    draw = np.random.RandomState(2)
    parts = draw.randn(24, 2, 3)
    parts += 4.0 * labels[:, None, None] - parts.mean(axis=2, keepdims=True)
    shots = Shots(parts.reshape(24, 6), labels, 3, has_zero_shot=True, names=3)
    assert choose(shots, seed=1).held_out["accuracy"] > 0.9


def test_the_worse_half_is_left_after_the_first_fold_of_many_images(monkeypatch) -> None:
    x, labels = clusters(classes=3, images=12, spread=4.0)
    shots = Shots(x, labels, 3, has_zero_shot=True)
    full = choose(shots, seed=1)
    fitted: list[Spec] = []
    fit = TrainingRows.fit

    def counted(part: TrainingRows, spec: Spec) -> Linear:
        fitted.append(spec)
        return fit(part, spec)

    monkeypatch.setattr(TrainingRows, "fit", counted)
    monkeypatch.setattr(cross_validation, "RACE_IMAGES", 9)
    raced = choose(shots, seed=1)
    counts = {spec: fitted.count(spec) for spec in fitted}
    once = [spec for spec, count in counts.items() if count == 1]
    assert len(once) >= len(counts) // 3
    *held, _ = raced.kept  # the last is the prior, which is in no race
    assert not {*once} & {cross_validation.residual(spec) for spec in held}
    assert raced.held_out["zero_shot_loss"] == full.held_out["zero_shot_loss"]
    assert raced.held_out["loss"] >= full.held_out["loss"]


def test_validation_images_choose_in_place_of_folds_and_at_one_shot() -> None:
    x, labels = clusters(classes=3, images=1, views=4)
    unseen, truth = clusters(classes=3, images=6)
    shots = Shots(x, labels, 3, has_zero_shot=True)
    choice = choose(shots, seed=1, validation=Unseen(unseen, truth))
    assert len(choice.kept) > 1
    assert choice.head is not None
    assert choice.held_out["accuracy"] > 0.9
    assert choice.kept == choose(shots, seed=2, validation=Unseen(unseen, truth)).kept


def test_candidates_are_judged_as_the_heads_that_they_become() -> None:
    """A candidate's score on validation images is the adapter's, to its temperature."""
    x, labels = clusters(classes=3, images=4, views=2, width=15)
    unseen, truth = clusters(classes=3, images=5, width=15)
    shots = Shots(x, labels, 3, has_zero_shot=True, names=5)
    specs = [*candidates.candidates(shots)]
    judged = cross_validation.judge_on(shots, specs, Unseen(unseen, truth))
    assert [each.spec for each in judged] == specs
    for each in judged[1 :: len(judged) // 6]:
        head = selection.average(shots, [(each.spec, 1.0)])
        scores = replace(head, gate=None)(unseen[None].astype(np.float32), None)
        temperature, loss = best_temperature(scores.astype(np.float64), truth)
        assert each.loss == pytest.approx(loss, abs=1e-4)
        assert each.temperature == pytest.approx(temperature)


def test_what_validation_images_say_decides_against_the_shots() -> None:
    """Shots are mislabelled; zero-shot is right on the validation images, and stays."""
    labels = np.repeat(np.arange(3), 4)
    sure = 8.0 * np.eye(3)[labels] + 0.1 * np.random.RandomState(0).randn(12, 3)
    wrong = (labels + 1) % 3
    choice = choose(
        Shots(sure, wrong, 3, has_zero_shot=True), seed=1, validation=Unseen(sure, labels)
    )
    assert choice.head is None
    assert choice.held_out["zero_shot_accuracy"] == 1
