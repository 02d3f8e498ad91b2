"""What a run will cost, decided before its first query.

Owns the arithmetic of phases: how many generations fit what may be spent. A plan counts in the
protocol's four counters; queries and logit vectors are exact, calls are the fewest (a client slices
requests that are too large for the server).
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Self

from pydantic import BaseModel, ConfigDict

from craft_shared.messages import Budgets, Counters, ModelCard, PromptKind
from craft_tuner.blackbox import Images, Purpose, Task, names_at_once
from craft_tuner.config.fit_config import FitConfig
from craft_tuner.errors import BudgetExhausted

_TESTS = ("zero-shot", "test")


@dataclass(frozen=True)
class Workload:
    """Sizes that a price depends on; `*_sets` count image sets, `test_*` are 0 without a test."""

    classes: int
    shots: int
    shot_sets: int = 1
    test_images: int = 0
    test_sets: int = 0
    bundle: int = 0
    """Rows of shots and views together, for methods that ask about them at once."""
    set_size: int = 10**9
    """Most images in a set."""
    kinds: tuple[PromptKind, ...] = ("soft", "text")
    """Kinds of prompts that the key may send."""
    names: int = 10**9
    """Most names in one request; 0: the classes alone."""
    labels: bool = False
    """Whether the key sees the best class alone."""

    @classmethod
    def of(cls, task: Task, test: Images | None = None, *, card: ModelCard | None = None) -> Self:
        """Sizes of a task, of a final test's images if there is one, and what a key may ask."""
        test = test or Images((), 0)
        of_key: dict[str, Any] = {}
        if card is not None:
            of_key = {
                "kinds": tuple(card.prompt_kinds),
                "names": names_at_once(card),
                "labels": card.output == "label",
            }
        return cls(
            classes=len(task.texts.class_names),
            shots=task.shots.count,
            shot_sets=len(task.shots.sets),
            test_images=test.count,
            test_sets=len(test.sets),
            bundle=task.bundle.count if task.bundle else 0,
            **of_key,
        )


class Phase(BaseModel):
    """One purpose that queries are spent on, and its price."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    purpose: Purpose
    what: str
    cost: Counters


class Plan(BaseModel):
    """A run that fits its budget: the phases in order and what they cost."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    method: str
    budget: int
    generations: int
    population: int
    phases: tuple[Phase, ...]
    why: str = ""
    """Why this method, where the method was chosen by `auto`."""

    @property
    def total(self) -> Counters:
        """All phases together."""
        return sum_costs(self.phases)

    @property
    def fit(self) -> Counters:
        """What `Method.fit` spends: all but the zero-shot and the final test."""
        return sum_costs(phase for phase in self.phases if phase.purpose not in _TESTS)

    def table(self) -> str:
        """The plan for people: one line a phase, the total, and why this method if auto chose."""
        rows = [("phase", "queries", "logit vectors", "texts", "what")]
        rows += [_row(phase.purpose, phase.cost, phase.what) for phase in self.phases]
        rows.append(_row("total", self.total, f"of a budget of {self.budget:,}"))
        lines = [
            f"{name:<10}{queries:>9}{vectors:>15}{texts:>13}  {what}".rstrip()
            for name, queries, vectors, texts, what in rows
        ]
        return "\n".join([*lines, *([f"auto takes {self.method}: {self.why}"] if self.why else [])])


