"""A search over methods by scikit-learn, against the real server: every query is in its ledger."""

import numpy as np
import pytest
from sklearn.datasets import load_digits
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import FunctionTransformer

from craft_server.metering.ledger import Ledger
from craft_tuner import CraftClassifier
from tests.support.serving import running

TINY = {"population": 4, "intrinsic_dim": 8, "views": 1, "validation_folds": 0, "head_hidden": 8}


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with running(tmp_path_factory.mktemp("server")) as server:
        yield server


def used(server):
    """Queries by key; the ledger is sound and holds nothing back."""
    store = server.store()
    ledger = Ledger(store)
    assert ledger.audit() == []
    spent = {key_id: counters.queries for key_id, counters in ledger.totals().items()}
    assert all(ledger.budgets(key_id).queries.held == 0 for key_id in spent)
    store.close()
    return spent


def inverted(images):
    return 16 - images


def test_a_pipeline_is_searched_over_methods(server):
    images, labels = load_digits(n_class=3, return_X_y=True)
    images, labels = images[:18], labels[:18]
    craft = CraftClassifier(
        server=server.url, key=server.mint(200), budget=12, settings=TINY, value_range=(0, 16)
    )
    pipeline = Pipeline([("ink", FunctionTransformer(inverted)), ("craft", craft)])
    grid = {"craft__method": ["zero_shot", "bbt", "craft"], "craft__seed": [1, 2]}
    search = GridSearchCV(pipeline, grid, cv=2, error_score="raise").fit(images, labels)
    assert search.best_params_["craft__method"] in grid["craft__method"]
    assert np.isfinite(search.cv_results_["mean_test_score"]).all()
    best = search.best_estimator_.named_steps["craft"]
    assert best.classes_.tolist() == [0, 1, 2]
    assert best.adapter_.card.method == search.best_params_["craft__method"]
    assert search.predict_proba(images).shape == (18, 3)
    fits = {"zero_shot": 0, "bbt": 12, "craft": 10}
    folds = 2 * 2 * (sum(fits.values()) + len(fits))
    last = fits[search.best_params_["craft__method"]] + 1
    assert list(used(server).values()) == [folds + last]


def test_cross_validation_scores_it(server, tmp_path):
    images, labels = load_digits(n_class=2, return_X_y=True)
    craft = CraftClassifier(
        server=server.url, key=server.mint(60), method="bbt", budget=8, settings=TINY
    )
    pictures = images[:12].reshape(-1, 8, 8).astype(np.uint8)
    scores = cross_val_score(craft, pictures, labels[:12], cv=3)
    assert scores.shape == (3,)
    assert min(used(server).values()) == 3 * (8 + 1)
