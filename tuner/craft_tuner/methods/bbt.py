"""Black-box tuning: the prompt module of CraFT alone, without head.

Source: T. Sun et al., "Black-Box Tuning for Language-Model-as-a-Service", ICML 2022, arXiv
2201.03514, as CraFT's ablation runs it ("BBT" in its tables): main_craft.py with w = 0 and no
head. No query goes to a head, so the same budget buys more generations.
"""

from functools import partial
from typing import ClassVar

from craft_shared.messages import Budgets, PromptKind
from craft_tuner.adapter.adapter import Adapter
from craft_tuner.blackbox import BlackBox, Task
from craft_tuner.config.fit_config import FitConfig
from craft_tuner.methods.base import Method, OnProgress
from craft_tuner.methods.loop import fit_generations
from craft_tuner.methods.prompt_only import PromptSearch, views_read
from craft_tuner.methods.recorder import Recorder
from craft_tuner.plan import Plan, Workload, plan_generations
from craft_tuner.search.cma_es import CmaEs
from craft_tuner.search.projection import kept_variance, project, projection


class BlackBoxTuning(Method):
    """CMA-ES over the prompt, nothing else."""

    name = "bbt"
    summary = "prompt only: the search of CraFT without its head"
    prompt_kind: ClassVar[PromptKind | None] = "soft"
    levers = ("population",)

    def views(self, config: FitConfig) -> int:
        """One, where fitness sees an augmented view."""
        return views_read(config)

    def plan(self, config: FitConfig, work: Workload, budgets: Budgets | None = None) -> Plan:
        """P queries a generation."""
        return plan_generations(config, work, budgets, head_queries=0)

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
            search=CmaEs(config, generations=recorder.plan.generations),
            offsets_of=partial(project, a, n_ctx=config.n_ctx),
            constants={"kept_variance": kept_variance(a)},
        )
        return fit_generations(training, recorder, on_progress)
