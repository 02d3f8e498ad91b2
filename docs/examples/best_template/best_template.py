"""Best template: ask some published text templates about the shots, keep the best of them."""

from pydantic import Field

from craft_tuner.adapter.adapter import Adapter, describe
from craft_tuner.config.method_settings import MethodSettings
from craft_tuner.methods import Method
from craft_tuner.methods.prompt_only import cross_entropy
from craft_tuner.plan import plan_phases, price
from craft_tuner.texts import imagenet_templates


class BestTemplateSettings(MethodSettings):
    """A setting is a flag, a variable and a key of the file: --best-of 8, CRAFT_FIT_BEST_OF=8."""

    best_of: int = Field(4, ge=1, le=80, description="best_template: templates that are tried")


class BestTemplate(Method):
    """One question with all templates; no training."""

    name = "best_template"
    summary = "the published template with the lowest loss on the shots"
    prompt_kind = "text"
    settings = BestTemplateSettings

    def plan(self, config, work, budgets=None):
        """One query for each template and image set of the shots."""
        templates = config.of(BestTemplateSettings).best_of
        asked = price(
            "fitness",
            f"{templates} templates x {work.shots:,} shots",
            prompts=templates,
            images=work.shots,
            sets=work.shot_sets,
            names=work.classes,
        )
        return plan_phases(config, work, budgets, phases=(asked,), lever="--best-of")

    def fit(self, box, task, *, recorder, on_progress):
        """Logits float32 (templates, N, K) of all shots, and the adapter of the best template."""
        config = recorder.config
        templates = imagenet_templates()[: config.of(BestTemplateSettings).best_of]
        logits = box.score_templates(
            task.texts, templates, task.shots, purpose="fitness", step="fitness"
        )
        losses = cross_entropy(logits, task.labels)
        settings, training = config.model_dump(mode="json"), {"losses": losses.tolist()}
        card = describe(task.texts, box.card, method=self.name, config=settings, training=training)
        best = templates[int(losses.argmin())]
        adapter = Adapter(card.model_copy(update={"templates": (best,)}))
        recorder.save_adapter(adapter)
        return adapter
