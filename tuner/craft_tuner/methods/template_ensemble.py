"""Template ensemble: the logits of several hand-written text prompts, averaged; no training.

Source: A. Radford et al., "Learning Transferable Visual Models From Natural Language Supervision",
ICML 2021, arXiv 2103.00020, section 3.1.4; templates and their order are its authors'
(`craft_tuner.texts`). They average normalised text embeddings and normalise the mean, so their
logit is s <x, m / |m|> with m the mean of the embeddings. A server sells no embeddings: the mean of
logits is s <x, m>, the same but for the factor |m| <= 1 of each class. |m| is smaller for classes
whose embeddings differ more between templates, so these classes lose a little against theirs.
"""

from craft_shared.messages import Budgets, PromptKind
from craft_tuner.adapter.adapter import Adapter, describe
from craft_tuner.blackbox import BlackBox, Task
from craft_tuner.config.fit_config import FitConfig
from craft_tuner.methods.base import OnProgress
from craft_tuner.plan import Plan, Workload, plan_phases
from craft_tuner.runs.run import Run
from craft_tuner.texts import imagenet_templates


class TemplateEnsemble:
    """Asks nothing but the test, `ensemble_size` prompts an image."""

    name = "template_ensemble"
    summary = "hand-written templates, their logits averaged: no training, no query but the test"
    prompt_kind: PromptKind = "text"

    def views(self, config: FitConfig) -> int:  # noqa: ARG002 - the interface
        """None."""
        return 0

    def plan(self, config: FitConfig, work: Workload, budgets: Budgets | None = None) -> Plan:
        """One query per template and test image set, at the test."""
        return plan_phases(
            config,
            work,
            budgets,
            phases=(),
            test_prompts=config.ensemble_size,
            lever="--ensemble-size",
        )

    def fit(
        self,
        box: BlackBox,
        task: Task,
        *,
        run: Run,
        on_progress: OnProgress,  # noqa: ARG002 - the interface
    ) -> Adapter:
        """The adapter that asks the first templates of the list, saved in the run."""
        run.bind(task, box.card)
        training = {"generations": 0, "queries": 0, "stopped": "nothing to fit"}
        config = run.config.model_dump(mode="json")
        card = describe(task.texts, box.card, method=self.name, config=config, training=training)
        templates = imagenet_templates()[: run.config.ensemble_size]
        adapter = Adapter(card.model_copy(update={"templates": templates}))
        run.save_adapter(adapter)
        return adapter
