"""What the model is asked about for each label of a Python program."""

from collections.abc import Mapping, Sequence
from typing import Any

from numpy.typing import NDArray

from craft_tuner.data.dataset import spoken
from craft_tuner.errors import InputError


def names_of_labels(
    labels: NDArray[Any], given: Mapping[Any, str] | Sequence[str] | None
) -> tuple[str, ...]:
    """The class name of each label, in order.

    Args:
        labels: (K,), sorted.
        given: a name for each label, or the names in the labels' order; None: the labels as words.

    Raises:
        InputError: a label has no name.
    """
    if given is None:
        return tuple(spoken(str(label)) for label in labels)
    if not isinstance(given, Mapping):
        if len(given) != len(labels):
            raise InputError(
                f"{len(given)} class_names for {len(labels)} labels ({labels[:10].tolist()}); give "
                "one for each, in their order"
            )
        return tuple(given)
    missing = [label for label in labels.tolist() if label not in given]
    if missing:
        raise InputError(f"class_names has no name for the label {missing[0]!r}; give one for each")
    return tuple(given[label] for label in labels.tolist())
