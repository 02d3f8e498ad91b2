"""What the model is asked about for each label of a Python program."""

from collections.abc import Mapping, Sequence
from typing import Any

from numpy.typing import NDArray

from craft_tuner.data.dataset import SetApart, spoken
from craft_tuner.data.pictures import Picture
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


def set_apart(
    pictures: Sequence[Picture],
    labels: NDArray[Any],
    classes: NDArray[Any],
    names: Sequence[str],
) -> SetApart:
    """Validation images (M) by the class names of their labels; `names` are those of `classes`.

    Raises:
        InputError: there is not a label for each, or one is not among the classes.
    """
    if len(pictures) != len(labels):
        raise InputError(f"X_val has {len(pictures)} images and y_val {len(labels)} labels")
    name_of = dict(zip(classes.tolist(), names, strict=True))
    strange = next((label for label in labels.tolist() if label not in name_of), None)
    if strange is not None:
        raise InputError(f"y_val has the label {strange!r}, which y has not")
    return SetApart(tuple(zip(map(name_of.__getitem__, labels.tolist()), pictures, strict=True)))
