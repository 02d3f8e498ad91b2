"""Real processes on one database: no overshoot, no double or lost charge, killed or not.

The workers are this very file, run as a program with the arguments of `work`.
"""

import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from craft_server.accounts.keys import Keys
from craft_server.db.store import Store, wall_clock
from craft_server.db.tables import LIMITS
from craft_server.metering.meter import Hold, LedgerEntry, Meter, Replay
from craft_shared.errors import Code, Refusal
from craft_shared.messages import Counters

pytestmark = pytest.mark.slow

PROCESSES = 8
REQUESTS = 150
BUDGET = 200
WORTH = {"queries": 1, "logit_vectors": 10, "texts": 3, "logits": 30}
"""What a query costs in each counter."""
LINE = LedgerEntry("tiny", "set_1", prompts=1, images=10, classes=1)


def price(number: int) -> Counters:
    """Requests 0, 1, 2, ... cost 1, 2, 3, 1, 2, 3, ... queries, and what these are worth."""
    queries = 1 + number % 3
    return Counters(calls=1, **{name: queries * worth for name, worth in WORTH.items()})


# --- in the workers -----------------------------------------------------------------------------


def race(meter: Meter, key_id: str, chance: random.Random) -> None:
    """Ask for every request once, in an order of its own; say what was settled."""
    for number in chance.sample(range(REQUESTS), REQUESTS):
        buy(meter, key_id, f"request-{number}", price(number), chance)


def loop(meter: Meter, key_id: str, chance: random.Random) -> None:
    """Buy without end: some requests of its own, some that others want as well."""
    while True:
        number = chance.randrange(10**6)
        shared = chance.random() < 0.3
        buy(meter, key_id, f"shared-{number % 50}" if shared else f"own-{number}", price(0), chance)


def buy(
    meter: Meter, key_id: str, idempotency_key: str, cost: Counters, chance: random.Random
) -> None:
    try:
        hold = meter.reserve(key_id, idempotency_key, fingerprint="f", cost=cost, hold_s=600)
    except Refusal as refusal:
        report(refusal.code, idempotency_key)
        return
    if isinstance(hold, Replay):
        report("replay", idempotency_key)
    elif chance.random() < 0.1:
        meter.release(hold)
        report("released", idempotency_key)
    else:
        meter.settle(hold, idempotency_key.encode() * 100, entry=LINE)
        report("settled", idempotency_key)


def report(outcome: str, idempotency_key: str) -> None:
    """One line, handed to the operating system at once: it outlives a SIGKILL."""
    os.write(sys.stdout.fileno(), f"{outcome} {idempotency_key}\n".encode())


def work(role: str, url: str, key_id: str, seed: str) -> None:
    with closing(Store(url, busy_timeout_s=30)) as store:
        os.write(sys.stdout.fileno(), b"ready\n")
        sys.stdin.readline()
        {"race": race, "loop": loop}[role](Meter(store), key_id, random.Random(seed))


# --- in the test --------------------------------------------------------------------------------


