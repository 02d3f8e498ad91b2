"""Two replicas in any order of reserve, settle, release, expire, crash, replay and clock jump.

All that can be seen of them agrees with a plain model, after every step, on both stores. A test run
takes some 1,800 steps; run as a program, this file takes as many as it is given, on each store:

    python -m tests.server.metering.test_meter_machine 10000
"""

import hashlib
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, TypeVar

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    initialize,
    invariant,
    multiple,
    rule,
    run_state_machine_as_test,
)

from craft_server.accounts.identity import Key
from craft_server.accounts.keys import Keys
from craft_server.db.store import Store
from craft_server.db.tables import LIMITS
from craft_server.metering.meter import DAY_S, Hold, LedgerEntry, Meter, Replay
from craft_shared.errors import Code, Refusal
from craft_shared.messages import Budgets, Counters
from tests.support.databases import drop_postgres, fresh_postgres

pytestmark = pytest.mark.slow

T = TypeVar("T")

START_US = 1_700_000_000_000_000
SECOND_US = 1_000_000
FUTURE_S = 60
LINE = LedgerEntry("tiny", "set_1", prompts=1, images=1, classes=1)

REPLICAS = st.sampled_from("ab")
IDEMPOTENCY_KEYS = st.sampled_from("abcdef")
FINGERPRINTS = st.sampled_from(["f", "f", "f", "g"])
COSTS = st.builds(
    lambda queries, vectors, texts, each: Counters(
        queries=queries, calls=1, logit_vectors=vectors, texts=texts, logits=texts * each
    ),
    st.integers(0, 6),
    st.integers(0, 12),
    st.integers(0, 12),
    st.integers(1, 3),
)
Limits = dict[str, int | None]
LIMITED = st.fixed_dictionaries(
    {"queries": st.integers(0, 12)}
    | {name: st.none() | st.integers(0, 24) for name in LIMITS if name != "queries"}
)
"""The limits of a key; None is no limit."""


@dataclass
class Request:
    """What the model knows of one Idempotency-Key."""

    fingerprint: str
    cost: Counters
    state: str = "held"
    attempt: int = 1
    holder: str = ""
    held_at: int = 0
    expires_at: int = 0
    settled_at: int = 0
    forgotten: bool = False
    """Its reply is stored no longer."""


@dataclass
class Model:
    """The meter as a dictionary: the sums are taken anew each time they are asked for."""

    all_limits: Limits
    requests: dict[str, Request] = field(default_factory=dict)

    def spent(self, counter: str, *states: str) -> int:
        chosen = (one for one in self.requests.values() if one.state in states)
        return sum(getattr(one.cost, counter) for one in chosen)

    def limits(self) -> dict[str, int]:
        return {name: limit for name, limit in self.all_limits.items() if limit is not None}

    def fits(self, cost: Counters, *states: str) -> bool:
        return all(
            getattr(cost, counter) + self.spent(counter, *states) <= limit
            for counter, limit in self.limits().items()
        )

    def reserve(self, idempotency_key: str, wanted: Request) -> str:
        """Name of the outcome: hold, replay, or the code of a refusal."""
        known = self.requests.get(idempotency_key)
        if known and known.fingerprint != wanted.fingerprint:
            return Code.IDEMPOTENCY_KEY_REUSED
        if known and known.state == "settled":
            dearer = known.forgotten and 0 < known.cost.logits < wanted.cost.logits
            return Code.IDEMPOTENCY_KEY_REUSED if dearer else "replay"
        if known and known.state == "held":
            return Code.REQUEST_IN_PROGRESS
        if not self.fits(wanted.cost, "settled"):
            return Code.BUDGET_EXHAUSTED
        if not self.fits(wanted.cost, "settled", "held"):
            return Code.BUDGET_HELD
        wanted.attempt = known.attempt + 1 if known else 1
        self.requests[idempotency_key] = wanted
        return "hold"

    def settle(self, hold: Hold, now: int) -> str:
        request = self.requests[hold.idempotency_key]
        mine = request.attempt == hold.attempt
        late = mine and request.state == "expired" and self.fits(request.cost, "settled", "held")
        if (mine and request.state == "held") or late:
            request.state, request.settled_at = "settled", now
        return "paid" if request.state == "settled" else Code.DEADLINE_EXCEEDED

    def release(self, hold: Hold) -> None:
        request = self.requests[hold.idempotency_key]
        if request.attempt == hold.attempt and request.state == "held":
            request.state = "released"

    def expire(self, now: int) -> int:
        stale = [
            one
            for one in self.requests.values()
            if one.state == "held"
            and (one.expires_at <= now or one.held_at > now + FUTURE_S * SECOND_US)
        ]
        for one in stale:
            one.state = "expired"
        for one in self.requests.values():
            old = one.state == "settled" and one.settled_at <= now - DAY_S * SECOND_US
            one.forgotten = one.forgotten or old
        return len(stale)

    def recover(self, holder: str) -> int:
        mine = [
            one for one in self.requests.values() if (one.state, one.holder) == ("held", holder)
        ]
        for one in mine:
            one.state = "expired"
        return len(mine)


