"""SPSA: CraFT's prompt module with gradients estimated from pairs of queries in place of CMA-ES.

Source: J. C. Spall, "Multivariate Stochastic Approximation Using a Simultaneous Perturbation
Gradient Approximation", IEEE Transactions on Automatic Control 37(3), 1992; gains by his guide of
1998 ("Implementation of ...", section III). z, its projection A and the fitness are CraFT's.

An iteration costs 2 `spsa_pairs` queries, each one prompt on all shots, in one call. As Spall
advises, A is a tenth of the iterations, and a follows from a first step that is chosen: here
`spsa_step` times `sigma`, the root mean square over z of the step along the first estimate. So
lengths in z are multiples of CMA-ES's first step size, and the presets carry over; `bound` and
`population` are not used. No query goes into the calibration.

The defaults of step and c were chosen by the loss on the shots alone (digits, 16 shots, 7,990
queries). At seed 1, steps of 0.03, 0.1, 0.3 and 1 end at 0.72, 0.66, 0.71 and 0.72 nats with
c = 0.1, and c of 0.02, 0.1, 0.3 and 0.5 at 0.76, 0.66, 0.88 and 0.93 with steps of 0.1; at seed 2,
steps of 0.03 and 0.1 end at 0.77 and 0.82. So c matters, and the step hardly.
"""

from functools import partial
from typing import ClassVar

import numpy as np
from pydantic import Field

from craft_shared.messages import Budgets, PromptKind
from craft_tuner.adapter.adapter import Adapter
from craft_tuner.blackbox import BlackBox, Task
from craft_tuner.config.fit_config import FitConfig
from craft_tuner.config.method_settings import MethodSettings
from craft_tuner.methods.base import Method, OnProgress
from craft_tuner.methods.loop import fit_generations
from craft_tuner.methods.prompt_only import PromptSearch, views_read
from craft_tuner.methods.recorder import Recorder
from craft_tuner.plan import Plan, Workload, plan_generations
from craft_tuner.search.projection import kept_variance, project, projection
from craft_tuner.search.spsa import Descent, Gains, Rule, signs

STABILITY = 0.1
"""A as a share of the iterations (1998, section III.B: "10% or less")."""


class SpsaSettings(MethodSettings):
    """Steps and perturbations."""

    listed_after: ClassVar[str | None] = "kl_fraction"

    spsa_pairs: int = Field(5, ge=1, le=2048, description="spsa: pairs of prompts an iteration")
    spsa_step: float = Field(
        0.1, gt=0, le=1e3, description="spsa: first step in z (root mean square), times sigma"
    )
    spsa_c: float = Field(
        0.1, gt=0, le=1e3, description="spsa: c, first perturbation of each z, times sigma"
    )
    spsa_alpha: float = Field(0.602, ge=0, le=1, description="spsa: steps shrink as k^-alpha")
    spsa_gamma: float = Field(
        0.101, ge=0, le=1, description="spsa: perturbations shrink as k^-gamma"
    )


class Spsa(Method):
    """Simultaneous perturbation over z."""

    name = "spsa"
    summary = "prompt only: gradients estimated from pairs of queries, in CraFT's z (Spall 1992)"
    prompt_kind: ClassVar[PromptKind | None] = "soft"
    settings = SpsaSettings
    levers = ("spsa_pairs",)

    def views(self, config: FitConfig) -> int:
        """One, where fitness sees an augmented view."""
        return views_read(config)

    def plan(self, config: FitConfig, work: Workload, budgets: Budgets | None = None) -> Plan:
        """Two queries for each pair of an iteration."""
        pairs = 2 * config.of(SpsaSettings).spsa_pairs
        return plan_generations(
            config, work, budgets, head_queries=0, population=pairs, lever="--spsa-pairs"
        )

    def fit(
        self, box: BlackBox, task: Task, *, recorder: Recorder, on_progress: OnProgress
    ) -> Adapter:
        """See `Method.fit`."""
        config = recorder.config
        a = projection(config, box.card.context_width)
        training = PromptSearch(
            box,
            task,
            config,
            search=descent(config, iterations=recorder.plan.generations),
            offsets_of=partial(project, a, n_ctx=config.n_ctx),
            constants={"kept_variance": kept_variance(a)},
        )
        return fit_generations(training, recorder, on_progress)


def descent(config: FitConfig, *, iterations: int) -> Descent:
    """The search over z, from 0."""
    own, stability = config.of(SpsaSettings), STABILITY * iterations
    gains = Gains(
        a=own.spsa_step * config.sigma * (stability + 1) ** own.spsa_alpha,
        stability=stability,
        alpha=own.spsa_alpha,
        c=own.spsa_c * config.sigma,
        gamma=own.spsa_gamma,
    )
    rule = Rule(gains, own.spsa_pairs, signs, relative=True)
    start = np.zeros(config.intrinsic_dim)
    return Descent(start, rule, seed=config.seed, iterations=iterations)
