"""Zero-shot: the model as it is, the number that every method stands beside."""

from typing import ClassVar

from craft_shared.messages import Budgets, PromptKind
from craft_tuner.adapter.adapter import Adapter
from craft_tuner.blackbox import BlackBox, Task
from craft_tuner.config.fit_config import FitConfig
from craft_tuner.methods.base import Method, OnProgress
from craft_tuner.methods.recorder import Recorder
from craft_tuner.plan import Plan, Workload, plan_phases


class ZeroShot(Method):
    """Asks nothing and changes nothing."""

    name = "zero_shot"
    summary = "the model as it is: plain text prompts, no training, no query but the test"
    prompt_kind: ClassVar[PromptKind | None] = "text"

    def plan(self, config: FitConfig, work: Workload, budgets: Budgets | None = None) -> Plan:
        """One query per test image set, at the test."""
        return plan_phases(config, work, budgets, phases=(), test_prompts=0)

    def fit(
        self,
        box: BlackBox,
        task: Task,
        *,
        recorder: Recorder,
        on_progress: OnProgress,
    ) -> Adapter:
        """The identity adapter, saved."""
        config = recorder.config.model_dump(mode="json")
        adapter = Adapter.identity(task.texts, box.card, method=self.name, config=config)
        recorder.save_adapter(adapter)
        return adapter
