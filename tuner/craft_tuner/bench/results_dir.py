"""The directory of a bench: where each cell lies and how it stands.

    runs/NAME/          the run directory of a cell, as `craft-tuner fit` makes it
    logs/NAME.log       what the cell said
    failed/NAME.txt     why it failed; gone when it is tried again
    cells.csv, table.md, curves.png
    server/             ledger and images of a server that the bench started

A cell is done when its run has a result; there is no other record of that, so that nothing can
contradict it.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from craft_shared.messages import Counters
from craft_tuner import files as durable
from craft_tuner.bench.grid import Cell
from craft_tuner.bench.plans import Planned
from craft_tuner.client.purchases import PURCHASES, Purchase, add
from craft_tuner.plan import Plan
from craft_tuner.runs.run import CONFIG, RESULT, Run
from craft_tuner.training.prepare import Setup

State = Literal["done", "failed", "begun", "new"]


@dataclass(frozen=True)
class CellStatus:
    """A cell, what it should cost, and how it stands."""

    cell: Cell
    run: Path
    plan: Plan | None
    state: State
    run_id: str = ""
    """Empty before the run exists."""
    reason: str = ""
    """Why it failed."""
    result: Mapping[str, Any] | None = None
    """The content of result.json."""
    unpaid: str = ""
    """Why the key cannot pay it."""
    smaller: bool = False
    """Whether what the key has left makes it smaller."""

    @property
    def possible(self) -> bool:
        """It has a plan: it is done, or can be tried."""
        return self.plan is not None


@dataclass(frozen=True)
class ResultsDir:
    """The directory of a bench."""

    path: Path

    def run(self, name: str) -> Path:
        """The run directory of a cell."""
        return self.path / "runs" / name

    def log(self, name: str) -> Path:
        """What a cell says."""
        return self.path / "logs" / f"{name}.log"

    def failure(self, name: str) -> Path:
        """Why a cell failed."""
        return self.path / "failed" / f"{name}.txt"

    def look(self, planned: Planned) -> CellStatus:
        """How a cell stands; a plan that its run has already stands.

        Raises:
            RunError: its run has other settings, is damaged, or is in use by another process.
        """
        name = planned.cell.name
        status = CellStatus(
            planned.cell,
            self.run(name),
            planned.plan,
            "new",
            unpaid=planned.unpaid,
            smaller=planned.smaller,
        )
        if (status.run / CONFIG).exists():
            with Run.resume(status.run, config=planned.cell.config) as run:
                status = replace(status, state="begun", run_id=run.id)
                plan = run.saved_plan()
            if plan is not None:
                status = replace(status, plan=plan, unpaid="", smaller=False)
        if status.plan is None:
            status = replace(status, state="failed", reason=planned.refusal)
        return self.refresh(status)

    def result(self, name: str) -> dict[str, Any] | None:
        """The content of a cell's result.json; None while there is none."""
        file = self.run(name) / RESULT
        if not file.exists():
            return None
        content: dict[str, Any] = json.loads(file.read_bytes())
        return content

    def refresh(self, status: CellStatus) -> CellStatus:
        """How a cell stands now, by its files alone; it may be at work."""
        failure, result = self.failure(status.cell.name), self.result(status.cell.name)
        if result is not None:
            return replace(status, state="done", reason="", result=result)
        if failure.exists():
            return replace(status, state="failed", reason=failure.read_text(encoding="utf-8"))
        return status

    def prepare(self, status: CellStatus, setup: Setup) -> None:
        """Make the run of a cell, with its plan, if there is none; forget an earlier failure."""
        name = status.cell.name
        for file in (self.log(name), self.failure(name)):
            file.parent.mkdir(parents=True, exist_ok=True)
        self.failure(name).unlink(missing_ok=True)
        if status.state == "new" or not status.run_id:
            with Run.create(status.run, status.cell.config, setup=setup.model_dump()) as run:
                _save_plan(run, status.plan)
            return
        with Run.resume(status.run) as run:
            if run.saved_plan() is None:
                _save_plan(run, status.plan)

    def fail(self, name: str, reason: str) -> None:
        """Record why a cell failed."""
        durable.replace(self.failure(name), reason.encode())


def spent(run: Path) -> Counters:
    """What a run believes it has bought; it may be at work while this reads.

    `purchases.Purchases` is for the run itself: it cuts off a line that is half written.
    """
    file = run / PURCHASES
    lines = file.read_bytes().splitlines(keepends=True) if file.exists() else []
    whole = (line for line in lines if line.endswith(b"\n"))
    return add(Purchase.model_validate_json(line).cost for line in whole)


def metrics(run: Path) -> list[dict[str, float]]:
    """The lines of metrics.jsonl of a finished run, without what is no number."""
    file = run / "metrics.jsonl"
    lines = file.read_text(encoding="utf-8").splitlines() if file.exists() else []
    rows: Iterable[dict[str, float | None]] = (json.loads(line) for line in lines)
    return [{name: value for name, value in row.items() if value is not None} for row in rows]


def _save_plan(run: Run, plan: Plan | None) -> None:
    if plan is not None:
        run.save_plan(plan)