def plan_generations(
    config: FitConfig,
    work: Workload,
    budgets: Budgets | None = None,
    *,
    head_queries: int,
    population: int | None = None,
    lever: str = "--population",
) -> Plan:
    """The longest search that fits: P fitness and `head_queries` head queries a generation.

    Reserved beside it: the zero-shot and the final test, one query per test image set each.
    CraFT's 8,000 give 195 generations: 195 * (40 + 1) + 2 = 7,997 queries.

    Args:
        config: says population, method and budget.
        work: says classes, images and image sets.
        budgets: what the key has left; None plans for the configured budget alone.
        head_queries: 1 for a method that trains a head each generation, else 0.
        population: fitness queries of a generation; None: `config.population`.
        lever: the option that lowers them, for messages.

    Raises:
        BudgetExhausted: not even one generation fits, or the key has less than `config.budget`.
    """
    tests = _tests(work)
    population = population or config.population
    prompts = population + head_queries
    fixed = sum_costs(tests)
    least = prompts * work.shot_sets + fixed.queries
    budget = spendable(config, budgets, least=least, lever=lever)
    generations = (budget - fixed.queries) // (prompts * work.shot_sets)
    least = prompts * work.shots + fixed.logit_vectors
    vectors = _vectors_left(budgets, least=least, lever=lever)
    if vectors is not None:
        generations = min(generations, (vectors - fixed.logit_vectors) // (prompts * work.shots))
    if config.paper_exact:
        generations = min(generations, config.official_generations)
    search = [_search(work, "fitness", generations=generations, prompts=population)]
    if head_queries:
        search.append(_search(work, "head", generations=generations, prompts=head_queries))
    return Plan(
        method=config.method,
        budget=budget,
        generations=generations,
        population=population,
        phases=(*tests[:1], *search, *tests[1:]),
    )


def plan_phases(
    config: FitConfig,
    work: Workload,
    budgets: Budgets | None = None,
    *,
    phases: Sequence[Phase],
    test_prompts: int = 1,
    test_names: int | None = None,
    lever: str = "--population",
) -> Plan:
    """The plan of a method whose cost is known before: zero-shot test, its phases, final test.

    Args:
        config: says method and budget.
        work: says classes, images and image sets.
        budgets: what the key has left; None plans for the configured budget alone.
        phases: what the fit itself asks.
        test_prompts: prompts per image of the adapter to come; 0 for one that is tested already.
        test_names: names that they are asked with; None: the class names.
        lever: the option that lowers its cost, for messages.

    Raises:
        BudgetExhausted: it cannot be paid.
    """
    tests = _tests(work, prompts=test_prompts, names=test_names)
    asked = (*tests[:1], *phases, *tests[1:])
    cost = sum_costs(asked)
    budget = spendable(config, budgets, least=cost.queries, lever=lever)
    _vectors_left(budgets, least=cost.logit_vectors, lever=lever)
    return Plan(method=config.method, budget=budget, generations=0, population=0, phases=asked)


def price(
    purpose: Purpose, what: str, *, prompts: int, images: int, sets: int, names: int, calls: int = 1
) -> Phase:
    """A phase of `prompts` prompts on `images` images in `sets` sets, in `calls` calls a set."""
    cost = Counters(
        queries=prompts * sets,
        calls=calls * sets,
        logit_vectors=prompts * images,
        texts=prompts * sets * names,
    )
    return Phase(purpose=purpose, what=what, cost=cost)


def spendable(
    config: FitConfig, budgets: Budgets | None, *, least: int, lever: str = "--population"
) -> int:
    """Queries that a run may spend, at least `least`; the paper's budget unless one is set.

    Raises:
        BudgetExhausted: the budget or what the key has left is below `least`, or the set budget is
            above what the key has left.
    """
    left = None if budgets is None else budgets.queries.remaining
    if left is not None and left < least:
        raise BudgetExhausted(
            f"this run needs at least {least:,} queries and the key has {left:,} left; lower "
            f"{lever} or ask the server's owner for a larger budget"
        )
    if config.budget is not None and left is not None and config.budget > left:
        raise BudgetExhausted(
            f"--budget {config.budget:,} is more than the key has left, {left:,} queries; lower "
            f"--budget to at most {left:,} (at least {least:,}), or leave it out"
        )
    budget = config.budget or config.paper_budget
    if budget < least:
        raise BudgetExhausted(
            f"a budget of {budget:,} queries does not cover one generation and the test, "
            f"{least:,}; raise --budget to at least {least:,} or lower {lever}"
        )
    return budget if left is None else min(budget, left)


def sum_costs(phases: Iterable[Phase]) -> Counters:
    """The four counters of several phases together."""
    costs = [phase.cost for phase in phases]
    return Counters(
        queries=sum(cost.queries for cost in costs),
        calls=sum(cost.calls for cost in costs),
        logit_vectors=sum(cost.logit_vectors for cost in costs),
        texts=sum(cost.texts for cost in costs),
    )


def _vectors_left(
    budgets: Budgets | None, *, least: int, lever: str = "--population"
) -> int | None:
    """Logit vectors that the key has left, None where it has no such limit."""
    if budgets is None or budgets.logit_vectors is None:
        return None
    left = budgets.logit_vectors.remaining
    if left < least:
        raise BudgetExhausted(
            f"this run needs at least {least:,} logit vectors (prompts x images) and the key has "
            f"{left:,} left; lower {lever} or --shots, or ask the server's owner for more"
        )
    return left


def _tests(work: Workload, *, prompts: int = 1, names: int | None = None) -> list[Phase]:
    """The zero-shot and the final test; nothing without test images."""
    if not work.test_sets:
        return []
    size = {"images": work.test_images, "sets": work.test_sets}
    what = f"{work.test_images:,} test images"
    found = [price("zero-shot", what, prompts=1, names=work.classes, **size)]
    if prompts:
        asked = f"{prompts} prompts on {what}" if prompts > 1 else what
        found.append(price("test", asked, prompts=prompts, names=names or work.classes, **size))
    return found


def _search(work: Workload, purpose: Purpose, *, generations: int, prompts: int) -> Phase:
    """What `generations` calls of `prompts` prompts on the shots cost."""
    return price(
        purpose,
        f"{generations} generations x {prompts} x {work.shots:,} shots",
        prompts=generations * prompts,
        images=work.shots,
        sets=work.shot_sets,
        names=work.classes,
        calls=generations,
    )


def _row(name: str, cost: Counters, what: str) -> tuple[str, str, str, str, str]:
    return name, f"{cost.queries:,}", f"{cost.logit_vectors:,}", f"{cost.texts:,}", what
