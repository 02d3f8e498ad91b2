"""Which method, and how much of it: decided by what a run may spend, of every counter, and send.

Source: this project (docs/method.md). More prompts make a better head until they span the image
feature, at about eight with many names; below that the budget decides. CraFT's search is never
chosen: at no budget tried does it come near a bank (docs/results.md).
"""

from collections.abc import Callable, Iterator
from contextlib import suppress

from craft_shared.messages import Budgets, ModelCard
from craft_tuner.adapter.adapter import Adapter
from craft_tuner.blackbox import BlackBox, Task, Texts, Wording
from craft_tuner.config.fit_config import FitConfig
from craft_tuner.errors import BudgetExhausted
from craft_tuner.methods.bank import Bank, CraftPlus, names_of
from craft_tuner.methods.base import Method, OnProgress
from craft_tuner.methods.prompt_bank import BankSettings, extra_names
from craft_tuner.methods.recorder import Recorder
from craft_tuner.methods.zero_shot import ZeroShot
from craft_tuner.plan import MakePlan, Plan, Workload, with_answers, words

Make = Callable[[MakePlan, FitConfig, Workload, Budgets | None], Plan | None]

WIDE = 500
"""Classes from which one prompt spans the image feature of any CLIP."""

LABELS = 4
"""Prompts below which labels teach nothing: one label can but be renamed (docs/results.md)."""

LEAST_NAMES = 240
"""Names of a prompt that go before more prompts: with half as many, heads are as good on images of
the shots' source and up to four points below zero-shot on others (docs/results.md)."""


class Auto(Method):
    """A bank of as many prompts as the limits allow, else one prompt, else none."""

    name = "auto"
    summary = "the best that the budget, the key and the task allow: bank, craft_plus or zero_shot"
    settings = BankSettings
    bundled = True
    validated = True

    def views(self, config: FitConfig) -> int:
        """As the bank has."""
        return config.views

    def plan(self, config: FitConfig, work: Workload, budgets: Budgets | None = None) -> Plan:
        """The plan of the method chosen; `Plan.method` and `Plan.why` say which and why.

        It is the best that leaves the key a batch of its answers; where none does, the best.
        """
        asking = _asking(_alone, config, work, budgets)
        kept = asking and _asking(with_answers, config, work, budgets)
        unasked = with_answers(ZeroShot().plan, config, work, budgets)
        found = kept or (_unasked(unasked, work, asking=asking) if unasked else asking)
        return found or _unasked(ZeroShot().plan(config, work, budgets), work, asking=asking)

    def wordings(
        self, config: FitConfig, plan: Plan, texts: Texts, card: ModelCard
    ) -> tuple[Wording, ...]:
        """Those of the method that the plan names."""
        return _chosen_by(plan).wordings(config, plan, texts, card)

    def fit(
        self, box: BlackBox, task: Task, *, recorder: Recorder, on_progress: OnProgress
    ) -> Adapter:
        """See `Method.fit`; the plan says by which method."""
        method = _chosen_by(recorder.plan)
        return method.fit(box, task, recorder=recorder, on_progress=on_progress)


def _chosen_by(plan: Plan) -> Method:
    methods: dict[str, Method] = {each.name: each for each in (Bank(), CraftPlus(), ZeroShot())}
    return methods[plan.method]


def _asking(make: Make, config: FitConfig, work: Workload, budgets: Budgets | None) -> Plan | None:
    """The best plan that asks about the shots."""
    for prompts, method in _offers(config, work):
        chosen = config.model_copy(update={"bank_prompts": prompts})
        with suppress(BudgetExhausted):
            plan = make(method.plan, chosen, work, budgets)
            if plan and _names_enough(plan, chosen, work):
                return plan.model_copy(update={"why": _reason(plan, config, work)})
    return None


def _alone(make: MakePlan, config: FitConfig, work: Workload, budgets: Budgets | None) -> Plan:
    """As `with_answers`, and nothing is kept."""
    return make(config, work, budgets)


def _unasked(plan: Plan, work: Workload, *, asking: Plan | None) -> Plan:
    """Zero-shot and why, although `asking` could be paid."""
    why = "the budget allows no question about the shots"
    if asking:
        why = f"{why} that leaves a batch of answers"
    elif work.labels:
        why = f"fewer than {LABELS} prompts could be asked, of whose labels nothing is learnt"
    return plan.model_copy(update={"method": "zero_shot", "why": why})


def _offers(config: FitConfig, work: Workload) -> Iterator[tuple[int, Method]]:
    """Prompts and method, best first."""
    prompts = 1 if _one_is_enough(work) else config.of(BankSettings).bank_prompts
    while prompts >= (LABELS if work.labels else 2):
        yield prompts, Bank()
        prompts //= 2
    if work.labels:
        return
    if "text" in work.kinds:
        yield 1, CraftPlus()
    else:
        yield 1, Bank()


def _names_enough(plan: Plan, config: FitConfig, work: Workload) -> bool:
    """Whether a prompt asks as many names as there are to ask, or enough of them."""
    all_of_them = work.classes + extra_names(config, work, plan.population)
    return plan.population == 1 or names_of(plan) >= min(all_of_them, LEAST_NAMES)


def _one_is_enough(work: Workload) -> bool:
    return work.classes >= WIDE and not work.labels


def _reason(plan: Plan, config: FitConfig, work: Workload) -> str:
    asked = "1 prompt costs" if plan.population == 1 else f"{plan.population} prompts cost"
    cost = f"{asked} {plan.total.queries:,} queries"
    if plan.binds:
        return f"{cost}; the key's {words(plan.binds)} allow {names_of(plan)} names each"
    if plan.population == config.of(BankSettings).bank_prompts:
        return f"{cost}, as many prompts as --bank-prompts allows"
    if _one_is_enough(work):
        return f"{cost}; with {work.classes:,} classes and other names one is enough"
    return f"{cost}; twice as many and a batch of answers are not to be paid"
