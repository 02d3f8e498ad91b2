"""Named fakes behind the tuner's ports.

`SmoothBox` is a black box with no model in it: class texts are unit vectors that turn smoothly with
the offsets, images are unit vectors, logits are 100 times their cosine. It counts and charges as a
server does: each step once, replayed free for the same content, refused when it would overspend.
"""

import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from craft_shared.messages import (
    Budget,
    Budgets,
    CardLimits,
    Counters,
    ModelCard,
    OutputKind,
    PromptKind,
)
from craft_tuner.blackbox import FloatArray, Images, IntArray, Purpose, Task, Texts, Validation
from craft_tuner.client.purchases import add
from craft_tuner.errors import BudgetExhausted
from craft_tuner.plan import lacks, left_of

LOGIT_SCALE = 100.0
NOTHING = add([])


def a_card(*, width: int = 6, digest: str = "d" * 64) -> ModelCard:
    return ModelCard(
        id="smooth::fake",
        digest=digest,
        context_width=width,
        context_length=77,
        image_size=32,
        logit_scale=LOGIT_SCALE,
        prompt_kinds=["soft", "text"],
        dtype="float32",
        text_path="none",
        limits=CardLimits(
            prompts=100,
            classes=100,
            images=1000,
            image_bytes=1,
            image_pixels=1,
            body_bytes=1,
            texts=10**6,
            logits=10**9,
        ),
    )


def some_budgets(left: int, *, vectors: int | None = None, **others: int) -> Budgets:
    """So much left of each; `others` by counter: texts, logits."""
    limits = {"queries": left, "logit_vectors": vectors, **others}
    return Budgets(
        **{
            name: Budget(limit=limit, used=0, held=0, remaining=limit)
            for name, limit in limits.items()
            if limit is not None
        }
    )


@dataclass
class Question:
    """One purchase as the box saw it."""

    purpose: str
    step: str
    prompts: int
    content: bytes
    logits: FloatArray


@dataclass
class SmoothBox:
    """K classes, images in named sets of unit features; see the module's docstring."""

    classes: int = 3
    width: int = 6
    n_ctx: int = 4
    features: int = 8
    limit: int = 10**9
    seed: int = 5
    kinds: tuple[PromptKind, ...] = ("soft", "text")
    output: OutputKind = "logits"
    sets: dict[str, FloatArray] = field(default_factory=dict)
    paid: dict[str, Question] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    templates: list[str] = field(default_factory=list)
    limits: dict[str, int] = field(default_factory=dict)
    """Limits beside `limit`, by counter."""
    names: list[str] | None = None
    """The only names that may be asked about."""
    spent: Counters = NOTHING

    def __post_init__(self) -> None:
        draw = np.random.RandomState(self.seed)
        self.base = draw.randn(self.classes, self.features)
        self.turn = draw.randn(self.classes, self.features, self.n_ctx * self.width) / 4

    @property
    def card(self) -> ModelCard:
        reported = {
            "prompt_kinds": [*self.kinds],
            "output": self.output,
            "class_names": self.names,
        }
        return a_card(width=self.width).model_copy(update=reported)

    @property
    def used(self) -> int:
        return self.spent.queries

    def budgets(self) -> Budgets:
        others = {name: limit - getattr(self.spent, name) for name, limit in self.limits.items()}
        vectors = others.pop("logit_vectors", None)
        return some_budgets(self.limit - self.used, vectors=vectors, **others)

    def text_features(self, offsets: FloatArray, more: Sequence[str] = ()) -> FloatArray:
        """Unit vectors (K + len(more), F) of the texts under offsets (n_ctx, width).

        Those of `more`, names beside the classes, follow from the name.
        """
        draws = [np.random.RandomState(zlib.crc32(name.encode())) for name in more]
        base = np.stack([*self.base, *[draw.randn(self.features) for draw in draws]])
        turn = np.stack([*self.turn, *[draw.randn(*self.turn.shape[1:]) / 4 for draw in draws]])
        raw = base + np.tanh(turn @ offsets.reshape(-1).astype(np.float64))
        return (raw / np.linalg.norm(raw, axis=1, keepdims=True)).astype(np.float32)

    def score(
        self, texts: Texts, offsets: FloatArray, images: Images, *, purpose: Purpose, step: str
    ) -> FloatArray:
        assert offsets.dtype == np.float32
        assert offsets.shape[1:] == (self.n_ctx, self.width)
        assert self.names is None or set(self.names) == set(texts.class_names)
        more = texts.class_names[self.classes :]
        if step in self.paid:
            assert self.paid[step].content == offsets.tobytes(), f"{step} asked with other bytes"
            self.asked.append(step)
            return self.paid[step].logits
        self._pay(len(offsets), images, names=len(texts.class_names))
        features = np.concatenate([self.sets[name] for name in images.sets])
        logits = np.stack([LOGIT_SCALE * features @ self.text_features(o, more).T for o in offsets])
        self.paid[step] = Question(purpose, step, len(offsets), offsets.tobytes(), logits)
        self.asked.append(step)
        return logits

    def score_templates(
        self, texts: Texts, templates: Sequence[str], images: Images, *, purpose: Purpose, step: str
    ) -> FloatArray:
        offsets = np.stack([self.offsets_of(texts, template) for template in templates])
        self.templates += templates
        return self.score(texts, offsets, images, purpose=purpose, step=step)

    def offsets_of(self, texts: Texts, template: str) -> FloatArray:
        """As if a template were offsets: none of the plain one, else a sum over its words."""
        moved = np.zeros((self.n_ctx, self.width), np.float32)
        if template != texts.template:
            for place, word in enumerate(template.split()):
                draw = np.random.RandomState(zlib.crc32(f"{place} {word}".encode()))
                moved += draw.normal(0, 0.3, moved.shape).astype(np.float32)
        return moved

    def _pay(self, prompts: int, images: Images, *, names: int) -> None:
        cost = Counters(
            queries=prompts * len(images.sets),
            calls=1,
            logit_vectors=prompts * images.count,
            texts=prompts * len(images.sets) * names,
            logits=prompts * images.count * (1 if self.output == "label" else names),
        )
        left = left_of(self.budgets())
        short = lacks(cost, left)
        if short is not None:
            raise BudgetExhausted(f"{getattr(cost, short)} {short} asked, {left[short]} left.")
        self.spent = add([self.spent, cost])


