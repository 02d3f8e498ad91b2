"""Plans: the phases of a run in order, as many generations as every limit allows."""

from collections.abc import Sequence

from pydantic import BaseModel, ConfigDict

from craft_shared.messages import Budgets, Counters, ReplyDtype
from craft_tuner.blackbox import Purpose
from craft_tuner.config.fit_config import FitConfig
from craft_tuner.plan.cost import LIMITS, Phase, price, sum_costs, words
from craft_tuner.plan.limits import room, spendable
from craft_tuner.plan.workload import Workload

_TESTS = ("zero-shot", "test")

_WIDTHS = (10, 9, 15, 13, 15)
"""Columns of a plan's table: the phase, then a counter each."""


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
    answer: int = 1
    """Queries that a batch of answers costs at inference, one image set."""
    binds: str = ""
    """The counter that allows no larger run; empty where none does."""
    short: str = ""
    """That the key is left too little for a batch of answers, and how little; else empty."""
    dtype: ReplyDtype = "float32"
    """How logits travel where the settings leave it to the line; chosen once for a run."""
    validation: int = 0
    """Validation images that choices are made on; 0: by cross-validation, or none are made."""

    @property
    def total(self) -> Counters:
        """All phases together."""
        return sum_costs(self.phases)

    @property
    def fit(self) -> Counters:
        """What `Method.fit` spends: all but the zero-shot and the final test."""
        return sum_costs(phase for phase in self.phases if phase.purpose not in _TESTS)

    def dtype_of(self, config: FitConfig) -> ReplyDtype:
        """How logits travel: as the settings say, or as was chosen."""
        return self.dtype if config.dtype == "auto" else config.dtype

    @property
    def spending(self) -> str:
        """What the queries are for: "8 to fit, 9 to test, 8 per batch of answers"."""
        fit = self.fit.queries
        test = self.total.queries - fit
        return f"{fit:,} to fit, {test:,} to test, {self.answer:,} per batch of answers"

    def table(self) -> str:
        """The plan for people: a line a phase, the total, why this method, what answers lack."""
        rows = [("phase", *map(words, LIMITS), "what")]
        rows += [_row(phase.purpose, phase.cost, phase.what) for phase in self.phases]
        binding = f"; the key's {words(self.binds)} allow no more" if self._bound_by_key else ""
        of = f"{self.spending}; of a budget of {self.budget:,} queries{binding}"
        lines = [_line(row) for row in [*rows, _row("total", self.total, of)]]
        chosen = f"{self.chosen_on}; test images have no part in it" if self.validation else ""
        why = f"auto takes {self.method}: {self.why}" if self.why else ""
        return "\n".join([*lines, *filter(None, (chosen, why, self.short))])

    @property
    def chosen_on(self) -> str:
        """What choices are made on, where it is images set apart for it."""
        return f"chosen on {self.validation:,} validation images" if self.validation else ""

    @property
    def _bound_by_key(self) -> bool:
        return self.binds not in ("", "queries")


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
    one = _search(work, "fitness", generations=1, prompts=population + head_queries)
    left = spendable(config, budgets, least=sum_costs([*tests, one]), lever=lever)
    generations, binds = room(left, fixed=sum_costs(tests), each=one.cost)
    if config.paper_exact and config.official_generations < generations:
        generations, binds = config.official_generations, ""
    search = [_search(work, "fitness", generations=generations, prompts=population)]
    if head_queries:
        search.append(_search(work, "head", generations=generations, prompts=head_queries))
    return Plan(
        method=config.method,
        budget=left["queries"],
        generations=generations,
        population=population,
        phases=(*tests[:1], *search, *tests[1:]),
        binds=binds,
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
    left = spendable(config, budgets, least=sum_costs(asked), lever=lever)
    return Plan(
        method=config.method,
        budget=left["queries"],
        generations=0,
        population=0,
        phases=asked,
        answer=test_prompts or 1,
    )


def _tests(work: Workload, *, prompts: int = 1, names: int | None = None) -> list[Phase]:
    """The zero-shot and the final test; nothing without test images."""
    if not work.test_sets:
        return []
    size = {"images": work.test_images, "sets": work.test_sets, "told": work.told}
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
        told=work.told,
    )


def _row(name: str, cost: Counters, what: str) -> tuple[str, ...]:
    return name, *(f"{getattr(cost, counter):,}" for counter in LIMITS), what


def _line(row: tuple[str, ...]) -> str:
    name, *counters, what = row
    first, *others = _WIDTHS
    numbers = zip(counters, others, strict=True)
    columns = "".join(f"{text:>{width}}" for text, width in numbers)
    return f"{name:<{first}}{columns}  {what}".rstrip()
