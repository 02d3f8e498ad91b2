"""What a bench measured: one record a cell, and cells.csv.

A record is what a table or a curve is drawn from.
"""

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

from craft_tuner import csv_text
from craft_tuner.bench.results_dir import CellStatus, State
from craft_tuner.plan import COUNTERS


@dataclass(frozen=True)
class Record:
    """One cell; what is not known of it is None. Accuracies are shares, costs are totals."""

    data: str
    method: str
    shots: int | str | None
    """As the settings have it; None: the result stands for all shots and seeds."""
    seed: int | None
    budget: int | None
    """As `--budgets` names it; None: the paper's."""
    state: State
    accuracy: float | None = None
    zero_shot: float | None = None
    prompt_only: float | None = None
    queries: int | None = None
    calls: int | None = None
    logit_vectors: int | None = None
    texts: int | None = None
    logits: int | None = None
    queries_planned: int | None = None
    prompts_per_image: int | None = None
    seconds: float | None = None
    """Wall time of upload, fit and test."""
    adapter_bytes: int | None = None
    run: str = ""
    reason: str = ""


def record(status: CellStatus) -> Record:
    """The record of a cell."""
    cell, plan = status.cell, status.plan
    known: dict[str, Any] = {
        "data": cell.title,
        "method": cell.config.method,
        "shots": None if cell.alone else cell.config.shots,
        "seed": None if cell.alone else cell.config.seed,
        "budget": cell.config.budget,
        "state": status.state,
        "queries_planned": plan.total.queries if plan else None,
        "run": cell.name,
        "reason": status.reason,
    }
    return Record(**known, **(_measured(status.result) if status.result else {}))


def _measured(result: Mapping[str, Any]) -> dict[str, Any]:
    evaluation: Mapping[str, Any] = result.get("evaluation") or {}
    before, prompt, after = (
        _accuracy(evaluation, way) for way in ("zero_shot", "prompt_only", "adapted")
    )
    return {
        "accuracy": before if after is None else after,
        "zero_shot": before,
        "prompt_only": prompt,
        **{name: result["spent_total"].get(name) for name in COUNTERS},
        "prompts_per_image": result["prompts_per_image_at_inference"],
        "seconds": sum(result["seconds"].values()),
        "adapter_bytes": result["adapter_bytes"],
    }


def _accuracy(evaluation: Mapping[str, Any], way: str) -> float | None:
    scored = evaluation.get(way)
    return None if scored is None else float(scored["accuracy"])


def to_csv(records: Iterable[Record]) -> str:
    """One line a cell below the names of the columns; unknown values are empty."""
    text = io.StringIO()
    names = [field.name for field in fields(Record)]
    writer = csv.DictWriter(text, names, lineterminator="\n")
    writer.writeheader()
    writer.writerows(
        {
            name: csv_text.written(value) if isinstance(value, str) else value
            for name, value in asdict(one).items()
        }
        for one in records
    )
    return text.getvalue()


@dataclass(frozen=True)
class TableRow:
    """A row of a table: a method, at one of the budgets asked for."""

    method: str
    budget: int | None

    @property
    def label(self) -> str:
        """As tables name it."""
        return self.method if self.budget is None else f"{self.method}, {self.budget:,} queries"


def rows_of(records: Sequence[Record]) -> list[TableRow]:
    """The rows of tables, in order of cells."""
    return list(dict.fromkeys(TableRow(one.method, one.budget) for one in records))


def columns_of(records: Sequence[Record]) -> list[int | str | None]:
    """The shots of all records, in order of cells; [None] where none depends on them."""
    found: list[int | str | None] = [one.shots for one in records if one.shots is not None]
    return list(dict.fromkeys(found)) or [None]


def shots_words(shots: int | str | None) -> str:
    """As a heading has it."""
    if shots == "all":
        return "all images"
    return "all shots" if shots is None else f"{shots} shot{'s' * (shots != 1)}"


def select(
    records: Sequence[Record], line: TableRow, *, data: str, shots: int | str | None
) -> list[Record]:
    """The records of one entry of a table, over seeds; those that stand for all shots included."""
    return [
        one
        for one in records
        if (one.method, one.budget, one.data) == (line.method, line.budget, data)
        and one.shots in {shots, None}
    ]
