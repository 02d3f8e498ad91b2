"""What every search over numbers has in common: ask and tell, and a replay from the journal.

Owns the port `Search`, which `craft_tuner.methods.loop` drives.
"""

import hashlib
import math
from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from craft_tuner.errors import FitDiverged

Vector = NDArray[np.float64]


class Search(Protocol):
    """Points out, fitness in; its state is a function of its settings and that fitness."""

    generation: int
    """How often `tell` was called."""
    center: Vector
    """Float64 (d,): the point that is the result."""

    def ask(self) -> Vector:
        """The next points, float64 (P, d)."""
        ...

    def tell(self, fitness: Sequence[float]) -> None:
        """Learn the fitness, lower is better, of the points asked last.

        Raises:
            FitDiverged: a value is not finite.
        """
        ...

    @property
    def best(self) -> float:
        """Lowest fitness so far."""
        ...

    @property
    def stopped(self) -> str | None:
        """Why the search is over, for people; None while it is not."""
        ...

    @property
    def metrics(self) -> Mapping[str, float]:
        """Diagnostics of the last generation."""
        ...


def digest(points: Vector) -> str:
    """Sha256 of the points' bytes, by which a replay is checked."""
    return hashlib.sha256(np.ascontiguousarray(points, "<f8").tobytes()).hexdigest()


def check_finite(fitness: Sequence[float], *, generation: int) -> None:
    """Refuse fitness values that no search can use.

    Raises:
        FitDiverged: a value is not finite.
    """
    if not all(math.isfinite(value) for value in fitness):
        raise FitDiverged(
            f"generation {generation}: a fitness is not finite, so the server "
            "answered with logits that are not; look at its model and dtype"
        )
