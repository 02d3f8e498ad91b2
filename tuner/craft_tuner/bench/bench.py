"""The use case `bench`: plan all cells, refuse what cannot be paid, do what is left, tabulate.

    read datasets -> plan every cell -> look what is done -> refuse or say the cost -> make the runs
    -> an engine does them -> cells.csv, table.md, curves.png

The runs are made, each with its plan, before the first of them begins: what was said is what is
spent, whatever the key's counter shows in between. Results are read from run directories, finished
ones too, so a bench that was killed, or asked for more, goes on from what is there.
"""

from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from pydantic import SecretStr
from rich.console import Console
from rich.filesize import decimal

from craft_shared.messages import ModelCard
from craft_tuner.bench import report
from craft_tuner.bench.board import Board
from craft_tuner.bench.folder import Folder, Standing, spent
from craft_tuner.bench.grid import Grid
from craft_tuner.bench.offer import bills_of, failures, short, tell
from craft_tuner.bench.plans import Bill, check_payable, plan_grid
from craft_tuner.bench.work import Engine, Job, Outcome
from craft_tuner.client.account import choose_model, fetch_key
from craft_tuner.client.purchases import add
from craft_tuner.client.transport import Transport
from craft_tuner.commands.local_server import local_server
from craft_tuner.commands.session import INTERRUPTED, open_server
from craft_tuner.config.settings import Settings
from craft_tuner.data.sources import absolute
from craft_tuner.errors import CraftTunerError, UsageError
from craft_tuner.training.estimate import CARD
from craft_tuner.training.prepare import Setup

Allow = Callable[[int], None]
"""Sets the key's limit on queries."""


class CellsFailed(CraftTunerError):  # noqa: N818 - says what happened
    """Some cells have no result; the others are done, and the table has them."""

    exit_code = 1


@dataclass(frozen=True)
class Order:
    """What is asked of a bench."""

    grid: Grid
    out: Path
    engine: Engine
    retry_failed: bool = False
    dry_run: bool = False
    start_server: bool = False
    """Start a server of this machine with a key that covers the cells, and stop it at the end."""


def bench(order: Order, settings: Settings) -> str:
    """Do what is left of a bench; the content of table.md, empty after a dry run.

    Raises:
        BudgetExhausted: the key cannot pay all cells; nothing was begun.
        CellsFailed: some cells failed, and the table is written.
        CraftTunerError: whatever else stops it; the same command goes on.
    """
    if not order.start_server:
        return _bench(order, settings)
    if settings.server is not None:
        raise UsageError(f"--start-server or --server {settings.server}? give one of them")
    folder = Folder(order.out.absolute())
    if order.dry_run:
        standings = [folder.look(planned) for planned in plan_grid(order.grid, CARD)]
        tell(_say, standings, bills_of(_to_do(order, standings), None))
        return ""
    with local_server(folder.path / "server", queries=1) as server:
        reached = settings.model_copy(update={"server": server.url, "key": SecretStr(server.key)})
        return _bench(order, reached, allow=server.allow)


def _bench(order: Order, settings: Settings, *, allow: Allow | None = None) -> str:
    folder = Folder(order.out.absolute())
    with open_server(settings) as (screen, transport):
        card = choose_model(transport, settings.model)
        standings = [folder.look(planned) for planned in plan_grid(order.grid, card)]
        todo = _to_do(order, standings)
        bills = bills_of(todo, transport)
        budgets = fetch_key(transport).budgets
        if allow is not None:
            allow(budgets.queries.used + add(bill.left for bill in bills).queries)
            budgets = fetch_key(transport).budgets
        tell(screen.say, standings, bills, budgets)
        check_payable(bills, budgets)
        if order.dry_run:
            return ""
        for one in todo:
            folder.prepare(one, _setup(one, transport, card))
    try:
        _carry_out(order, folder, bills, settings=settings)
    except KeyboardInterrupt:
        report.write(folder, [folder.refresh(one) for one in standings], order.grid)
        _say("interrupted; what was bought is kept, the same command goes on")
        raise SystemExit(INTERRUPTED) from None
    return _report(order, folder, standings)


# --- before it begins ---------------------------------------------------------------------------


def _to_do(order: Order, standings: Sequence[Standing]) -> list[Standing]:
    states = {"new", "begun"} | ({"failed"} if order.retry_failed else set())
    return [one for one in standings if one.state in states and one.possible]


def _setup(standing: Standing, transport: Transport, card: ModelCard) -> Setup:
    data = absolute(standing.cell.data)
    return Setup(server=transport.url, model=card.id, data=data)


# --- while it runs ------------------------------------------------------------------------------


class _Tally:
    """Queries that the cells have spent since the bench was started, as their runs believe."""

    def __init__(self, folder: Folder, names: Sequence[str]) -> None:
        self._folder = folder
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
        return spent(self._folder.run(name)).queries


def _carry_out(order: Order, folder: Folder, bills: Sequence[Bill], *, settings: Settings) -> None:
    names = [bill.cell.name for bill in bills]
    jobs = [Job(name, folder.run(name), folder.log(name), settings) for name in names]
    tally, peak = _Tally(folder, names), 0
    queries = add(bill.left for bill in bills).queries
    with (
        Board(Console(stderr=True), cells=len(jobs), queries=queries) as board,
        closing(order.engine.run(jobs)) as outcomes,
    ):
        for outcome in outcomes:
            if outcome is None:
                board.tick(tally.total())
                continue
            tally.end(outcome.name)
            reason = _settle(folder, outcome)
            peak = max(peak, outcome.peak_bytes)
            how = f"failed: {reason}" if reason else "done"
            board.ended(outcome.name, how, spent=tally.total(), failed=reason is not None)
    if peak:
        _say(f"a worker had at most {decimal(peak)} in memory")


def _settle(folder: Folder, outcome: Outcome) -> str | None:
    """Record a failure; a cell that is done must have left its result where it is read."""
    reason = outcome.reason
    if reason is None and folder.result(outcome.name) is None:
        reason = f"it left no result in {folder.run(outcome.name)}; is that path shared?"
    if reason is not None:
        folder.fail(outcome.name, reason)
    return reason


# --- what came of it ----------------------------------------------------------------------------


def _report(order: Order, folder: Folder, standings: Sequence[Standing]) -> str:
    """Write what came of it, and refuse to call it a success where cells failed."""
    now = [folder.refresh(one) for one in standings]
    text = report.write(folder, now, order.grid)
    where = folder.path / report.TABLE
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
    Console(stderr=True).print(sentence, markup=False, highlight=False, soft_wrap=True)
