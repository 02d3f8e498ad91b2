"""Hostile requests and floods against the real program, beside an owner who goes on buying.

    python -m benchmarks bombs [--store sqlite|postgres|both] [--only WORD] [--seconds 3]
                               [--json FILE]

Prints the tables of docs/security.md. Each single request of bombs.py is thrown by four threads
again and again, each flood of floods.py by as many as it takes, for so many seconds. Meanwhile
another owner, in a process of its own, buys one query every 100 ms and asks the probe as often
(onlooker.py). The bar, on two cores with the embedded model: every answer is the right refusal, the
onlooker has no failure and a 99th percentile of at most a second, the probe answers within 100 ms,
single requests were charged nothing, and the books balance. Exits 1 if anything falls short.
"""

import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, Self

from benchmarks.common.machine import (
    Row,
    describe,
    options_of,
    print_heading,
    print_table,
    write_json,
)
from benchmarks.common.servers import Server, Wire, free_port, noise_png, serving
from benchmarks.reliability import bombs
from benchmarks.reliability.bombs import risen_mb
from benchmarks.reliability.floods import EVENTS, PICTURES, Heard, floods, fresh_name, repeated
from benchmarks.reliability.onlooker import PROBE_S, Onlooker
from benchmarks.reliability.stores import Faulty, Postgres, SqliteFile
from benchmarks.reliability.target import Target
from craft_server.db.store import Store
from craft_server.metering.meter import Hold, LedgerEntry, Meter
from craft_shared.messages import Counters

COLUMNS = {
    "store": "store",
    "attack": "attack",
    "answers": "answers",
    "peak_mb": "memory, MB|+.0f",
    "cpu_ms": "CPU a request, ms|.1f",
    "purchases": "purchases of another owner",
    "failures": "failed",
    "p99_ms": "99th percentile, ms|.0f",
    "probe_ms": "slowest probe, ms|.0f",
}
SETTINGS = {"head_s": 2, "body_s": 3, "max_image_pixels": 32_000_000}
"""The embedded model and the defaults, but slow senders are cut off sooner."""

_SENDERS = 4
_BUDGET = 10**7
_CALM_S = 5.0
_ENDED_S = 60.0
_TOGETHER = 500
_TICKS = os.sysconf("SC_CLK_TCK")


class Attack(NamedTuple):
    """One row: what may answer it, and what throws it until a moment.

    Attributes:
        spent: is it by a key without budget?
        paid: may the attacker's key be charged for it?
    """

    name: str
    codes: frozenset[str]
    throw: Callable[[Target, float], Heard]
    spent: bool = False
    paid: bool = False


def attacks() -> list[Attack]:
    """Every single request, thrown again and again, and every flood."""
    busy = {"rate_limited", "overloaded"}
    single = [
        Attack(bomb.name, frozenset({bomb.code} | busy), partial(_again, bomb=bomb))
        for bomb in [*bombs.bombs(), *bombs.costly()]
    ]
    crowds = [
        Attack(flood.name, flood.codes, flood.throw, spent=flood.spent, paid=not flood.spent)
        for flood in floods()
    ]
    return [*single, *crowds]


def _again(target: Target, until: float, *, bomb: bombs.Bomb) -> Heard:
    return repeated(partial(bomb.throw, target), until, senders=_SENDERS)


