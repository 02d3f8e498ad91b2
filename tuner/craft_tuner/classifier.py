"""`CraftClassifier`: a fit and its adapter as a scikit-learn estimator.

Owns how X and y become a dataset and scores become labels. What it does with them is what the
commands do: `fit` is an ordinary run, predictions go through `inference`. It prints nothing unless
`verbose`, and logs each plan (logger `craft_tuner`, INFO).
"""

import logging
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from pydantic import SecretStr
from sklearn.base import ClassifierMixin
from sklearn.utils import Tags
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import (
    check_consistent_length,
    check_is_fitted,
    column_or_1d,
    validate_data,
)

from craft_tuner.adapter.adapter import Adapter
from craft_tuner.blackbox import FloatArray
from craft_tuner.client.account import choose_model
from craft_tuner.commands.session import client_for, server_for
from craft_tuner.config import fit_config as configuration
from craft_tuner.config.settings import Settings, gather
from craft_tuner.config.validation import SPLIT
from craft_tuner.data.arrays import grey_pictures, holds_pictures, pictures_from
from craft_tuner.data.dataset import Dataset, Item, SetApart
from craft_tuner.data.frames import refuse_named_columns
from craft_tuner.data.labels import names_of_labels, set_apart
from craft_tuner.data.pictures import Picture
from craft_tuner.errors import InputError
from craft_tuner.heads.softmax import softmax
from craft_tuner.inference.predict import ask, batches
from craft_tuner.parameters import SettingsAsParameters
from craft_tuner.plan import Plan, amounts
from craft_tuner.runs.run import CONFIG, Run
from craft_tuner.training import fit as fitting
from craft_tuner.training import tracking

LOG = logging.getLogger("craft_tuner")

SETUP = {"made_by": "CraftClassifier"}
"""What a run of an estimator says of itself; its data is not on disk, so that `craft-tuner fit
--resume` cannot go on with it, and `fit` with the same data can."""


