"""Settings of a fit as parameters of scikit-learn: `settings__sigma` in a grid search.

Owns how names with two underscores reach the mapping `settings` of an estimator.
"""

from collections.abc import Mapping
from typing import Any, Self

from sklearn.base import BaseEstimator

PREFIX = "settings__"


class SettingsAsParameters(BaseEstimator):  # type: ignore[misc] # sklearn is untyped
    """An estimator whose parameter `settings` is a mapping, or None."""

    settings: Mapping[str, Any] | None

    def get_params(self, deep: bool = True) -> dict[str, Any]:  # noqa: FBT001, FBT002 - as scikit-learn has it
        """All parameters by name; with `deep`, `settings__NAME` for each setting that is given."""
        found: dict[str, Any] = super().get_params(deep=deep)
        nested = self._given() if deep else {}
        return found | {f"{PREFIX}{name}": value for name, value in nested.items()}

    def set_params(self, **params: Any) -> Self:
        """Set parameters by name; `settings__NAME` sets one setting and leaves the others."""
        nested = {name: value for name, value in params.items() if name.startswith(PREFIX)}
        super().set_params(**{name: params[name] for name in params if name not in nested})
        if nested:
            given = {name.removeprefix(PREFIX): value for name, value in nested.items()}
            self.settings = {**self._given(), **given}
        return self

    def _given(self) -> Mapping[str, Any]:
        """The settings; none where the parameter is no mapping, which `fit` refuses."""
        return self.settings if isinstance(self.settings, Mapping) else {}
