"""The tuner: owns labels, optimiser and refinement head; sees the model only through HTTP.

`from craft_tuner import CraftClassifier` is its Python interface, a scikit-learn estimator; it is
imported when it is asked for.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from craft_tuner.classifier import CraftClassifier

__all__ = ["CraftClassifier"]


def __getattr__(name: str) -> Any:
    if name == "CraftClassifier":
        from craft_tuner.classifier import CraftClassifier  # noqa: PLC0415 - loads scikit-learn

        return CraftClassifier
    raise AttributeError(f"module 'craft_tuner' has no attribute {name!r}")
