"""Template ensemble: the logits of several hand-written text prompts, averaged; no training.

Source: A. Radford et al., "Learning Transferable Visual Models From Natural Language Supervision",
ICML 2021, arXiv 2103.00020, section 3.1.4; templates and their order are its authors'
(`craft_tuner.texts`). They average normalised text embeddings and normalise the mean, so their
logit is s <x, m / |m|> with m the mean of the embeddings. A server sells no embeddings: the mean of
logits is s <x, m>, the same but for the factor |m| <= 1 of each class. |m| is smaller for classes
whose embeddings differ more between templates, so these classes lose a little against theirs.
"""

from typing import ClassVar

from pydantic import Field

from craft_shared.messages import Budgets, ModelCard, PromptKind
from craft_tuner.adapter.adapter import Adapter, describe
from craft_tuner.blackbox import BlackBox, Task, Texts, Wording
from craft_tuner.config.fit_config import FitConfig
from craft_tuner.config.method_settings import MethodSettings
from craft_tuner.methods.base import Method, OnProgress
from craft_tuner.methods.recorder import Recorder
from craft_tuner.plan import Plan, Workload, plan_phases
from craft_tuner.texts import imagenet_templates


class TemplateEnsembleSettings(MethodSettings):
    """How many."""

    ensemble_size: int = Field(
        7, ge=1, le=80, description="template_ensemble: templates, so queries per image set"
    )


class TemplateEnsemble(Method):
    """Asks nothing but the test, `ensemble_size` prompts an image."""

    name = "template_ensemble"
    summary = "hand-written templates, their logits averaged: no training, no query but the test"
    prompt_kind: ClassVar[PromptKind | None] = "text"
    settings = TemplateEnsembleSettings
    levers = ("ensemble_size",)

    def plan(self, config: FitConfig, work: Workload, budgets: Budgets | None = None) -> Plan:
        """One query per template and test image set, at the test."""
        return plan_phases(
            config,
            work,
            budgets,
            phases=(),
            test_prompts=config.of(TemplateEnsembleSettings).ensemble_size,
            lever="--ensemble-size",
        )

    def wordings(
        self, config: FitConfig, plan: Plan, texts: Texts, card: ModelCard
    ) -> tuple[Wording, ...]:
        """The plain prompt of the zero-shot test, and the ensemble's."""
        templates = dict.fromkeys((texts.template, *_templates(config)))
        return (Wording(texts, tuple(templates)),)

    def fit(
        self,
        box: BlackBox,
        task: Task,
        *,
        recorder: Recorder,
        on_progress: OnProgress,
    ) -> Adapter:
        """The adapter that asks the first templates of the list, saved."""
        training = {"generations": 0, "queries": 0, "stopped": "nothing to fit"}
        config = recorder.config
        card = describe(
            task.texts,
            box.card,
            method=self.name,
            config=config.model_dump(mode="json"),
            training=training,
        )
        adapter = Adapter(card.model_copy(update={"templates": _templates(config)}))
        recorder.save_adapter(adapter)
        return adapter


def _templates(config: FitConfig) -> tuple[str, ...]:
    return imagenet_templates()[: config.of(TemplateEnsembleSettings).ensemble_size]