class Worker:
    """A process that runs `work`; what it reports goes to a file."""

    def __init__(self, folder: Path, *arguments: str) -> None:
        self.path = folder / f"report-{'-'.join(arguments[::3])}"
        command = [sys.executable, "-W", "error", __file__, *arguments]
        with self.path.open("wb") as file:
            self.process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=file, stderr=subprocess.PIPE
            )

    def wait_ready(self) -> None:
        while not self.path.read_bytes():
            assert self.process.poll() is None
            time.sleep(0.01)

    def go(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(b"go\n")
        self.process.stdin.flush()

    def finish(self) -> bytes:
        """Wait for the end; what it complained of."""
        return self.process.communicate(timeout=60)[1]

    @property
    def reports(self) -> list[list[str]]:
        return [line.split() for line in self.path.read_text().splitlines()[1:]]


@contextmanager
def workers(
    folder: Path, role: str, url: str, *, key_id: str, count: int
) -> Iterator[list[Worker]]:
    """Workers that were all started together."""
    crew = [Worker(folder, role, url, key_id, str(seed)) for seed in range(count)]
    try:
        for worker in crew:
            worker.wait_ready()
        for worker in crew:
            worker.go()
        yield crew
    finally:
        for worker in crew:
            worker.process.kill()
            worker.process.communicate()


@pytest.fixture
def store(database_url: str) -> Iterator[Store]:
    store = Store(database_url, busy_timeout_s=30)
    yield store
    store.close()


def sold(meter: Meter, key_id: str) -> list[str]:
    return [event.request_id for event in meter.events(key_id, limit=10**6).events]


@pytest.mark.parametrize(
    "tight",
    [name if name == "queries" else pytest.param(name, marks=pytest.mark.long) for name in LIMITS],
)
def test_eight_processes_sell_the_whole_budget_and_nothing_more(
    tmp_path: Path, store: Store, database_url: str, tight: str
):
    """Whichever limit is the tight one; the others have room for half as much again."""
    meter = Meter(store)
    limits = {
        f"{name}_limit": BUDGET * worth * (2 if name == tight else 3) // 2
        for name, worth in WORTH.items()
    }
    key_id = Keys(store).create("lab", **limits).key.id
    with workers(tmp_path, "race", database_url, key_id=key_id, count=PROCESSES) as crew:
        complaints = [worker.finish() for worker in crew]
    assert complaints == [b""] * PROCESSES
    outcomes = Counter(outcome for worker in crew for outcome, _ in worker.reports)
    acknowledged = [
        key for worker in crew for outcome, key in worker.reports if outcome == "settled"
    ]
    assert sum(outcomes.values()) == PROCESSES * REQUESTS
    assert outcomes["replay"] > 0
    assert outcomes[Code.BUDGET_EXHAUSTED] > 0

    assert meter.audit() == []
    for name, budget in meter.budgets(key_id):
        assert (budget.used, budget.held) == (BUDGET * WORTH[name], 0)
        assert (budget.remaining == 0) == (name == tight)
    assert sorted(acknowledged) == sorted(sold(meter, key_id))
    assert len(set(acknowledged)) == len(acknowledged)
    prices = (price(int(key.removeprefix("request-"))) for key in acknowledged)
    assert sum(cost.queries for cost in prices) == BUDGET


def test_processes_killed_in_the_middle_lose_no_charge_and_leave_no_debt(
    tmp_path: Path, store: Store, database_url: str
):
    key_id = Keys(store).create("lab", 10**6).key.id
    acknowledged: set[str] = set()
    for seconds in (0.3, 0.7):
        with workers(tmp_path, "loop", database_url, key_id=key_id, count=4) as crew:
            time.sleep(seconds)
            for worker in crew:
                worker.process.send_signal(signal.SIGKILL)
                assert worker.finish() == b""
        for worker in crew:
            acknowledged |= {key for outcome, key in worker.reports if outcome == "settled"}
        meter = Meter(store)
        lines = sold(meter, key_id)
        assert meter.audit() == []
        assert acknowledged <= set(lines)
        assert len(set(lines)) == len(lines)
        assert len(lines) <= len(acknowledged) + 2 * 4  # settled, but killed before saying so
        assert meter.budgets(key_id).queries.held <= 2 * 4

    later = Meter(store, clock=lambda: wall_clock() + 601 * 1_000_000)
    held = meter.budgets(key_id).queries.held
    assert later.expire() == held
    assert later.budgets(key_id).queries.held == 0
    assert later.audit() == []
    assert isinstance(later.reserve(key_id, "next", fingerprint="f", cost=price(0), hold_s=1), Hold)


@pytest.mark.parametrize("end", ["released", "expired"])
def test_of_many_retries_at_the_same_time_one_gets_the_hold(store: Store, end: str):
    now = [wall_clock()]
    meter = Meter(store, clock=lambda: now[0])
    key_id = Keys(store).create("lab", 8).key.id
    first = meter.reserve(key_id, "a", fingerprint="f", cost=price(0), hold_s=1)
    if end == "released":
        meter.release(first)
    else:
        now[0] += 1_000_000
        meter.expire()
    ready = threading.Barrier(8)

    def retry() -> str:
        ready.wait()
        try:
            meter.reserve(key_id, "a", fingerprint="f", cost=price(0), hold_s=1)
        except Refusal as refusal:
            return refusal.code
        return "held"

    with ThreadPoolExecutor(8) as pool:
        outcomes = Counter(done.result() for done in [pool.submit(retry) for _ in range(8)])
    assert outcomes == {"held": 1, Code.REQUEST_IN_PROGRESS: 7}
    assert meter.budgets(key_id).queries.held == 1


if __name__ == "__main__":
    work(*sys.argv[1:])
