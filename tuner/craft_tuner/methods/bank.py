"""A bank of logits: few prompts, many names, and a linear head chosen without a query.

Source: this project (docs/method.md). The logits of P prompts that name the K classes and A common
things are P (K + A) linear functions of an image's feature. Once they span it, a linear classifier
on them is one on features, which CraFT's head on K numbers is not. One call asks about all shots
and all views; what is learnt from its reply is free (`craft_tuner.heads.selection`).

`Bank` asks P prompts, the plain one and P - 1 others: soft ones with random offsets, or templates
where the key may send text alone. `CraftPlus` asks the plain one only, by text.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
from pydantic import Field

from craft_shared.messages import Budgets, PromptKind
from craft_shared.tensors import Tensors
from craft_tuner.adapter.adapter import Adapter, describe
from craft_tuner.blackbox import BlackBox, FloatArray, Images, Task, Texts, names_at_once
from craft_tuner.config.fit_config import FitConfig
from craft_tuner.config.method_settings import MethodSettings
from craft_tuner.errors import UsageError
from craft_tuner.heads.candidates import Shots
from craft_tuner.heads.prompt_selection import informative
from craft_tuner.heads.selection import Choice, choose
from craft_tuner.methods.base import Method, OnProgress
from craft_tuner.methods.loop import Step, fit_generations
from craft_tuner.methods.recorder import Recorder
from craft_tuner.plan import Plan, Workload, plan_phases, price
from craft_tuner.runs.diagnostics import BY_PROMPTS
from craft_tuner.runs.journal import Checkpoint, Metrics
from craft_tuner.seeds import Stream, stream
from craft_tuner.texts import anchors, imagenet_templates

COLUMNS = 4096
"""Most numbers per image: P prompts get fewer names each."""
MEMORY = 2**28
"""Bytes that the logits of a bank may take as float64; beyond it, fewer views are asked about."""


class BankSettings(MethodSettings):
    """What is asked, and how much of it an answer may cost."""

    listed_after: ClassVar[str | None] = "head_epochs"

    bank_prompts: int = Field(
        8, ge=1, le=256, description="bank: most prompts, so queries per image set"
    )
    bank_names: int = Field(
        512,
        ge=0,
        le=4096,
        description="bank, craft_plus: most names asked beside the classes",
    )
    bank_std: float = Field(
        1.0, gt=0, le=1e3, description="bank: standard deviation of its random offsets"
    )
    prompts_per_image: int | None = Field(
        None,
        ge=1,
        le=256,
        description="bank: prompts that an answer may cost, the most informative; none: all",
    )


class Bank(Method):
    """P prompts with many names, one linear head on all their logits."""

    name = "bank"
    summary = "P prompts that name common things beside the classes; a linear head, cross-validated"
    settings = BankSettings
    bundled = True

    def views(self, config: FitConfig) -> int:
        """All of them, in the same image set as the shots."""
        return config.views

    def prompts(self, config: FitConfig) -> int:
        """P."""
        return config.of(BankSettings).bank_prompts

    def plan(self, config: FitConfig, work: Workload, budgets: Budgets | None = None) -> Plan:
        """P queries per image set of shots and views, then as many as an answer costs at the test.

        Where all image sets of the bundle do not fit into `MEMORY`, the first are asked about.
        """
        prompts, most = self.prompts(config), config.of(BankSettings).prompts_per_image
        names = work.classes + extra_names(config, work, prompts)
        room = MEMORY // (8 * prompts * names * work.set_size)
        sets = max(1, min(-(-work.bundle // work.set_size), room))
        rows = min(work.bundle, sets * work.set_size)
        bought = price(
            "bank",
            f"{prompts} prompts x {names} names x {rows:,} shots and views",
            prompts=prompts,
            images=rows,
            sets=sets,
            names=names,
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
        return plan.model_copy(
            update={"method": self.name, "generations": 1, "population": prompts}
        )

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

    def prompts(self, config: FitConfig) -> int:
        """One."""
        return 1


class BankTraining:
    """One generation: a question, and the head that is chosen on its answer."""

    def __init__(self, box: BlackBox, task: Task, recorder: Recorder, *, method: str) -> None:
        self._box, self._task, self._method = box, task, method
        self._config, self._plan = recorder.config, recorder.plan
        self._bank = compose(box, task, self._config, prompts=self._plan.population)
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
        chosen = (len(self._kept(order)), choice)
        seed = self._config.seed
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
        self._choice = choose(_shots(logits, kept, self._task), seed=self._config.seed)
        return logits, order, self._choice

    def _kept(self, order: Sequence[int]) -> list[int]:
        most = self._config.of(BankSettings).prompts_per_image
        return sorted(order[: most or len(order)])


@dataclass(frozen=True)
class PromptBank:
    """What is asked of every image: offsets or templates, with these names."""

    texts: Texts
    offsets: FloatArray | None
    templates: tuple[str, ...]

    def ask(self, box: BlackBox, images: Images) -> FloatArray:
        """Logits float32 (P, rows, K')."""
        if self.offsets is None:
            return box.score_templates(
                self.texts, self.templates, images, purpose="bank", step="bank"
            )
        return box.score(self.texts, self.offsets, images, purpose="bank", step="bank")

    def only(self, kept: Sequence[int]) -> "PromptBank":
        """The prompts of these indices."""
        offsets = None if self.offsets is None else self.offsets[[*kept]]
        templates = tuple(self.templates[index] for index in kept) if self.templates else ()
        return replace(self, offsets=offsets, templates=templates)


def extra_names(config: FitConfig, work: Workload, prompts: int) -> int:
    """A, the common names asked beside the classes; fewer where the classes are among them."""
    room = min(work.names, COLUMNS // prompts) - work.classes
    return max(0, min(config.of(BankSettings).bank_names, room, len(anchors())))


def compose(box: BlackBox, task: Task, config: FitConfig, *, prompts: int) -> PromptBank:
    """The plain prompt and so many others that a bank asks with, and the names it asks of."""
    card = box.card
    limits = Workload(
        classes=len(task.texts.class_names),
        shots=task.shots.count,
        names=names_at_once(card),
    )
    more = extra_names(config, limits, prompts)
    known = set(task.texts.class_names)
    names = (*task.texts.class_names, *[name for name in anchors() if name not in known][:more])
    texts = replace(task.texts, class_names=names)
    if prompts == 1 or "soft" not in card.prompt_kinds:
        others = [text for text in imagenet_templates() if text != task.texts.template]
        return PromptBank(texts, None, (task.texts.template, *others[: prompts - 1]))
    draw = stream(config.seed, Stream.BANK)
    std = config.of(BankSettings).bank_std
    offsets = draw.normal(0, std, (prompts, config.n_ctx, card.context_width))
    offsets[0] = 0
    return PromptBank(texts, offsets.astype(np.float32), ())


def _bundle(task: Task, plan: Plan) -> Images:
    """The image sets of the bundle that the plan pays for."""
    if task.bundle is None:
        raise UsageError("a bank asks about shots and views in one bundle; this task has none")
    cost = next(phase.cost for phase in plan.phases if phase.purpose == "bank")
    sets = cost.queries // plan.population
    return Images(task.bundle.sets[:sets], cost.logit_vectors // plan.population)


def _shots(logits: FloatArray, kept: Sequence[int], task: Task) -> Shots:
    classes = len(task.texts.class_names)
    x = np.concatenate([logits[index] for index in kept], axis=-1, dtype=np.float64)
    return Shots(x, task.labels, classes, has_zero_shot=True, names=logits.shape[-1])


def _by_prompts(
    logits: FloatArray, task: Task, *, order: list[int], chosen: tuple[int, Choice], seed: int
) -> Metrics:
    """Held-out accuracy with the first 1, 2, 4, ... prompts: what fewer an image would give."""
    if len(order) == 1:
        return {}
    known = dict([chosen])
    counts = sorted({2**power for power in range(len(order).bit_length())} | {len(order)})
    found = {
        count: known.get(count) or choose(_shots(logits, sorted(order[:count]), task), seed=seed)
        for count in counts
    }
    return {
        f"{BY_PROMPTS}{count}": choice.held_out["accuracy"]
        for count, choice in found.items()
        if choice.held_out
    }
