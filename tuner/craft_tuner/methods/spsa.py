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

import numpy as np

from craft_shared.messages import Budgets, PromptKind
from craft_tuner.adapter.adapter import Adapter
from craft_tuner.blackbox import BlackBox, Task
from craft_tuner.config.fit_config import FitConfig
from craft_tuner.methods.base import OnProgress
from craft_tuner.methods.loop import fit_generations
from craft_tuner.methods.prompt_only import PromptSearch, views_read
from craft_tuner.plan import Plan, Workload, plan_generations
from craft_tuner.runs.run import Run
from craft_tuner.search.projection import kept_variance, project, projection
from craft_tuner.search.spsa import Descent, Gains, Rule, signs

STABILITY = 0.1
"""A as a share of the iterations (1998, section III.B: "10% or less")."""


class Spsa:
    """Simultaneous perturbation over z."""

    name = "spsa"
    summary = "prompt only: gradients estimated from pairs of queries, in CraFT's z (Spall 1992)"
    prompt_kind: PromptKind = "soft"

    def views(self, config: FitConfig) -> int:
        """One, where fitness sees an augmented view."""
        return views_read(config)

    def plan(self, config: FitConfig, work: Workload, budgets: Budgets | None = None) -> Plan:
        """Two queries for each pair of an iteration."""
        pairs = 2 * config.spsa_pairs
        return plan_generations(
            config, work, budgets, head_queries=0, population=pairs, lever="--spsa-pairs"
        )

    def fit(self, box: BlackBox, task: Task, *, run: Run, on_progress: OnProgress) -> Adapter:
        """See `Method.fit`."""
        run.bind(task, box.card)
        config = run.config
        a = projection(config, box.card.context_width)
        work = PromptSearch(
            box,
            task,
            config,
            search=descent(config, iterations=run.plan.generations),
            offsets_of=partial(project, a, n_ctx=config.n_ctx),
            constants={"kept_variance": kept_variance(a)},
        )
        return fit_generations(work, run, on_progress)


def descent(config: FitConfig, *, iterations: int) -> Descent:
    """The search over z, from 0."""
    stability = STABILITY * iterations
    gains = Gains(
        a=config.spsa_step * config.sigma * (stability + 1) ** config.spsa_alpha,
        stability=stability,
        alpha=config.spsa_alpha,
        c=config.spsa_c * config.sigma,
        gamma=config.spsa_gamma,
    )
    rule = Rule(gains, config.spsa_pairs, signs, relative=True)
    start = np.zeros(config.intrinsic_dim)
    return Descent(start, rule, seed=config.seed, iterations=iterations)
