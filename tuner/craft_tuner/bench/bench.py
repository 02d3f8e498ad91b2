"""The use case `bench`: plan all cells, refuse what cannot be paid, do what is left, tabulate.

    read datasets -> plan every cell -> look what is done -> refuse or say the cost -> make the runs
    -> an engine does them -> cells.csv, table.md, curves.png

The runs are made, each with its plan, before the first of them begins: what was said is what is
spent, whatever the key's counter shows in between. Results are read from run directories, finished
ones too, so a bench that was killed, or asked for more, goes on from what is there.
"""

from collections.abc import Callable, Hashable, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from pydantic import SecretStr
from rich.filesize import decimal

from craft_shared.messages import ModelCard
from craft_tuner.activity import doing
from craft_tuner.bench import report
from craft_tuner.bench.grid import Grid
from craft_tuner.bench.plans import Bill, check_each, check_payable, plan_grid, short
from craft_tuner.bench.progress import BenchProgress
from craft_tuner.bench.quote import announce, bills_of, failures, unpaid
from craft_tuner.bench.results_dir import CellStatus, ResultsDir, spent
from craft_tuner.bench.worker import Engine, Job, JobResult
from craft_tuner.client.account import choose_model, fetch_key
from craft_tuner.client.purchases import add
from craft_tuner.client.texts import TextCheck
from craft_tuner.client.transport import Transport
from craft_tuner.commands.local_server import local_server
from craft_tuner.commands.progress import open_screen
from craft_tuner.commands.session import open_server
from craft_tuner.config.settings import Settings
from craft_tuner.data.sources import absolute
from craft_tuner.errors import INTERRUPTED, CraftTunerError, UsageError, disk_errors_as
from craft_tuner.training.estimate import CARD
from craft_tuner.training.foresight import Terms
from craft_tuner.training.prepare import Setup

Allow = Callable[[int], None]
"""Sets the key's limit on queries."""


class CellsFailed(CraftTunerError):
    """Some cells have no result; the others are done, and the table has them."""

    exit_code = 1


@dataclass(frozen=True)
class BenchRequest:
    """What is asked of a bench."""

    grid: Grid
    out: Path
    engine: Engine
    retry_failed: bool = False
    dry_run: bool = False
    start_server: bool = False
    """Start a server of this machine with a key that covers the cells, and stop it at the end."""


def bench(request: BenchRequest, settings: Settings) -> str:
    """Do what is left of a bench; the content of table.md, empty after a dry run.

    Raises:
        BudgetExhausted: the key cannot pay all cells; nothing was begun.
        CellsFailed: some cells failed, and the table is written.
        CraftTunerError: whatever else stops it; the same command goes on.
    """
    with disk_errors_as(UsageError, f"--out {request.out} cannot be used"):
        if request.out.exists() and not request.out.is_dir():
            raise UsageError(f"--out {request.out} is a file; a bench needs a folder of its own")
        return _bench_anywhere(request, settings)


def _bench_anywhere(request: BenchRequest, settings: Settings) -> str:
    if not request.start_server:
        return _bench(request, settings)
    if settings.server is not None:
        raise UsageError(f"--start-server or --server {settings.server}? give one of them")
    results_dir = ResultsDir(request.out.absolute())
    if request.dry_run:
        planned_cells = plan_grid(request.grid, Terms(CARD), outside=settings.allow_outside)
        statuses = [results_dir.look(planned) for planned in planned_cells]
        announce(_say, statuses, bills_of(_to_do(request, statuses), None))
        return ""
    with local_server(results_dir.path / "server", queries=1) as server:
        reached = settings.model_copy(update={"server": server.url, "key": SecretStr(server.key)})
        return _bench(request, reached, allow=server.allow)


def _bench(request: BenchRequest, settings: Settings, *, allow: Allow | None = None) -> str:
    results_dir = ResultsDir(request.out.absolute())
    with open_server(settings) as (screen, transport):
        card = choose_model(transport, settings.model)
        key = fetch_key(transport)
        texts = TextCheck(transport, card)
        with doing("planning the cells"):
            planned = plan_grid(
                request.grid,
                Terms(card, key.policy, key.budgets if allow is None else None),
                outside=settings.allow_outside,
                check=lambda foreseen: texts.check(foreseen.wordings()),
            )
            statuses = [results_dir.look(each) for each in planned]
        todo = _to_do(request, statuses)
        bills, budgets = bills_of(todo, transport), key.budgets
        if allow is not None:
            allow(budgets.queries.used + add(bill.left for bill in bills).queries)
            budgets = fetch_key(transport).budgets
        announce(screen.say, statuses, bills, budgets)
        check_payable(bills, budgets)
        check_each(unpaid(todo))
        if request.dry_run:
            return ""
        with doing("making the runs", total=len(todo), unit="runs") as work:
            for one in todo:
                results_dir.prepare(one, _setup(one, transport, card, settings))
                work.advance()
    try:
        _carry_out(request, results_dir, bills, settings=settings)
    except KeyboardInterrupt:
        report.write(results_dir, [results_dir.refresh(one) for one in statuses], request.grid)
        _say("interrupted; what was bought is kept, the same command goes on")
        raise SystemExit(INTERRUPTED) from None
    return _report(request, results_dir, statuses)


