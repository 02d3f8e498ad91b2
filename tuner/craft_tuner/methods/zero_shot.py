"""Zero-shot: the model as it is, the number that every method stands beside."""

from craft_shared.messages import Budgets, PromptKind
from craft_tuner.adapter.adapter import Adapter
from craft_tuner.blackbox import BlackBox, Task
from craft_tuner.config.fit_config import FitConfig
from craft_tuner.methods.base import OnProgress
from craft_tuner.plan import Plan, Workload, plan_phases
from craft_tuner.runs.run import Run


class ZeroShot:
    """Asks nothing and changes nothing."""

    name = "zero_shot"
    summary = "the model as it is: plain text prompts, no training, no query but the test"
    prompt_kind: PromptKind = "text"

    def views(self, config: FitConfig) -> int:  # noqa: ARG002 - the interface
        """None."""
        return 0

    def plan(self, config: FitConfig, work: Workload, budgets: Budgets | None = None) -> Plan:
        """One query per test image set, at the test."""
        return plan_phases(config, work, budgets, phases=(), test_prompts=0)

    def fit(
        self,
        box: BlackBox,
        task: Task,
        *,
        run: Run,
        on_progress: OnProgress,  # noqa: ARG002 - the interface
    ) -> Adapter:
        """The identity adapter, saved in the run."""
        run.bind(task, box.card)
        config = run.config.model_dump(mode="json")
        adapter = Adapter.identity(task.texts, box.card, method=self.name, config=config)
        run.save_adapter(adapter)
        return adapter
