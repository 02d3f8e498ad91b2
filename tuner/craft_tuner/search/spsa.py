"""Descent along gradients that are estimated from pairs of queries.

Owns the estimate, the gains and the step.

Source: J. C. Spall, "Multivariate Stochastic Approximation Using a Simultaneous Perturbation
Gradient Approximation", IEEE Transactions on Automatic Control 37(3), 1992; the gains as in his
"Implementation of the Simultaneous Perturbation Algorithm for Stochastic Optimization", IEEE
Transactions on Aerospace and Electronic Systems 34(3), 1998, whose steps are cited.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from craft_tuner.search.base import Vector, check_finite
from craft_tuner.seeds import Stream, stream

Draw = Callable[[np.random.RandomState, tuple[int, int]], Vector]
"""Perturbations of a shape (pairs, d), symmetric about 0 and bounded away from it."""


@dataclass(frozen=True)
class Gains:
    """The sequences a_k = a / (A + k)^alpha and c_k = c / k^gamma, for k from 1 (1998, step 1)."""

    a: float
    stability: float
    """A: iterations for which the step hardly shrinks."""
    alpha: float
    c: float
    gamma: float

    def step(self, k: int) -> float:
        """a_k, what the estimate is multiplied by."""
        return self.a / math.pow(self.stability + k, self.alpha)

    def perturbation(self, k: int) -> float:
        """c_k, half the distance of a pair, in units of the drawn perturbation."""
        return self.c / math.pow(k, self.gamma)


@dataclass(frozen=True)
class Rule:
    """How a descent draws, measures and steps."""

    gains: Gains
    pairs: int
    """n: estimates averaged in an iteration, two queries each."""
    draw: Draw
    clip: float | None = None
    """Longest estimate (Euclidean norm) that is stepped along; a longer one is shortened to it."""
    relative: bool = False
    """Measure estimates by the first one: the root mean square of its entries becomes 1."""


class Descent:
    """A `craft_tuner.search.base.Search` by simultaneous perturbation: 2 n points an iteration.

    Args:
        start: float64 (d,), where it begins.
        rule: how it goes.
        seed: of the perturbations; iteration k draws from a stream of its own.
        iterations: how many there will be.
    """

    def __init__(self, start: Vector, rule: Rule, *, seed: int, iterations: int) -> None:
        self.generation = 0
        self.center = start
        self.best = math.inf
        self._rule, self._seed, self._iterations = rule, seed, iterations
        self._deltas: Vector = np.empty((0, len(start)))
        self._unit: float | None = None if rule.relative else 1.0
        self._norm = math.nan

    def ask(self) -> Vector:
        """The points w + c_k delta_i, then the points w - c_k delta_i; float64 (2 n, d)."""
        k = self.generation + 1
        draw = stream(self._seed, Stream.PERTURBATIONS, k)
        self._deltas = self._rule.draw(draw, (self._rule.pairs, len(self.center)))
        shift = self._rule.gains.perturbation(k) * self._deltas  # 1998, steps 2 and 3
        return np.concatenate([self.center + shift, self.center - shift])

    def tell(self, fitness: Sequence[float]) -> None:
        """Step along the estimate (1998, steps 4 and 5); see `Search.tell` in base."""
        k = self.generation + 1
        check_finite(fitness, generation=k)
        estimate = self._measured(self._estimate(np.array(fitness), k))
        self._norm = float(np.sqrt(np.sum(estimate**2)))
        clip = self._rule.clip
        if clip is not None and self._norm >= clip:
            estimate = estimate * (clip / self._norm)
        self.center = self.center - self._rule.gains.step(k) * estimate
        self.best = min(self.best, *fitness)
        self.generation = k

    @property
    def stopped(self) -> str | None:
        """Set when the plan is done: it has no other end."""
        done = self.generation >= self._iterations
        return "the plan's generations are done" if done else None

    @property
    def metrics(self) -> dict[str, float]:
        """Gains and length of the estimate in the last iteration."""
        gains, k = self._rule.gains, self.generation
        return {
            "step_gain": gains.step(k),
            "perturbation_gain": gains.perturbation(k),
            "estimate_norm": self._norm,
        }

    def _estimate(self, fitness: Vector, k: int) -> Vector:
        """Mean over the pairs of (y+ - y-) / (2 c_k delta) (1992, eq. 2.2), (d,)."""
        above, below = fitness[: self._rule.pairs], fitness[self._rule.pairs :]
        distance = 2 * self._rule.gains.perturbation(k) * self._deltas
        estimate: Vector = ((above - below)[:, None] / distance).mean(axis=0)
        return estimate

    def _measured(self, estimate: Vector) -> Vector:
        """The estimate in units of the first one that is not zero."""
        if self._unit is None:
            self._unit = float(np.sqrt(np.mean(estimate**2))) or None
        return estimate if self._unit is None else estimate / self._unit


def signs(draw: np.random.RandomState, shape: tuple[int, int]) -> Vector:
    """Each entry -1 or 1 with probability 1/2, Spall's choice (1998, step 2)."""
    return np.where(draw.randint(0, 2, shape) == 1, 1.0, -1.0)


def segments(draw: np.random.RandomState, shape: tuple[int, int]) -> Vector:
    """Each entry uniform in [-1, -1/2] or in [1/2, 1] (ZIP, trainers/zip.py:309-312)."""
    lengths: Vector = (draw.random_sample(shape) + 1) / 2
    return lengths * signs(draw, shape)