def outcome(call: Callable[[], T]) -> T | Code:
    """What a call gives, or the code that it is refused with."""
    try:
        return call()
    except Refusal as refusal:
        return refusal.code


class MeterMachine(RuleBasedStateMachine):
    """Drives two meters on one store and the model alike and compares all that can be seen."""

    steps: ClassVar[int] = 0
    """How many were taken by all machines of this class."""

    holds = Bundle("holds")

    @initialize(limits=LIMITED)
    def open(self, limits: Limits) -> None:
        self.folder = tempfile.TemporaryDirectory()
        self.url = self.new_url()
        self.now = START_US
        self.stores: dict[str, Store] = {}
        self.meters: dict[str, Meter] = {}
        for replica in "ab":
            self._start(replica)
        given = {f"{name}_limit": limit for name, limit in limits.items()}
        self.key_id = Keys(self.stores["a"]).create("lab", **given).key.id
        self.model = Model(limits)

    def new_url(self) -> str:
        return f"sqlite:///{Path(self.folder.name) / 'craft.db'}"

    def drop(self) -> None:
        self.folder.cleanup()

    def teardown(self) -> None:
        if hasattr(self, "stores"):
            for store in self.stores.values():
                store.close()
            self.drop()

    def _start(self, replica: str) -> None:
        self.stores[replica] = Store(self.url)
        self.meters[replica] = Meter(self.stores[replica], clock=lambda: self.now, holder=replica)

    @rule(
        target=holds,
        replica=REPLICAS,
        idempotency_key=IDEMPOTENCY_KEYS,
        fingerprint=FINGERPRINTS,
        cost=COSTS,
        hold_s=st.integers(0, 100),
    )
    def reserve(
        self, replica: str, idempotency_key: str, fingerprint: str, cost: Counters, hold_s: int
    ):
        wanted = Request(
            fingerprint,
            cost,
            holder=replica,
            held_at=self.now,
            expires_at=self.now + hold_s * SECOND_US,
        )
        expected = self.model.reserve(idempotency_key, wanted)
        got = outcome(
            lambda: self.meters[replica].reserve(
                self.key_id, idempotency_key, fingerprint=fingerprint, cost=cost, hold_s=hold_s
            )
        )
        if isinstance(got, Hold):
            assert expected == "hold"
            assert got.attempt == self.model.requests[idempotency_key].attempt
            return got
        if isinstance(got, Replay):
            self._check_replay(idempotency_key, got)
        assert expected == ("replay" if isinstance(got, Replay) else got)
        return multiple()

    def _check_replay(self, idempotency_key: str, replay: Replay) -> None:
        assert replay.cost == self.model.requests[idempotency_key].cost
        assert replay.reply_sha256 == hashlib.sha256(idempotency_key.encode()).hexdigest()
        forgotten = self.model.requests[idempotency_key].forgotten
        assert replay.reply == (None if forgotten else idempotency_key.encode())

    def _settle(self, replica: str, hold: Hold) -> None:
        expected = self.model.settle(hold, self.now)
        got = outcome(
            lambda: self.meters[replica].settle(hold, hold.idempotency_key.encode(), entry=LINE)
        )
        assert expected == ("paid" if isinstance(got, Budgets) else got)

    @rule(replica=REPLICAS, hold=consumes(holds))
    def settle(self, replica: str, hold: Hold) -> None:
        self._settle(replica, hold)

    @rule(replica=REPLICAS, hold=holds)
    def settle_and_come_back(self, replica: str, hold: Hold) -> None:
        self._settle(replica, hold)

    @rule(replica=REPLICAS, hold=holds)
    def release(self, replica: str, hold: Hold) -> None:
        self.model.release(hold)
        self.meters[replica].release(hold)

    @rule(replica=REPLICAS)
    def expire(self, replica: str) -> None:
        assert self.meters[replica].expire() == self.model.expire(self.now)

    @rule(seconds=st.integers(1, 120) | st.sampled_from([-(10**6), -120, -1, 90_000, 10**8]))
    def jump(self, seconds: int) -> None:
        self.now += seconds * SECOND_US

    def _crash(self, replica: str) -> None:
        self.stores[replica].close()
        self._start(replica)

    @rule(replica=REPLICAS)
    def crash(self, replica: str) -> None:
        """What it held stays held: until it expires, or a restart."""
        self._crash(replica)

    @rule(replica=REPLICAS)
    def restart(self, replica: str) -> None:
        self._crash(replica)
        assert self.meters[replica].recover(replica) == self.model.recover(replica)

    @rule(limits=LIMITED)
    def set_budget(self, limits: Limits) -> None:
        possible = all(
            limit is None or self.model.spent(name, "settled", "held") <= limit
            for name, limit in limits.items()
        )
        wanted = {
            f"{name}_limit": "unlimited" if limit is None else limit
            for name, limit in limits.items()
        }
        keys = Keys(self.stores["a"])
        got = outcome(lambda: keys.change(self.key_id, **wanted))
        assert isinstance(got, Key) if possible else got == Code.INVALID_REQUEST
        if possible:
            self.model.all_limits = limits

    @invariant()
    def a_step_was_taken(self) -> None:
        type(self).steps += 1

    @invariant()
    def counters_are_those_of_the_model_and_within_the_limits(self) -> None:
        budgets = self.meters["a"].budgets(self.key_id)
        assert {name for name, budget in budgets if budget is not None} == {*self.model.limits()}
        for counter, limit in self.model.limits().items():
            budget = getattr(budgets, counter)
            assert budget.limit == limit
            assert budget.used == self.model.spent(counter, "settled")
            assert budget.held == self.model.spent(counter, "held")
            assert budget.remaining == limit - budget.used - budget.held >= 0

    @invariant()
    def the_ledger_has_every_sale_once(self) -> None:
        meter = self.meters["b"]
        assert meter.audit() == []
        sold = [event.request_id for event in meter.events(self.key_id).events]
        requests = self.model.requests.items()
        assert sorted(sold) == sorted(key for key, one in requests if one.state == "settled")


class PostgresMachine(MeterMachine):
    """The same on Postgres, a new database for every example."""

    steps: ClassVar[int] = 0

    def new_url(self) -> str:
        return fresh_postgres()

    def drop(self) -> None:
        drop_postgres(self.url)
        super().drop()


TestPostgresMachine = PostgresMachine.TestCase
TestPostgresMachine.settings = settings(max_examples=10, stateful_step_count=30, deadline=None)

TestMeterMachine = MeterMachine.TestCase
TestMeterMachine.settings = settings(max_examples=30, stateful_step_count=30, deadline=None)


def run_long(machine: type[MeterMachine], name: str, steps: int) -> None:
    """Take so many steps at least; a finding is raised, with the shortest way to it."""
    long = settings(
        max_examples=40,
        stateful_step_count=50,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    while machine.steps < steps:
        run_state_machine_as_test(machine, settings=long)
        print(f"{name}: {machine.steps:,} steps, 0 findings", flush=True)


if __name__ == "__main__":
    for machine, name in ((MeterMachine, "sqlite"), (PostgresMachine, "postgres")):
        run_long(machine, name, int(sys.argv[1]))
