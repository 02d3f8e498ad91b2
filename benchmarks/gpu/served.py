"""Sections: a whole fit through `craft-server serve --device`, and one tuner against eight.

Both are the real programs over HTTP: the demo's digits on the embedded model, with the account kept
by ledger, key and tuner; and tuners.py's processes on RN50 with random weights.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pydantic import SecretStr

from benchmarks.common.class_names import names_of
from benchmarks.common.programs import SERVER
from benchmarks.common.random_checkpoint import random_checkpoint
from benchmarks.common.servers import Server, running
from benchmarks.gpu.runner import Say, Scene, Section, SectionError
from benchmarks.speed import tuners
from craft_tuner.commands import fit as commands
from craft_tuner.commands.demo import SHOTS, account_of
from craft_tuner.config.fit_config import build
from craft_tuner.config.settings import Settings
from craft_tuner.data.sources import DIGITS
from craft_tuner.report.read import read_runs

BUDGET, BUDGET_SMALL = 8000, 250
TUNERS, TUNERS_SMALL = 8, 2
SECONDS, SECONDS_SMALL = 12.0, 1.0
FIT_COLUMNS = {
    "device": "device",
    "seconds": "fit, s|.1f",
    "zero_shot": "zero-shot|.2%",
    "tuned": "tuned|.2%",
    "ledger": "ledger, queries",
    "key": "key, queries",
    "tuner": "tuner, queries",
    "balances": "balances",
}


@contextmanager
def serving_on(scene: Scene, **settings: object) -> Iterator[Server]:
    """`craft-server serve --device DEVICE` with other settings from the environment."""
    command = (SERVER, "serve", "--device", scene.device)
    with running(command, scene.folder / "server", **settings) as server:
        yield server


def fit(scene: Scene, say: Say) -> None:
    """One fit of the demo.

    Raises:
        SectionError: ledger, key and tuner differ.
    """
    budget = BUDGET_SMALL if scene.small else BUDGET
    config = build({"preset": DIGITS, "shots": SHOTS, "seed": 1, "budget": budget})
    with serving_on(scene, model="embedded") as server:
        settings = Settings(server=server.url, key=SecretStr(server.mint(budget)))
        result = commands.fit(scene.folder / "run", config, settings, data=DIGITS)
        account = account_of(settings, result)
    [run] = read_runs([scene.folder / "run"])
    counts = [queries for queries, _ in account.values()]
    balances = len(set(account.values())) == 1
    say(
        {
            "device": scene.device,
            "seconds": result["seconds"]["fit"],
            "zero_shot": run.accuracy("zero_shot"),
            "tuned": run.accuracy(run.final),
            **dict(zip(("ledger", "key", "tuner"), counts, strict=True)),
            "balances": "yes" if balances else "NO",
        }
    )
    if not balances:
        raise SectionError(f"the account does not balance: {account}")


def at_once(scene: Scene, say: Say) -> None:
    """One tuner, then eight; RN50 and DTD's names. Rehearsed with two, and the embedded model."""
    count = TUNERS_SMALL if scene.small else TUNERS
    seconds = SECONDS_SMALL if scene.small else SECONDS
    settings: dict[str, object] = {"model": "embedded"}
    if not scene.small:
        settings = {"model": "RN50", "pretrained": random_checkpoint(Path(scene.folder))}
    names = names_of("digits" if scene.small else "dtd")
    with serving_on(scene, **settings) as server:
        rows = tuners.compare(server, count, names, 40, seconds)
    for row in rows:
        say({**row, "share": row["prompts_per_s"] / rows[0]["prompts_per_s"]})


FIT = Section("fit", "A whole fit over HTTP", fit, FIT_COLUMNS, least_s=30, most_s=90)
AT_ONCE = Section(
    "tuners",
    "Tuners at once",
    at_once,
    {**tuners.COLUMNS, "share": "of one tuner's rate|.3f"},
    least_s=40,
    most_s=70,
)