class Field:
    """A server under attack, the attacker's keys on it, and the onlooker; a context manager."""

    def __init__(self, store: Faulty, folder: Path) -> None:
        self._store = store
        self._folder = folder
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        try:
            self._begin()
        except BaseException:
            self._stack.close()
            raise
        return self

    def _begin(self) -> None:
        probes = free_port()
        self._server: Server = self._stack.enter_context(
            serving(self._folder, database_url=self._store.url, metrics_port=probes, **SETTINGS)
        )
        port, pictures = self._server.port, [noise_png(seed) for seed in range(2)]
        rich, self._spent, other = (
            self._server.mint(queries, owner)
            for queries, owner in [(_BUDGET, "attacker"), (0, "attacker"), (_BUDGET, "onlooker")]
        )
        (card,) = _get(port, rich, "/v1/models")["models"]
        image_set = Wire(port, rich).image_set(pictures)
        shape = 4, int(card["context_width"])
        large_set = Wire(port, rich).image_set([noise_png(seed) for seed in range(PICTURES)])
        self._target = Target(port, rich, image_set, card["id"], shape, large_set)
        self._fill_ledger(_get(port, rich, "/v1/key")["id"])
        seen_set = Wire(port, other).image_set(pictures[:1])
        self._onlooker = self._stack.enter_context(
            Onlooker([port], other, seen_set, probe_port=probes)
        )
        cpu = self._cpu_s()
        time.sleep(_CALM_S)
        self._calm = (self._cpu_s() - cpu) / _CALM_S

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def play(self, attack: Attack, seconds: float) -> Row:
        """Throw an attack for so long; its row."""
        key = self._spent if attack.spent else self._target.key
        used = self._used(key)
        began, cpu = time.monotonic(), self._cpu_s()
        with risen_mb(self._server.pid) as risen:
            heard = attack.throw(self._target._replace(key=key), began + seconds)
        ended = time.monotonic()
        spent_s = self._cpu_s() - cpu - self._calm * (ended - began)
        seen = self._onlooker.during(began, ended)
        wrong = [f"answers {word}" for word in sorted(set(heard) - attack.codes)]
        wrong += [f"another owner got {code}" for code in seen.codes]
        wrong += [] if seen.good else [f"another owner's p99 {seen.p99_s:.2f} s"]
        if seen.slowest_probe_s > PROBE_S:
            wrong.append(f"a probe took {1000 * seen.slowest_probe_s:.0f} ms")
        if not attack.paid and self._used(key) != used:
            wrong.append("the key was charged")
        return {
            "store": self._store.name,
            "attack": attack.name,
            "answers": ", ".join(f"{count:,} {word}" for word, count in heard.most_common()),
            "seconds": ended - began,
            "peak_mb": risen[0],
            "cpu_ms": 1000 * max(0.0, spent_s) / max(1, heard.total() - heard["open"]),
            "purchases": seen.purchases,
            "failures": seen.failures,
            "p99_ms": 1000 * seen.p99_s,
            "probe_ms": 1000 * seen.slowest_probe_s,
            "wrong": wrong,
        }

    def balance(self) -> None:
        """The server's own audit, which raises where the books do not balance."""
        self._server.totals()

    def _cpu_s(self) -> float:
        """CPU that the server has used so far, all threads."""
        fields = Path(f"/proc/{self._server.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / _TICKS

    def _used(self, key: str) -> int:
        return int(_get(self._target.port, key, "/v1/key")["budgets"]["queries"]["used"])

    def _fill_ledger(self, key_id: str) -> None:
        """A page of lines of the ledger: sold by the meter itself, many at a time."""
        store = Store(self._store.url)
        meter = Meter(store, reply_bytes=0)
        cost = Counters(queries=1, calls=1, logit_vectors=2, texts=2, logits=4)
        entry = LedgerEntry(self._target.model, self._target.image_set, 1, 2, 2)
        for _ in range(0, EVENTS, _TOGETHER):
            with store.together():
                for _ in range(_TOGETHER):
                    name = fresh_name()
                    hold = meter.reserve(key_id, name, fingerprint=name, cost=cost, hold_s=60)
                    if isinstance(hold, Hold):
                        meter.settle(hold, b"", entry=entry)
        store.close()


def _get(port: int, key: str, path: str) -> dict[str, Any]:
    """Ask until it is answered: requests of the attack before may still be in the key's share."""
    end = time.monotonic() + _ENDED_S
    while True:
        wire = Wire(port, key)
        try:
            found: dict[str, Any] = json.loads(wire.read("GET", path))
        except OSError:
            if time.monotonic() > end:
                raise
            time.sleep(_CALM_S / 5)
        else:
            return found
        finally:
            wire.hang_up()


def campaign(name: str, chosen: Sequence[Attack], seconds: float) -> list[Row]:
    """Throw attacks at a server on one store, one after the other; a row for each."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as place:
        folder = Path(place)
        store: Faulty = SqliteFile(folder) if name == "sqlite" else Postgres()
        rows = []
        try:
            with Field(store, folder) as field:
                for attack in chosen:
                    rows.append(field.play(attack, seconds))
                    print(_progress(rows[-1]), file=sys.stderr, flush=True)
                field.balance()
        finally:
            store.close()
        return rows


def _progress(row: Row) -> str:
    line = (
        f"{row['store']:8} {row['attack'][:44]:44} p99 {row['p99_ms']:5.0f} ms, "
        f"probe {row['probe_ms']:4.0f} ms, {row['cpu_ms']:7.1f} ms a request, {row['answers']}"
    )
    return "\n    ".join([line, *row["wrong"]])


def main() -> None:
    """Throw every attack at servers on both stores, print the table; exit 1 if one did harm."""
    options = options_of(__doc__, store="both", only="", seconds=3.0)
    stores = ["sqlite", "postgres"] if options.store == "both" else [options.store]
    chosen = [attack for attack in attacks() if options.only in attack.name]
    if not chosen or not set(stores) <= {"sqlite", "postgres"}:
        raise SystemExit("--store sqlite, postgres or both; --only a part of an attack's name")
    about: dict[str, Any] = describe()
    rows = [row for store in stores for row in campaign(store, chosen, options.seconds)]
    print_heading(f"Attacks, {options.seconds:g} s each", about)
    print_table(rows, COLUMNS)
    harmful = [row for row in rows if row["wrong"]]
    for row in harmful:
        print(f"{row['store']}, {row['attack']}: {'; '.join(row['wrong'])}")
    write_json(options.json, about, rows=rows, good=not harmful)
    sys.exit(bool(harmful))


if __name__ == "__main__":
    main()
