"""`craft-tuner demo`: a server, a fit over HTTP, a table, and an account that must balance.

The demo is a user of both programs: it starts the server by its command line and fits through the
same code as `craft-tuner fit`. Its account is kept three times, by the server's ledger, by the
counters of the key, and by the tuner; the demo fails if they differ.
"""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import SecretStr
from rich.console import Console
from rich.table import Column, Table

from craft_shared.messages import Counters
from craft_tuner.client.purchases import add
from craft_tuner.commands import fit as commands
from craft_tuner.commands.local_server import LocalServer, local_server
from craft_tuner.config.fit_config import build
from craft_tuner.config.settings import Settings
from craft_tuner.data.sources import DIGITS
from craft_tuner.errors import CraftTunerError, UsageError
from craft_tuner.report import REPORT, cost_rows, summary_rows, time_words

DEFAULT_OUT = Path("runs/demo")
SHOTS = 16


class AccountMismatch(CraftTunerError):
    """Ledger, key and tuner do not agree on what was spent."""

    exit_code = 1


def run_demo(
    out: Path | None, *, seed: int, budget: int, keep_server: bool, console: Console | None = None
) -> None:
    """Run the demo and print what came of it to standard output.

    Args:
        out: directory to create; None takes the first free one of runs/demo, runs/demo-2, ...
        seed: of shots, search and head.
        budget: queries that the key may buy.
        keep_server: leave the server running.
        console: where the table goes.

    Raises:
        AccountMismatch: ledger, key and tuner differ.
        CraftTunerError: whatever went wrong on the way.
    """
    started = time.monotonic()
    console = console or Console()
    where = _fresh(out)
    config = build({"preset": DIGITS, "shots": SHOTS, "seed": seed, "budget": budget})
    with local_server(where / "server", queries=budget, keep=keep_server) as server:
        settings = Settings(server=server.url, key=SecretStr(server.key))
        result = commands.fit(where / "run", config, settings, data=DIGITS)
        account = account_of(settings, result)
    console.print(_table(result, account, seconds=time.monotonic() - started))
    console.print(f"report: {where / 'run' / REPORT}", soft_wrap=True, markup=False)
    if keep_server:
        _say_where(server, console)
    if len(set(account.values())) != 1:
        raise AccountMismatch(f"the account does not balance: {_sentence(account)}")


def _fresh(out: Path | None) -> Path:
    if out is None:
        names = [DEFAULT_OUT, *(DEFAULT_OUT.with_name(f"demo-{n}") for n in range(2, 10_000))]
        return next(path for path in names if not path.exists())
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UsageError(f"--out {out} exists already; choose a new directory or remove it")
    return out


def account_of(settings: Settings, result: Mapping[str, Any]) -> dict[str, tuple[int, int]]:
    """Queries and logit vectors by the ledger, by the key and by the tuner.

    The key counts logit vectors only if it is limited in them, so the ledger's stand in for it.
    """
    key, usage = commands.usage(settings, bucket="total")
    ledger = add(bucket.counters for bucket in usage.buckets)
    believed = Counters.model_validate(result["spent_total"])
    return {
        "server's ledger": (ledger.queries, ledger.logit_vectors),
        "key used": (key.budgets.queries.used, ledger.logit_vectors),
        "tuner's belief": (believed.queries, believed.logit_vectors),
    }


def _sentence(account: Mapping[str, tuple[int, int]]) -> str:
    return " == ".join(f"{who} {queries:,}" for who, (queries, _) in account.items())


def _table(
    result: Mapping[str, Any], account: Mapping[str, tuple[int, int]], *, seconds: float
) -> Table:
    balances = "yes" if len(set(account.values())) == 1 else "NO"
    columns = [Column(name, overflow="fold") for name in ("what", "value")]
    table = Table(*columns, title="CraFT over HTTP on handwritten digits")
    for name, value in summary_rows(result):
        table.add_row(name, value)
    table.add_section()
    for purpose, queries, *_ in cost_rows(result):
        table.add_row(f"queries, {purpose}", queries)
    table.add_row(f"account balances: {balances}", _sentence(account))
    table.add_section()
    table.add_row(
        "time", f"{seconds:.0f} s with the server; the fit {time_words(result['seconds'])}"
    )
    table.add_row("adapter", f"{result['adapter_bytes'] / 1024:.0f} KiB")
    return table


def _say_where(server: LocalServer, console: Console) -> None:
    console.print(
        f"the server runs on at {server.url}, key {server.key}; stop it with: kill {server.pid}",
        soft_wrap=True,
    )
