"""A bank of logits: few prompts, many names, and a linear head chosen without a query.

Source: this project (docs/method.md). The logits of P prompts that name the K classes and A common
things are P (K + A) linear functions of an image's feature. Once they span it, a linear classifier
on them is one on features, which CraFT's head on K numbers is not. One call asks about all shots
and all views; what is learnt from its reply is free (`craft_tuner.heads.selection`).

`Bank` asks P prompts, the plain one and P - 1 others: soft ones with random offsets, or templates
where the key may send text alone. `CraftPlus` asks the plain one only, by text.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, ClassVar

import numpy as np

from craft_shared.messages import Budgets, Counters, ModelCard, PromptKind
from craft_shared.tensors import Tensors
from craft_tuner.activity import doing
from craft_tuner.adapter.adapter import Adapter, describe
from craft_tuner.blackbox import BlackBox, FloatArray, Images, Task, Texts, Wording
from craft_tuner.config.fit_config import FitConfig
from craft_tuner.errors import UsageError
from craft_tuner.heads.candidates import Shots
from craft_tuner.heads.cross_validation import Unseen
from craft_tuner.heads.prompt_selection import informative
from craft_tuner.heads.selection import Choice, choose, judge
from craft_tuner.methods.base import Method, OnProgress
from craft_tuner.methods.loop import Step, fit_generations
from craft_tuner.methods.prompt_bank import BankSettings, compose, extra_names, worded
from craft_tuner.methods.recorder import Recorder
from craft_tuner.plan import Plan, Workload, lacks, largest, left_of, plan_phases, price
from craft_tuner.runs.diagnostics import BY_PROMPTS
from craft_tuner.runs.journal import Checkpoint, Metrics

_ROWS = ("shots and views", "shots, views and validation images")

MEMORY = 2**28
"""Bytes that the logits of a bank may take as float64; beyond it, fewer views are asked about."""


class Bank(Method):
    """P prompts with many names, one linear head on all their logits."""

    name = "bank"
    summary = "P prompts that name common things beside the classes; a linear head, cross-validated"
    settings = BankSettings
    levers: ClassVar[tuple[str, ...]] = ("bank_prompts",)
    bundled = True
    validated = True

    def views(self, config: FitConfig) -> int:
        """All of them, in the same image set as the shots."""
        return config.views

    def prompts(self, config: FitConfig) -> int:
        """P."""
        return config.of(BankSettings).bank_prompts

    def plan(self, config: FitConfig, work: Workload, budgets: Budgets | None = None) -> Plan:
        """P queries per image set of the bundle, then as many as an answer costs at the test.

        Fewer names are asked where the key's texts or logits do not cover all. Where all image sets
        of the bundle do not fit into `MEMORY`, the first are asked about.
        """
        prompts, left = self.prompts(config), left_of(budgets)
        most = work.classes + extra_names(config, work, prompts)
        room = MEMORY // (8 * prompts * most * work.set_size)
        least = -(-(work.shots + work.validation) // work.set_size) if work.validation else 1
        sets = max(least, min(-(-work.bundle // work.set_size), room))
        ask = partial(self._ask, config, work, sets=sets)
        names = largest(
            lambda names: lacks(ask(names=names).total, left) is None, work.classes, most
        )
        binds = lacks(ask(names=names + 1).total, left) if names < most else None
        return ask(budgets, names=names).model_copy(update={"binds": binds or ""})

    def _ask(
        self,
        config: FitConfig,
        work: Workload,
        budgets: Budgets | None = None,
        *,
        sets: int,
        names: int,
    ) -> Plan:
        """The plan of a question with so many names about the first image sets."""
        prompts, most = self.prompts(config), config.of(BankSettings).prompts_per_image
        rows = min(work.bundle, sets * work.set_size)
        bought = price(
            "bank",
            f"{prompts} prompts x {names} names x {rows:,} {_ROWS[bool(work.validation)]}",
            prompts=prompts,
            images=rows,
            sets=sets,
            names=names,
            told=work.told,
        )
        plan = plan_phases(
            config,
            work,
            budgets,
            phases=(bought,),
            test_prompts=min(prompts, most or prompts),
            test_names=names,
            lever="--bank-prompts",
        )
        own = {"method": self.name, "generations": 1, "population": prompts}
        return plan.model_copy(update=own | {"validation": work.validation})

    def wordings(
        self, config: FitConfig, plan: Plan, texts: Texts, card: ModelCard
    ) -> tuple[Wording, ...]:
        """Its question; the names beside the classes are part of it."""
        return (worded(config, texts, card, prompts=plan.population, names=names_of(plan)),)

    def fit(
        self, box: BlackBox, task: Task, *, recorder: Recorder, on_progress: OnProgress
    ) -> Adapter:
        """See `Method.fit`."""
        training = BankTraining(box, task, recorder, method=self.name)
        return fit_generations(training, recorder, on_progress)


class CraftPlus(Bank):
    """The plain text prompt, once, with many names: one query for all training."""

    name = "craft_plus"
    summary = "one plain prompt that names common things beside the classes; a linear head"
    prompt_kind: ClassVar[PromptKind | None] = "text"
    levers = ()

    def prompts(self, config: FitConfig) -> int:
        """One."""
        return 1


class BankTraining:
    """One generation: a question, and the head that is chosen on its answer."""

    def __init__(self, box: BlackBox, task: Task, recorder: Recorder, *, method: str) -> None:
        self._box, self._task, self._method = box, task, method
        self._config, self._plan = recorder.config, recorder.plan
        self._bank = compose(
            box, task, self._config, prompts=self._plan.population, names=names_of(self._plan)
        )
        self._asked = self._bank
        self._choice: Choice | None = None

    @property
    def generation(self) -> int:
        """See `Training`."""
        return int(self._choice is not None)

    @property
    def stopped(self) -> str | None:
        """See `Training`."""
        return "the bank is bought and its head chosen" if self._choice else None

    def queries(self, plan: Plan) -> int:
        """See `Training`."""
        return plan.fit.queries * self.generation

    def restore(self, past: Checkpoint) -> None:
        """Ask again, which costs nothing, and choose the same head."""
        if past.generation:
            self._learn()

    def step(self) -> Step:
        """Ask, choose a head, and say what fewer prompts would give."""
        logits, order, choice = self._learn()
        held_out = choice.held_out.get("accuracy")
        metrics = {} if held_out is None else {"heldout_accuracy": held_out}
        if choice.held_out:
            chosen, seed = (len(self._kept(order)), choice), self._config.seed
            metrics |= _by_prompts(logits, self._task, order=order, chosen=chosen, seed=seed)
        return Step(f"{logits.shape}", metrics=metrics)

    def state(self) -> Tensors:
        """Nothing: the head follows from the answer."""
        return {}

    def facts(self) -> Mapping[str, Any]:
        """Nothing before the end of the card's words on training."""
        return {}

    def adapter(self, training: dict[str, Any]) -> Adapter:
        """The question with its head; zero-shot where that was chosen, or nothing is asked yet."""
        choice = self._choice
        if choice is not None:
            heads = [spec._asdict() for spec in choice.kept]
            training = {**training, "heads": heads, "held_out": choice.held_out}
        if choice is not None and self._plan.validation:
            training |= {"chosen_on": {"validation_images": self._plan.validation}}
        card = describe(
            self._task.texts,
            self._box.card,
            method=self._method,
            config=self._config.model_dump(mode="json"),
            training=training,
        )
        if choice is None or choice.head is None:
            return Adapter(card)
        asked = {
            "asked_names": self._bank.texts.class_names,
            "templates": self._asked.templates,
            "residual": 0.0,
        }
        head = choice.head
        card = card.model_copy(update=asked)
        return Adapter(card, self._asked.offsets, head.layers, head.centre, head.gate)

    def _learn(self) -> tuple[FloatArray, list[int], Choice]:
        """The logits, the prompts by what they add, and the head."""
        logits = self._bank.ask(self._box, _bundle(self._task, self._plan))
        order = informative(logits[:, : len(self._task.labels)])
        kept = self._kept(order)
        self._asked = self._bank.only(kept)
        self._choice = _choose(logits, kept, self._task, seed=self._config.seed)
        return logits, order, self._choice

    def _kept(self, order: Sequence[int]) -> list[int]:
        most = self._config.of(BankSettings).prompts_per_image
        return sorted(order[: most or len(order)])