# --- before it begins ---------------------------------------------------------------------------


def _to_do(request: BenchRequest, statuses: Sequence[CellStatus]) -> list[CellStatus]:
    states = {"new", "begun"} | ({"failed"} if request.retry_failed else set())
    return [one for one in statuses if one.state in states and one.possible]


def _setup(status: CellStatus, transport: Transport, card: ModelCard, settings: Settings) -> Setup:
    data, allowed = absolute(status.cell.data), tuple(map(str, settings.allow_outside))
    return Setup(server=transport.url, model=card.id, data=data, allow_outside=allowed)


# --- while it runs ------------------------------------------------------------------------------


class _Tally:
    """Queries that the cells have spent since the bench was started, as their runs believe."""

    def __init__(self, results_dir: ResultsDir, names: Sequence[str]) -> None:
        self._results_dir = results_dir
        self._before = {name: self._queries(name) for name in names}
        self._ended: dict[str, int] = {}

    def end(self, name: str) -> None:
        """A cell has ended: what it spent is fixed."""
        self._ended[name] = self._queries(name)

    def total(self) -> int:
        """All of it."""
        return sum(
            (self._ended[name] if name in self._ended else self._queries(name)) - before
            for name, before in self._before.items()
        )

    def _queries(self, name: str) -> int:
        return spent(self._results_dir.run(name)).queries


def _carry_out(
    request: BenchRequest, results_dir: ResultsDir, bills: Sequence[Bill], *, settings: Settings
) -> None:
    names = [bill.cell.name for bill in bills]
    jobs = [Job(name, results_dir.run(name), results_dir.log(name), settings) for name in names]
    tally, peak = _Tally(results_dir, names), 0
    queries = add(bill.left for bill in bills).queries
    with (
        open_screen() as screen,
        doing("benching", total=len(jobs), unit="cells") as work,
        closing(request.engine.run(jobs)) as results,
    ):
        progress = BenchProgress(screen.say, work, _kinds(bills), queries=queries)
        for result in results:
            if result is None:
                progress.tick(tally.total())
                continue
            tally.end(result.name)
            reason = _settle(results_dir, result)
            peak = max(peak, result.peak_bytes)
            how, took = (f"failed: {reason}", None) if reason else ("done", result.seconds)
            progress.ended(result.name, how, spent=tally.total(), seconds=took)
    if peak:
        _say(f"a worker had at most {decimal(peak)} in memory")


def _kinds(bills: Sequence[Bill]) -> dict[str, Hashable]:
    """What decides how long a cell takes, by its name."""
    return {
        bill.cell.name: (bill.cell.data, bill.cell.config.method, bill.cell.config.shots)
        for bill in bills
    }


def _settle(results_dir: ResultsDir, result: JobResult) -> str | None:
    """Record a failure; a cell that is done must have left its result where it is read."""
    reason = result.reason
    if reason is None and results_dir.result(result.name) is None:
        reason = f"it left no result in {results_dir.run(result.name)}; is that path shared?"
    if reason is not None:
        results_dir.fail(result.name, reason)
    return reason


# --- what came of it ----------------------------------------------------------------------------


def _report(request: BenchRequest, results_dir: ResultsDir, statuses: Sequence[CellStatus]) -> str:
    """Write what came of it, and refuse to call it a success where cells failed."""
    now = [results_dir.refresh(one) for one in statuses]
    with doing("writing table and curves"):
        text = report.write(results_dir, now, request.grid)
    where = results_dir.path / report.TABLE
    _say(f"table: {where}, cells: {report.CELLS}, curves: {report.CURVES}")
    failed = failures(now)
    if failed:
        reasons = "; ".join(f"{short(names)}: {why}" for why, names in failed.items())
        raise CellsFailed(
            f"{sum(map(len, failed.values()))} of {len(now)} cells failed ({reasons}); the others "
            f"are in {where}; try these again with --retry-failed"
        )
    return text


def _say(sentence: str) -> None:
    with open_screen() as screen:
        screen.say(sentence)
