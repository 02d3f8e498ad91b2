"""What a price depends on: sizes of a task, and what a key may ask and is told.

Owns the refusal of names that a key may not ask about.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

from craft_shared.messages import ModelCard, Output, OutputKind, Policy, PromptKind
from craft_tuner.blackbox import Images, Task, names_at_once
from craft_tuner.errors import AccessDenied
from craft_tuner.plan.cost import EVERY, numbers_told


@dataclass(frozen=True)
class Workload:
    """Sizes that a price depends on; `*_sets` count image sets, `test_*` are 0 without a test."""

    classes: int
    shots: int
    shot_sets: int = 1
    test_images: int = 0
    test_sets: int = 0
    bundle: int = 0
    """Rows of shots, validation images and views, for methods that ask about them at once."""
    validation: int = 0
    """Images that choices are made on; 0 without."""
    validation_sets: int = 0
    set_size: int = 10**9
    """Most images in a set."""
    kinds: tuple[PromptKind, ...] = ("soft", "text")
    """Kinds of prompts that the key may send."""
    names: int = 10**9
    """Most names in one request; 0: the classes alone."""
    labels: bool = False
    """Whether the key sees the best class alone."""
    told: int = EVERY
    """Most numbers that the key is told of a row; a row of fewer names tells them all."""

    @classmethod
    def of(
        cls,
        task: Task,
        test: Images | None = None,
        *,
        card: ModelCard | None = None,
        policy: Policy | None = None,
    ) -> Self:
        """Sizes of a task, of a final test's images if there is one, and what a key may ask."""
        test = test or Images((), 0)
        apart = task.validation.images if task.validation else Images((), 0)
        return cls(
            classes=len(task.texts.class_names),
            shots=task.shots.count,
            shot_sets=len(task.shots.sets),
            test_images=test.count,
            test_sets=len(test.sets),
            bundle=task.bundle.count if task.bundle else 0,
            validation=apart.count,
            validation_sets=len(apart.sets),
            **({} if card is None else of_key(card, policy)),
        )


def of_key(card: ModelCard, policy: Policy | None = None) -> dict[str, Any]:
    """The fields of a `Workload` that say what a key may ask, and what it is told.

    The card of `top_k` does not say k: without the policy of the key it is as dear as all.
    """
    seen: OutputKind = "label" if card.output == "label" else "logits"
    output = policy.output if policy else Output(kind=seen)
    return {
        "kinds": tuple(card.prompt_kinds),
        "names": names_at_once(card),
        "labels": card.output == "label",
        "told": numbers_told(output),
    }


def check_names(card: ModelCard, names: Sequence[str]) -> None:
    """Make sure that a key may ask about these names, all of them and no others.

    Raises:
        AccessDenied: they are not the key's list, or too few.
    """
    least, own = card.limits.min_classes, card.class_names
    if own is None and len(names) < least:
        raise AccessDenied(
            f"this key is told about at least {least} class names at a time, and here are "
            f"{len(names)}; add classes or ask the server's owner for another key"
        )
    if own is None or sorted(own) == sorted(names):
        return
    strange = next((name for name in names if name not in set(own)), None)
    lacking = next((name for name in own if name not in set(names)), None)
    faults = [
        *([f"{strange!r} is not on it"] if strange is not None else []),
        *([f"{lacking!r} is on it and not here"] if lacking is not None else []),
    ]
    raise AccessDenied(
        f"this key may ask about its own list of {len(own)} class names alone, all of them, and "
        f"here are {len(names)}: {', '.join(faults) or 'some more than once'}; use the dataset "
        "that the key is for, or ask the server's owner for another key"
    )
