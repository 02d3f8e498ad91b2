"""Text search: a better text template, by editing words; for servers that sell text prompts only.

Source: A. Prasad et al., "GrIPS: Gradient-free, Edit-based Instruction Search for Prompting Large
Language Models", EACL 2023, arXiv 2203.07281: candidates are edits (delete, swap, add, paraphrase)
of the best prompts so far, scored on few examples. What differs: edits are of words, since a
template has no phrases; what is added is any word of CLIP's published templates, not only one
deleted before; in place of a paraphrase, which needs a language model, a word is replaced by
another of these; the first candidates are the published templates themselves; candidates are
edited from the best of all asked so far; a score is the cross-entropy on the shots in place of
balanced accuracy and entropy. S. Liu et al., "Language Models as Black-Box Optimizers for
Vision-Language Models", CVPR 2024, arXiv 2309.05950, search the same space by asking a language
model; none is asked here.
"""

import re
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar

import numpy as np
from pydantic import Field

from craft_shared.messages import Budgets, ModelCard, PromptKind
from craft_tuner.adapter.adapter import Adapter, describe
from craft_tuner.blackbox import BlackBox, Task, Texts, Wording
from craft_tuner.config.fit_config import FitConfig
from craft_tuner.config.method_settings import MethodSettings
from craft_tuner.methods.base import Method, OnProgress
from craft_tuner.methods.loop import SearchTraining, Step, fit_generations
from craft_tuner.methods.prompt_only import cross_entropy, views_read
from craft_tuner.methods.recorder import Recorder
from craft_tuner.plan import Plan, Workload, plan_generations
from craft_tuner.search.base import Vector, check_finite, digest
from craft_tuner.seeds import Stream, stream
from craft_tuner.texts import dataset_templates, imagenet_templates

CLASS = "{}"
_WORDS = re.compile(r"\{\}|[\w-]+|[.,:!]")
_BEFORE_MARK = re.compile(r" (?=[.,:!])")
_NOTHING = -1
_TRIES = 100
"""Draws for each template wanted; where they find nothing new, there is hardly anything left."""

Words = tuple[int, ...]
"""A template as indices into the vocabulary."""


class TextSearchSettings(MethodSettings):
    """What is edited, and how long it may get."""

    text_beam: int = Field(
        8, ge=1, le=4096, description="text_search: best templates that new ones are edited from"
    )
    text_words: int = Field(
        16,
        ge=2,
        le=32,
        description="text_search: longest template in words and marks",
    )


class TextSearch(Method):
    """Edits of text templates, the best kept."""

    name = "text_search"
    summary = "text prompts only: words of published templates edited, no language model"
    prompt_kind: ClassVar[PromptKind | None] = "text"
    settings = TextSearchSettings
    levers = ("population",)

    def views(self, config: FitConfig) -> int:
        """One, where fitness sees an augmented view."""
        return views_read(config)

    def plan(self, config: FitConfig, work: Workload, budgets: Budgets | None = None) -> Plan:
        """P queries a generation."""
        return plan_generations(config, work, budgets, head_queries=0)

    def wordings(
        self, config: FitConfig, plan: Plan, texts: Texts, card: ModelCard
    ) -> tuple[Wording, ...]:
        """The plain prompt and the first generation's; edits of later ones may be longer."""
        search = Editing(config, texts.template, generations=plan.generations)
        first = [search.template(point) for point in search.ask()]
        return (Wording(texts, tuple(dict.fromkeys((texts.template, *first)))),)

    def fit(
        self, box: BlackBox, task: Task, *, recorder: Recorder, on_progress: OnProgress
    ) -> Adapter:
        """See `Method.fit`."""
        training = TemplateSearch(box, task, recorder)
        return fit_generations(training, recorder, on_progress)


class TemplateSearch(SearchTraining["Editing"]):
    """The search at work on one task."""

    def __init__(self, box: BlackBox, task: Task, recorder: Recorder) -> None:
        self.box, self.task, self.config = box, task, recorder.config
        plain = task.texts.template
        self.search = Editing(self.config, plain, generations=recorder.plan.generations)
        augmented = self.config.fitness_view == "augmented"
        self.shots = task.views[0] if augmented else task.shots

    def step(self) -> Step:
        """One generation; P queries in one call."""
        number, points = self.generation + 1, self.search.ask()
        logits = self.box.score_templates(
            self.task.texts,
            [self.search.template(point) for point in points],
            self.shots,
            purpose="fitness",
            step=f"fitness/{number}",
        )
        fitness = tuple(cross_entropy(logits, self.task.labels).tolist())
        self.search.tell(fitness)
        best = logits[int(np.argmin(fitness))]
        metrics = {
            **self.search.metrics,
            "fitness_best": min(fitness),
            "fitness_median": float(np.median(fitness)),
            "fitness_lowest": self.search.best,
            "prompt_accuracy": float((best.argmax(axis=1) == self.task.labels).mean()),
        }
        return Step(digest(points), fitness, metrics)

    def adapter(self, training: dict[str, Any]) -> Adapter:
        """The best template asked; the plain one before the first generation."""
        config = self.config.model_dump(mode="json")
        card = describe(
            self.task.texts, self.box.card, method="text_search", config=config, training=training
        )
        best = (self.search.template(self.search.center),) if self.search.generation else ()
        return Adapter(card.model_copy(update={"templates": best}))


