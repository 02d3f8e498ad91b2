"""The attack on image embeddings finds at least what was once found, and what bounds it holds."""

import numpy as np
import pytest

from benchmarks.accuracy.asking import FIXED, Replies, replies
from benchmarks.accuracy.leakage import (
    LABEL,
    LOGITS,
    PROBABILITIES,
    TOP,
    WHOLE,
    Case,
    embeddings,
    records_of,
)
from benchmarks.accuracy.recovery import Prior, cosine, recover
from benchmarks.common.local import load_model

pytestmark = pytest.mark.slow  # whole attacks

IMAGES, OTHERS, TEXTS = 8, 100, 520


@pytest.fixture(scope="module")
def model():
    return load_model(model="embedded")


@pytest.fixture(scope="module")
def records(model):
    return records_of(model, IMAGES, others=OTHERS)


@pytest.fixture(scope="module")
def case(model, records):
    pools = {
        pool: replies(model, records[:IMAGES], pool, TEXTS, seed=3)
        for pool in ("words", "nonsense", "fixed")
    }
    prior = Prior.of_texts(pools["words"].texts)
    return Case(embeddings(records[:IMAGES]), model.card.logit_scale, pools, prior)


def found(case: Case, output, *, texts, names, pool="words", prior=None):
    asked, told = case.pools[pool].told(texts, names, output)
    return recover(asked, told, case.scale, output, prior or case.prior)


def recovered(case: Case, output, **asked):
    return cosine(found(case, output, **asked), case.true)


def test_one_query_of_names_without_a_meaning_tells_all_that_texts_can(case) -> None:
    """Finding 2: the rest, 0.004, lies in directions that no text of this model has."""
    spanned = case.prior.axes / np.linalg.norm(case.prior.axes, axis=1, keepdims=True)
    most = cosine(case.true @ spanned.T @ spanned, case.true)
    cosines = recovered(case, LOGITS, texts=256, names=256, pool="nonsense")
    assert cosines >= 0.995
    assert cosines == pytest.approx(most, abs=1e-3)


def test_top_k_of_k_names_is_log_probabilities(case) -> None:
    """Finding 8."""
    _, told = case.pools["words"].told(249, 3, TOP)
    _, all_told = case.pools["words"].told(249, 3, PROBABILITIES)
    np.testing.assert_array_equal(told, all_told)
    assert recovered(case, TOP, texts=249, names=3) >= 0.994


def test_one_name_more_than_k_hides_nothing(case) -> None:
    """What the told probabilities leave is the hidden one's."""
    _, told = case.pools["words"].told(248, 4, TOP)
    _, all_told = case.pools["words"].told(248, 4, PROBABILITIES)
    hidden = ~np.isfinite(told)
    left = 1 - np.exp(told.astype(float)).sum(axis=2)
    assert (hidden.sum(axis=2) == 1).all()
    np.testing.assert_allclose(left.ravel(), np.exp(all_told[hidden]), atol=1e-6)
    assert recovered(case, TOP, texts=248, names=4) >= 0.994


def test_many_names_hide_something_while_texts_are_few(case) -> None:
    few = {names: recovered(case, TOP, texts=60, names=names) for names in (3, 4, 10, 30)}
    assert few[30] < few[10] < min(few[3], few[4])


def test_250_labels_of_two_other_names_tell_nearly_all(case) -> None:
    """Finding 8 said 0.955."""
    assert recovered(case, LABEL, texts=500, names=2) >= 0.97


def test_rounding_to_whole_logits_protects_little(case) -> None:
    assert recovered(case, WHOLE, texts=250, names=250) >= 0.98


@pytest.mark.parametrize(("output", "least"), [(LOGITS, 0.99), (PROBABILITIES, 0.99), (TOP, 0.98)])
def test_a_fixed_class_list_leaves_templates_to_ask_with(case, output, least) -> None:
    assert recovered(case, output, texts=100, names=len(FIXED), pool="fixed") >= least


@pytest.mark.parametrize(("pool", "names"), [("words", 20), ("fixed", 10)])
def test_no_more_directions_are_recovered_than_texts_were_told(case, pool, names, model) -> None:
    """What the limit on texts says: of many images too."""
    records = records_of(model, 64)
    many = replies(model, records, pool, 20, seed=1)
    some = Case(embeddings(records), case.scale, {pool: many}, case.prior)
    assert np.linalg.matrix_rank(embeddings(records), tol=1e-3) > 20
    assert np.linalg.matrix_rank(found(some, LOGITS, texts=20, names=names, pool=pool)) <= 20


def test_who_knows_other_pictures_needs_fewer_texts(case, records) -> None:
    known = Prior.of_images(embeddings(records[IMAGES:]))
    with_texts = recovered(case, LOGITS, texts=10, names=10)
    assert recovered(case, LOGITS, texts=10, names=10, prior=known) > max(0.97, with_texts)


def test_the_same_seed_asks_the_same(model, records) -> None:
    def texts(seed: int) -> Replies:
        return replies(model, records[:1], "fixed", 20, seed=seed)

    np.testing.assert_array_equal(texts(1).texts, texts(1).texts)
    assert not np.array_equal(texts(1).texts, texts(2).texts)
