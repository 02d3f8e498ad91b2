"""What a fit will do, decided before it does any of it: its samples, its plan, what it moves.

The one place where a fit is planned: `data check`, a dry run, a fit, a bench and `CraftClassifier`
say the same of the same data, key and settings because they ask here.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Self

from craft_shared.messages import Budgets, KeyInfo, ModelCard, Policy, PromptKind
from craft_tuner import methods
from craft_tuner.blackbox import Texts, Wording
from craft_tuner.client.line import MEASURED_BYTES
from craft_tuner.config.fit_config import FitConfig
from craft_tuner.data.dataset import Dataset
from craft_tuner.data.views import Augmentation
from craft_tuner.errors import UsageError
from craft_tuner.methods import Method, affordable
from craft_tuner.plan import Plan, check_names
from craft_tuner.training.prepare import Samples, check_prompts, gather
from craft_tuner.training.traffic import Load, Traffic, foresee, reply_bytes

SLOW_S = 60.0
"""A line is slow to a fit whose replies take longer in float32."""

WORTH_MEASURING_BYTES = 20 * MEASURED_BYTES
"""Of float32 replies that are worth measuring the line: what can be saved is ten times its cost."""


@dataclass(frozen=True)
class Terms:
    """What a plan depends on beside data and settings: the model, and what a key may and has."""

    card: ModelCard
    policy: Policy | None = None
    budgets: Budgets | None = None
    """What the key has left; None: as much as the settings say."""

    @classmethod
    def of(cls, card: ModelCard, key: KeyInfo) -> Self:
        """Those of a key."""
        return cls(card, key.policy, key.budgets)


@dataclass(frozen=True)
class Foreseen:
    """A fit that can begin."""

    config: FitConfig
    samples: Samples
    plan: Plan
    card: ModelCard

    def wordings(self) -> tuple[Wording, ...]:
        """The words of all that will be asked, as far as the method knows them."""
        config = self.config
        texts = Texts(self.samples.class_names, config.context, config.suffix)
        return methods.get(config.method).wordings(config, self.plan, texts, self.card)

    def for_line(self, rate: Callable[[], float | None]) -> Self:
        """The same, with replies as int16 rows if the settings leave it open and the line is slow.

        `rate` gives the line's bytes per second, None if nobody knows; it is asked only where the
        answer can matter.
        """
        free = self.config.dtype == "auto" and "int16" in self.card.reply_dtypes
        whole = reply_bytes(self.plan, "float32")
        smaller = reply_bytes(self.plan, "int16") < whole
        if not (free and smaller and whole >= WORTH_MEASURING_BYTES):
            return self
        bytes_per_s = rate()
        if bytes_per_s is None or whole <= bytes_per_s * SLOW_S:
            return self
        return replace(self, plan=self.plan.model_copy(update={"dtype": "int16"}))

    def traffic(self) -> Traffic:
        """What goes over the line; opens a few pictures of each kind.

        Raises:
            DataError: one of those cannot be read.
        """
        method = methods.get(self.config.method)
        soft: PromptKind = "soft" if "soft" in self.card.prompt_kinds else "text"
        return foresee(
            self.plan,
            self.config,
            self.card,
            class_names=self.samples.class_names,
            pictures=Load(self.samples.pictures, self.samples.weigh()),
            prompt_kind=method.prompt_kind or soft,
        )


def plan_fit(
    config: FitConfig, dataset: Dataset, terms: Terms, *, saved: Plan | None = None
) -> Foreseen:
    """Sample the shots and plan; asks no server, opens no picture, writes nothing.

    Args:
        config: settings of the fit.
        dataset: to draw the shots from, and the test images.
        terms: of the model and the key.
        saved: plan of a run that goes on; it stands.

    Raises:
        AccessDenied: the key may not send the method's prompts, or not ask about the classes.
        UsageError: the server cannot answer in the dtype.
        DataError: the data cannot be used.
        BudgetExhausted: the plan cannot be paid.
    """
    method = methods.get(config.method)
    method.check_key(terms.card)
    _check_dtype(config.dtype, terms.card)
    samples = gather(config, dataset, method, card=terms.card)
    plan = saved or _plan(method, config, samples, terms)
    _check_dtype(plan.dtype, terms.card)
    read = replace(samples, views=min(samples.views, method.views_of(config, plan)))
    asked = read if plan.fit.queries else samples.without_shots()
    return Foreseen(config, asked, plan, terms.card)


def plan_evaluation(config: FitConfig, dataset: Dataset, terms: Terms) -> Foreseen:
    """The zero-shot test of a dataset of test images alone.

    Raises:
        AccessDenied: the key may not ask about the classes.
        DataError: a class name has too many tokens.
        BudgetExhausted: it cannot be paid.
    """
    check_names(terms.card, dataset.class_names)
    check_prompts(config, dataset, terms.card)
    config = config.model_copy(update={"method": "zero_shot"})
    augmentation = Augmentation(size=terms.card.image_size, seed=config.seed)
    samples = Samples(dataset.class_names, (), dataset.test, 0, augmentation)
    plan = _plan(methods.get(config.method), config, samples, terms)
    return Foreseen(config, samples, plan, terms.card)


def _check_dtype(dtype: str, card: ModelCard) -> None:
    if dtype not in ("auto", *card.reply_dtypes):
        raise UsageError(
            f"--dtype {dtype} is not what the server of {card.id} can answer in; it has: "
            f"{', '.join(card.reply_dtypes)}"
        )


def _plan(method: Method, config: FitConfig, samples: Samples, terms: Terms) -> Plan:
    work = samples.workload(terms.card, terms.policy)
    return affordable(method, config, work, terms.budgets)