class CraftClassifier(ClassifierMixin, SettingsAsParameters):  # type: ignore[misc]
    """A classifier of images that adapts a metered black-box CLIP behind a craft-server.

    X is one of
      - a sequence or 1-D array of paths (str or path), of the bytes of image files, of PIL images,
        or of arrays (H, W) or (H, W, C): grey, grey and alpha, colour, or colour and alpha;
      - an array (N, H, W) or (N, H, W, C) of the same;
      - an array of numbers (N, F): each row is a grey picture, filled line by line into a square
        (64 numbers are 8 x 8 pixels; where F is no square number, the rest is black).
    y has labels of any one kind. `fit` and every prediction spend queries of the key; the same
    prediction of the same fitted estimator is paid once.

    Args:
        server: address; None: CRAFT_SERVER_URL, else this machine.
        key: API key; None: CRAFT_API_KEY, which keeps it out of pickles. Kept as a `SecretStr`.
        model: to ask, if the server has several; None: CRAFT_MODEL.
        method: how to adapt, as in `craft-tuner settings`; None: as `craft-tuner fit` chooses:
            `auto`, or what `preset` says.
        shots: images of each class that are drawn from X, also "up to 16"; None: all of X.
        seed: of all that is random.
        budget: most queries of a fit; with a plan that needs more nothing is sent. None: the
            paper's, or what the key has left if that is less.
        preset: settings of a dataset of the paper.
        validation: images that choices are made on: a share of X (0.2, "20%"), or a folder or table
            with the names of the classes; None: cross-validation, or the X_val of `fit`.
        settings: any other setting of a fit by name, as in `craft-tuner settings`; each is a
            parameter too, `settings__sigma`.
        class_names: what the model is asked about for each label: a mapping from labels, or the
            names in the order of the sorted labels; None: the labels, `sea_lion` as `sea lion`.
        value_range: numbers that are black and white where X is (N, F); None: the lowest and the
            highest of the X of `fit`.
        batch_size: images of an image set when predicting; None: as many as the server takes.
        run_dir: directory of the run, kept; fitting again on the same X and y goes on with it and
            pays nothing twice. None: a temporary one. One for each fit: leave it out in searches.
        timeout_s: longest wait for a reply in seconds; None: CRAFT_TIMEOUT_S.
        verbose: above 0 shows plan and progress on standard error.

    Attributes:
        classes_: (K,) the labels, sorted.
        adapter_: `craft_tuner.adapter.adapter.Adapter`, what was learnt.
        plan_: `craft_tuner.plan.Plan`, what the fit might spend; there before it spends any.
        result_: content of the run's result.json: queries spent, versions and so on.
        n_features_in_, value_range_: F and what is black and white, where X was (N, F).
    """

    def __init__(
        self,
        *,
        server: str | None = None,
        key: str | SecretStr | None = None,
        model: str | None = None,
        method: str | None = None,
        shots: int | str | None = None,
        seed: int = 1,
        budget: int | None = None,
        preset: str | None = None,
        validation: float | str | Path | None = None,
        settings: Mapping[str, Any] | None = None,
        class_names: Mapping[Any, str] | Sequence[str] | None = None,
        value_range: tuple[float, float] | None = None,
        batch_size: int | None = None,
        run_dir: str | Path | None = None,
        timeout_s: float | None = None,
        verbose: int = False,
    ) -> None:
        self.server = server
        self.key = key
        self.model = model
        self.method = method
        self.shots = shots
        self.seed = seed
        self.budget = budget
        self.preset = preset
        self.validation = validation
        self.settings = settings
        self.class_names = class_names
        self.value_range = value_range
        self.batch_size = batch_size
        self.run_dir = run_dir
        self.timeout_s = timeout_s
        self.verbose = verbose

    def __setattr__(self, name: str, value: Any) -> None:
        """A key is not shown where parameters are: representations, diagrams, logs of searches."""
        secret = name == "key" and isinstance(value, str)
        super().__setattr__(name, SecretStr(value) if secret else value)

    @classmethod
    def from_adapter(cls, path: str | Path, **parameters: Any) -> Self:
        """An estimator that is fitted already: an adapter's file, or the folder that has it.

        Raises:
            UsageError: there is no adapter.
        """
        fitted = cls(**parameters)
        fitted.adapter_ = Adapter.load(Path(path))
        fitted.classes_ = np.array(fitted.adapter_.card.class_names)
        return fitted

    def fit(
        self, X: Any, y: ArrayLike, *, X_val: Any = None, y_val: ArrayLike | None = None
    ) -> Self:
        """Adapt to images and labels (N,), within the budget; choose on those of validation.

        Raises:
            InputError: X or y cannot be used; a ValueError.
            CraftTunerError: the server or the key does not allow it; see `craft_tuner.errors`.
        """
        pictures, labels = self._checked(X, y)
        self.classes_, index = np.unique(labels, return_inverse=True)
        if len(self.classes_) < 2:
            raise InputError(f"y has 1 class, {self.classes_.tolist()[0]!r}; needed: 2 or more")
        items = [Item(one, int(label)) for one, label in zip(pictures, index, strict=True)]
        names = names_of_labels(self.classes_, self.class_names)
        apart = self._set_apart(X_val, y_val, names)
        outside = self._connection().allow_outside
        dataset = Dataset(names, tuple(items), validation=apart, outside=outside)
        settings = self._fit_settings(most=int(np.bincount(index).max()), apart=bool(apart.pairs))
        self._run(dataset, settings)
        return self

    def predict(self, X: Any) -> NDArray[Any]:
        """The likeliest label of each image, (N,)."""
        scores = self._scores(X)
        labels: NDArray[Any] = self.classes_[scores.argmax(axis=1)]
        return labels

    def predict_proba(self, X: Any) -> FloatArray:
        """Probabilities float32 (N, K) in the order of `classes_`."""
        return softmax(self._scores(X))

    def decision_function(self, X: Any) -> FloatArray:
        """The adapter's scores: float32 (N, K), or (N,) of the second class if there are two."""
        scores = self._scores(X)
        return scores[:, 1] - scores[:, 0] if scores.shape[1] == 2 else scores

    def __sklearn_tags__(self) -> Tags:
        """What scikit-learn's checks may expect: images are no tables, so scores on these vary."""
        tags = super().__sklearn_tags__()
        tags.classifier_tags.poor_score = True
        return tags

    # --- data ------------------------------------------------------------------------------------

    def _checked(self, X: Any, y: ArrayLike) -> tuple[tuple[Picture, ...], NDArray[Any]]:
        """Pictures and labels of a fit."""
        refuse_named_columns(X)
        if holds_pictures(X):
            labels = column_or_1d(y, warn=True)
            pictures = pictures_from(X)
            check_consistent_length(pictures, labels)
            for name in ("n_features_in_", "value_range_"):
                self.__dict__.pop(name, None)  # of an earlier fit on numbers
        else:
            rows, labels = validate_data(self, X, y, dtype=np.float64)
            seen = (float(rows.min()), float(rows.max()))
            self.value_range_ = seen if self.value_range is None else self.value_range
            pictures = grey_pictures(rows, self.value_range_)
        check_classification_targets(labels)
        return pictures, labels

    def _set_apart(self, X_val: Any, y_val: Any, names: Sequence[str]) -> SetApart:
        """What choices are made on; nothing without X_val."""
        if X_val is None and y_val is None:
            return SetApart()
        if X_val is None or y_val is None or self.validation is not None:
            raise InputError("give X_val and y_val together, and then no `validation`")
        labels = column_or_1d(y_val, warn=True)
        return set_apart(self._pictures(X_val), labels, self.classes_, names)

    def _pictures(self, X: Any) -> tuple[Picture, ...]:
        """Pictures of a prediction."""
        refuse_named_columns(X)
        if holds_pictures(X):
            return pictures_from(X)
        rows = validate_data(self, X, dtype=np.float64, reset=False)
        seen = getattr(self, "value_range_", self.value_range)
        if seen is None:
            raise InputError(
                "X has rows of numbers and the fit had pictures; set value_range to the numbers "
                "that are black and white"
            )
        return grey_pictures(rows, seen)

    # --- server ----------------------------------------------------------------------------------

    def _connection(self) -> Settings:
        flags = {name: getattr(self, name) for name in ("server", "key", "model", "timeout_s")}
        return gather(flags, environ=os.environ).settings

    def _fit_settings(self, *, most: int, apart: bool) -> configuration.FitConfig:
        """Settings of a fit; without `shots`, all images are shots, `most` in the largest class."""
        if not isinstance(self.settings, Mapping | None):
            raise InputError(f"settings is {self.settings!r}; needed: a mapping of names to values")
        names = ("preset", "method", "budget", "shots", "validation")
        own = {name: getattr(self, name) for name in names}
        given = {name: value for name, value in own.items() if value is not None}
        given |= {"validation": SPLIT} if apart else {}
        everything = {"shots": most, "sampling": "coop"} if self.shots is None else {}
        return configuration.build(everything, self.settings or {}, {"seed": self.seed}, given)

    def _run(self, dataset: Dataset, settings: configuration.FitConfig) -> None:
        clock, connection = fitting.Clock(), self._connection()
        track = tracking.known(connection.track)
        with ExitStack() as held:
            path = held.enter_context(_directory(self.run_dir))
            screen, transport = held.enter_context(server_for(connection, verbose=self.verbose > 0))
            card = choose_model(transport, connection.model)
            run = None
            if (path / CONFIG).exists():
                run = held.enter_context(Run.resume(path, config=settings))
            prepared = fitting.prepare(settings, dataset, transport, card=card, run=run)
            self.plan_ = prepared.plan
            LOG.info("%s", _plan_in_words(self.plan_))
            run = run or held.enter_context(Run.create(path, settings, setup=SETUP))
            following = tracking.following(track, run, screen, say=screen.say)
            watcher = held.enter_context(following)
            self.result_ = fitting.fit(
                run, prepared, transport, card=card, watcher=watcher, clock=clock
            )
            self.adapter_ = Adapter.load(path)

    def _scores(self, X: Any) -> FloatArray:
        """Refined logits float32 (N, K)."""
        check_is_fitted(self, "adapter_")
        pictures, adapter = self._pictures(X), self.adapter_
        found: list[FloatArray] = []
        connection = self._connection()
        with server_for(connection, verbose=self.verbose > 0) as (screen, transport):
            client = client_for(adapter, transport, connection)
            advance = screen.uploading(len(pictures))
            for batch in batches(pictures, adapter, client.card.limits, size=self.batch_size):
                answer = ask(client, adapter, batch, on_uploaded=advance)
                if answer.refused:
                    sentences = "; ".join(error.message for error in answer.refused)
                    raise InputError(f"{len(answer.refused)} of X cannot be used: {sentences}")
                found.append(answer.logits)
        return np.concatenate(found)


def _plan_in_words(plan: Plan) -> str:
    short = f"; {plan.short}" if plan.short else ""
    return f"{plan.method}: {plan.spending}; in all {amounts(plan.total)}{short}"


@contextmanager
def _directory(given: str | Path | None) -> Iterator[Path]:
    if given is not None:
        yield Path(given)
        return
    with tempfile.TemporaryDirectory(prefix="craft-") as folder:
        yield Path(folder)
