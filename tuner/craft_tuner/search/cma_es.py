"""The prompt generation module of CraFT: CMA-ES over z.

Owns the search; `craft_tuner.search.projection` owns the random linear image A z.

Source: CraFT (arXiv 2402.04050), prompt generation module: p = p0 + A z with z searched by CMA-ES;
official code mrflogs/CraFT @1a4c251, main_craft.py, whose lines are cited.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, cast

import cma
import numpy as np
from cma.sigma_adaptation import CMAAdaptSigmaCSA, CMAAdaptSigmaTPA

from craft_tuner.config.fit_config import FitConfig
from craft_tuner.search.base import Vector, check_finite
from craft_tuner.threads import one_blas_thread

_STOPPED = {
    "maxiter": "the plan's generations are done",
    "tolflatfitness": "fitness is flat: prompts make no difference; raise sigma or std",
    "tolfun": "fitness no longer changes; if it is high, raise sigma or std",
    "tolfunhist": "fitness no longer changes; if it is high, raise sigma or std",
    "tolx": "the step size has vanished",
    "tolxstagnation": "the mean has stopped moving",
    "tolstagnation": "fitness has stagnated",
    "tolfacupx": "the step size has exploded; raise sigma",
    "tolupsigma": "the step size has exploded; raise sigma",
    "tolconditioncov": "the covariance is ill-conditioned",
    "noeffectaxis": "a step no longer changes the mean",
    "noeffectcoord": "a step no longer changes the mean",
}


class CmaEs:
    """CMA-ES over z: `ask`, then `tell`, until `stopped` says why (main_craft.py:171-206).

    pycma's own state is never saved: the seed and the fitness values rebuild it
    (`craft_tuner.methods.loop.replay`, decision 0006).
    """

    def __init__(self, config: FitConfig, *, generations: int) -> None:
        self.generation = 0
        self.center: Vector = np.zeros(config.intrinsic_dim)
        """Float64 (d,): z of the prompt for the head and the result; 0 before the first `tell`."""
        self._head_context = config.head_context
        self._asked: list[Vector] = []
        self._stream = np.random.RandomState(config.seed).get_state()
        with self._alone():
            self._strategy = cma.CMAEvolutionStrategy(
                config.intrinsic_dim * [0], config.sigma, inopts=_options(config, generations)
            )

    def ask(self) -> Vector:
        """The next population, float64 (P, d), within the bounds (main_craft.py:198)."""
        with self._alone():
            self._asked = self._strategy.ask()
        return np.array(self._asked)

    def tell(self, fitness: Sequence[float]) -> None:
        """Learn the fitness, lower is better, of the population asked last (main_craft.py:204).

        Raises:
            FitDiverged: a value is not finite.
        """
        check_finite(fitness, generation=self.generation + 1)
        with self._alone():
            self._strategy.tell(self._asked, [*fitness])
            self.center = self._center()
        self.generation += 1

    @property
    def sigma(self) -> float:
        """Current step size."""
        return float(self._strategy.sigma)

    @property
    def metrics(self) -> dict[str, float]:
        """The step size, as metrics."""
        return {"sigma": self.sigma}

    @property
    def best(self) -> float:
        """Lowest fitness so far."""
        return float(self._strategy.best.f)

    @property
    def stopped(self) -> str | None:
        """Why the search is over, for people; None while it is not (`while not es.stop()`)."""
        reasons = self._strategy.stop()
        if not reasons:
            return None
        return "; ".join(dict.fromkeys(_STOPPED.get(reason, reason) for reason in reasons))

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Let pycma use numpy's global generator, which it does, without anybody noticing.

        Its `randn` option is not enough: the tpa rule draws from the global one all the same.
        """
        outside = np.random.get_state()
        np.random.set_state(self._stream)
        try:
            with one_blas_thread():
                yield
        finally:
            self._stream = np.random.get_state()
            np.random.set_state(outside)

    def _center(self) -> Vector:
        """Mean of the distribution; official: the mean of a second population (157-160).

        ImageNet: the best sample ever (main_craft_imagenet.py:165). Decision 0001.
        """
        if self._head_context == "best":
            return np.asarray(self._strategy.best.x, np.float64)
        if self._head_context == "resampled":
            return cast("Vector", np.mean(self._strategy.ask(), axis=0))
        return np.asarray(self._strategy.result.xfavorite, np.float64)


def _options(config: FitConfig, generations: int) -> dict[str, Any]:
    """As main_craft.py:171-179, but never touching files; the step-size rule is decision 0008."""
    rules = {"csa": CMAAdaptSigmaCSA, "tpa": CMAAdaptSigmaTPA}
    return {
        "popsize": config.population,
        "maxiter": generations,
        "bounds": [None, None] if config.bound is None else [-config.bound, config.bound],
        "AdaptSigma": rules[config.step_size],
        "seed": config.seed,
        "signals_filename": "",  # else a file cma_signals.in lying around would steer the run
        "verbose": -9,
        "verb_disp": 0,
        "verb_log": 0,
    }