class Editing:
    """Ask and tell over templates (`craft_tuner.search.base.Search`); none is asked twice.

    A point is a template: float64 (text_words,) of indices into the vocabulary, then -1. The
    vocabulary has the words and marks of all templates, so quotation marks are left out.
    """

    def __init__(self, config: FitConfig, plain: str, *, generations: int) -> None:
        self.generation = 0
        self._config, self._generations = config, generations
        own = config.of(TextSearchSettings)
        self._longest, self._beam_size = own.text_words, own.text_beam
        published = [*imagenet_templates(), *dataset_templates()]
        texts = [_WORDS.findall(text) for text in (plain, *published)]
        self._vocabulary = tuple(dict.fromkeys(word for words in texts for word in words))
        self._class = self._vocabulary.index(CLASS)
        index = {word: number for number, word in enumerate(self._vocabulary)}
        pool = (tuple(index[word] for word in words) for words in texts)
        self._pool = [words for words in dict.fromkeys(pool) if len(words) <= self._longest]
        self._known: dict[Words, float] = {}
        self._next = self._propose()
        self.center = self._point(self._next[0])

    def ask(self) -> Vector:
        """The next templates, float64 (P, text_words)."""
        return np.array([self._point(words) for words in self._next])

    def tell(self, fitness: Sequence[float]) -> None:
        """Learn the cross-entropy of each template asked last.

        Raises:
            FitDiverged: a value is not finite.
        """
        check_finite(fitness, generation=self.generation + 1)
        self._known.update(zip(self._next, fitness, strict=True))
        self.generation += 1
        self.center = self._point(self._beam()[0])
        self._next = self._propose()

    @property
    def best(self) -> float:
        """Lowest fitness so far."""
        return min(self._known.values())

    @property
    def stopped(self) -> str | None:
        """Why the search is over, for people; None while it is not."""
        if self.generation >= self._generations:
            return "the plan's generations are done"
        if len(self._next) < self._config.population:
            return "edits find no new templates; raise text_words or text_beam"
        return None

    @property
    def metrics(self) -> dict[str, float]:
        """None of its own."""
        return {}

    def template(self, point: Vector) -> str:
        """A point as the text that is asked."""
        words = [self._vocabulary[int(index)] for index in point if index != _NOTHING]
        return _BEFORE_MARK.sub("", " ".join(words))

    def _point(self, words: Words) -> Vector:
        point = np.full(self._longest, _NOTHING, np.float64)
        point[: len(words)] = words
        return point

    def _beam(self) -> list[Words]:
        """The best templates asked, best first; of equals, the one asked first."""
        ranked = sorted(self._known, key=self._known.__getitem__)
        return ranked[: self._beam_size]

    def _propose(self) -> list[Words]:
        """What nobody has asked: published templates first, then edits of the beam."""
        wanted = self._config.population
        start = self.generation * wanted
        new = dict.fromkeys(self._pool[start : start + wanted])
        for words in self._edits(tries=_TRIES * wanted):
            if len(new) == wanted:
                break
            if words not in self._known:
                new[words] = None
        return [*new]

    def _edits(self, *, tries: int) -> Iterator[Words]:
        """Templates one or two edits away from one of the beam, drawn at random."""
        draw = stream(self._config.seed, Stream.TEXT_EDITS, self.generation)
        beam = self._beam() or self._pool
        for _ in range(tries):
            words = beam[draw.randint(len(beam))]
            for _ in range(1 + draw.randint(2)):
                words = self._edit(words, draw)
            if len(words) <= self._longest:
                yield words

    def _edit(self, words: Words, draw: np.random.RandomState) -> Words:
        """Delete, replace, add or swap; the class name is moved, never lost or doubled."""
        edited = [*words]
        place, other = draw.randint(len(words)), draw.randint(len(words))
        word = draw.randint(len(self._vocabulary) - 1)
        word += word >= self._class
        kind = draw.randint(4)
        if kind == 0:
            edited.insert(draw.randint(len(words) + 1), word)
        elif kind == 1:
            edited[place], edited[other] = edited[other], edited[place]
        elif words[place] != self._class:
            edited[place : place + 1] = [word] if kind == 2 else []
        return tuple(edited)