def a_task(
    box: SmoothBox, *, shots: int = 4, views: int = 2, noise: float = 0.6, seed: int = 11
) -> Task:
    """Shots scattered around K directions of their own; views are the shots, jittered."""
    draw = np.random.RandomState(seed)
    centres = draw.randn(box.classes, box.features)
    labels: IntArray = np.repeat(np.arange(box.classes), shots)
    clean = centres[labels] + noise * draw.randn(len(labels), box.features)
    box.sets["shots"] = unit(clean)
    for view in range(views):
        box.sets[f"view-{view}"] = unit(clean + 0.2 * draw.randn(*clean.shape))
    names = [f"view-{view}" for view in range(views)]
    return Task(
        texts=Texts(tuple(f"class {index}" for index in range(box.classes))),
        shots=Images(("shots",), len(labels)),
        views=tuple(Images((name,), len(labels)) for name in names),
        labels=labels,
    )


def validated(box: SmoothBox, task: Task, *, images: int = 3, noise: float = 0.3) -> Task:
    """The same task with so many validation images of each class, around the same directions."""
    centres = np.random.RandomState(11).randn(box.classes, box.features)
    labels: IntArray = np.repeat(np.arange(box.classes), images)
    drawn = np.random.RandomState(12).randn(len(labels), box.features)
    box.sets["validation"] = unit(centres[labels] + noise * drawn)
    return replace(task, validation=Validation(Images(("validation",), len(labels)), labels))


def a_bundle(box: SmoothBox, task: Task) -> Task:
    """The same task for methods that ask about shots and views at once."""
    apart = task.validation.images.sets if task.validation else ()
    names = (*task.shots.sets, *apart, *(name for view in task.views for name in view.sets))
    box.sets["bundle"] = np.concatenate([box.sets[name] for name in names])
    rows = len(box.sets["bundle"])
    return replace(task, views=(), bundle=Images(("bundle",), rows))


def unit(rows: np.ndarray) -> FloatArray:
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