def _price(plan: Plan) -> Counters:
    return next(phase.cost for phase in plan.phases if phase.purpose == "bank")


def names_of(plan: Plan) -> int:
    """Names in each prompt that a bank's plan pays for."""
    cost = _price(plan)
    return cost.texts // cost.queries


def _bundle(task: Task, plan: Plan) -> Images:
    """The image sets of the bundle that the plan pays for."""
    if task.bundle is None:
        raise UsageError("a bank asks about shots and views in one bundle; this task has none")
    cost = _price(plan)
    sets = cost.queries // plan.population
    return Images(task.bundle.sets[:sets], cost.logit_vectors // plan.population)


def _choose(logits: FloatArray, kept: Sequence[int], task: Task, *, seed: int) -> Choice:
    """A head on some prompts' logits."""
    shots, unseen = _learnt_from(logits, kept, task)
    return choose(shots, seed=seed, validation=unseen)


def _learnt_from(
    logits: FloatArray, kept: Sequence[int], task: Task
) -> tuple[Shots, Unseen | None]:
    """Some prompts' logits; rows behind the shots are validation images, if there are."""
    rows = np.concatenate([logits[index] for index in kept], axis=-1, dtype=np.float64)
    first, apart, unseen = len(task.labels), task.validation, None
    if apart is not None:
        behind = first + apart.images.count
        unseen = Unseen(rows[first:behind], apart.labels)
        rows = np.concatenate([rows[:first], rows[behind:]])
    classes, names = len(task.texts.class_names), logits.shape[-1]
    return Shots(rows, task.labels, classes, has_zero_shot=True, names=names), unseen


def _by_prompts(
    logits: FloatArray, task: Task, *, order: list[int], chosen: tuple[int, Choice], seed: int
) -> Metrics:
    """Held-out accuracy with the first 1, 2, 4, ... prompts: what fewer an image would give.

    Of the best candidate alone, fitted on so many: a small part of what the choice took.
    """
    if len(order) == 1:
        return {}
    known, choice = chosen
    counts = sorted({2**power for power in range(len(order).bit_length())} | {len(order)})
    found = {known: choice.held_out["accuracy"]}
    with doing("measuring what fewer prompts give", total=len(counts), unit="counts") as work:
        for count in counts:
            if count != known:
                shots, unseen = _learnt_from(logits, sorted(order[:count]), task)
                judged = judge(shots, choice.kept[0], seed=seed, validation=unseen)
                found[count] = judged.accuracy
            work.advance()
    return {f"{BY_PROMPTS}{count}": found[count] for count in counts}
