"""A purchase is held, then charged once or given back; nothing is ever sold beyond a limit."""

import hashlib
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

import pytest
from sqlalchemy import Connection, exc, select, text, update

from craft_server.accounts.identity import MAY_BE_UNLIMITED
from craft_server.accounts.keys import Keys
from craft_server.db.store import Statement, Store, StoreDown, to_us
from craft_server.db.tables import LIMITS, keys, ledger, requests
from craft_server.metering.ledger import Discrepancy, Holds, LedgerFilter
from craft_server.metering.meter import Hold, LedgerEntry, Meter, Replay
from craft_shared.errors import Code, Refusal
from craft_shared.messages import Counters

START_US = to_us(datetime(2026, 1, 1, 12, tzinfo=UTC))
SECOND_US = 1_000_000
HOLD_S = 60.0
REPLY = b"logits"
LINE = LedgerEntry(
    "tiny", "set_1", prompts=1, images=2, classes=3, tag="test", run="r1", milliseconds=1500
)


class Clock:
    """Stands still until it is moved."""

    now_us = START_US

    def __call__(self) -> int:
        return self.now_us

    def jump(self, seconds: float) -> None:
        self.now_us += round(seconds * SECOND_US)


class Shop:
    """A meter, a key with 10 queries and 100 logit vectors, and the words of these tests."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.clock = Clock()
        self.keys = Keys(store)
        self.key_id = self.keys.create("lab", 10, logit_vectors_limit=100).key.id
        self.meter = Meter(store, clock=self.clock, reply_bytes=1000)

    def reserve(self, idempotency_key: str, queries: int = 1, **changes: object) -> Hold | Replay:
        options: dict[str, object] = {"fingerprint": "f", "cost": cost(queries), "hold_s": HOLD_S}
        options |= changes
        if isinstance(options["cost"], dict):
            options["cost"] = Counters(**options["cost"])
        return self.meter.reserve(self.key_id, idempotency_key, **options)

    def hold(self, idempotency_key: str, queries: int = 1, **changes: object) -> Hold:
        hold = self.reserve(idempotency_key, queries, **changes)
        assert isinstance(hold, Hold)
        return hold

    def settle(self, hold: Hold, reply: bytes = REPLY):
        return self.meter.settle(hold, reply, entry=LINE)

    def buy(self, idempotency_key: str, queries: int = 1, reply: bytes = REPLY) -> None:
        self.settle(self.hold(idempotency_key, queries), reply)

    def expire(self, hold: Hold) -> None:
        """Let a hold, and all made before it, run out."""
        self.clock.jump(HOLD_S)
        assert self.meter.expire() >= 1

    @property
    def used_held(self) -> tuple[int, int]:
        queries = self.meter.budgets(self.key_id).queries
        return queries.used, queries.held


def cost(queries: int, *, logit_vectors: int = 2, calls: int = 1) -> Counters:
    texts, logits = 3 * queries, 6 * queries
    return Counters(
        queries=queries, calls=calls, logit_vectors=logit_vectors, texts=texts, logits=logits
    )


def costs(each: int) -> dict[str, int]:
    """A price with the same number of everything, to be changed with `|`."""
    return dict.fromkeys(Counters.model_fields, each)


def limits(each: int) -> dict[str, int]:
    """The same limit on everything."""
    return {f"{name}_limit": each for name in LIMITS}


@pytest.fixture
def shop(database_url: str) -> Iterator[Shop]:
    store = Store(database_url)
    shop = Shop(store)
    yield shop
    assert shop.meter.audit() == []
    store.close()


@contextmanager
def refused(code: Code) -> Iterator[pytest.ExceptionInfo[Refusal]]:
    with pytest.raises(Refusal) as refusal:
        yield refusal
    assert refusal.value.code is code


# --- reserve ------------------------------------------------------------------------------------


def test_a_hold_takes_the_price_out_of_what_remains(shop: Shop):
    shop.hold("a", 4)
    budgets = shop.meter.budgets(shop.key_id)
    assert budgets.queries.model_dump() == {"limit": 10, "used": 0, "held": 4, "remaining": 6}
    assert budgets.logit_vectors is not None
    assert budgets.logit_vectors.model_dump() == {
        "limit": 100,
        "used": 0,
        "held": 2,
        "remaining": 98,
    }


def test_a_request_that_is_held_is_in_progress(shop: Shop):
    shop.hold("a")
    with refused(Code.REQUEST_IN_PROGRESS) as refusal:
        shop.reserve("a")
    assert refusal.value.retry_after_s == 1
    assert shop.used_held == (0, 1)


@pytest.mark.parametrize("end", ["held", "settled", "released", "expired"])
def test_a_key_of_another_request_is_refused_whatever_became_of_that(shop: Shop, end: str):
    hold = shop.hold("a")
    if end == "settled":
        shop.settle(hold)
    elif end == "released":
        shop.meter.release(hold)
    elif end == "expired":
        shop.expire(hold)
    before = shop.used_held
    with refused(Code.IDEMPOTENCY_KEY_REUSED):
        shop.reserve("a", fingerprint="other")
    assert shop.used_held == before


def test_the_last_query_can_be_bought_and_the_next_cannot(shop: Shop):
    shop.buy("a", 10)
    with refused(Code.BUDGET_EXHAUSTED) as refusal:
        shop.reserve("b", 1)
    assert refusal.value.param == "queries"
    assert refusal.value.retry_after_s is None
    assert "needs 1 queries, 0 remain: limit 10, used 10, held 0" in refusal.value.detail


def test_what_would_never_fit_is_exhausted_even_while_others_hold(shop: Shop):
    shop.hold("a", 10)
    with refused(Code.BUDGET_EXHAUSTED):
        shop.reserve("b", 11)


def test_what_fits_once_the_holds_are_gone_may_be_tried_again(shop: Shop):
    hold = shop.hold("a", 8)
    with refused(Code.BUDGET_HELD) as refusal:
        shop.reserve("b", 3)
    assert (refusal.value.status, refusal.value.param) == (429, "queries")
    assert refusal.value.retry_after_s == 1
    assert "needs 3 queries, 2 remain: limit 10, used 0, held 8" in refusal.value.detail
    shop.meter.release(hold)
    shop.hold("b", 3)


@pytest.mark.parametrize("counter", LIMITS)
def test_every_counter_has_its_own_limit(shop: Shop, counter: str):
    shop.keys.change(shop.key_id, **limits(100) | {f"{counter}_limit": 10})
    with refused(Code.BUDGET_EXHAUSTED) as exhausted:
        shop.reserve("a", cost=costs(1) | {counter: 11})
    shop.hold("b", cost=costs(1) | {counter: 6})
    with refused(Code.BUDGET_HELD) as held:
        shop.reserve("c", cost=costs(1) | {counter: 6})
    assert exhausted.value.param == held.value.param == counter
    assert f"needs 6 {counter}, 4 remain: limit 10, used 0, held 6" in held.value.detail


@pytest.mark.parametrize("counter", MAY_BE_UNLIMITED)
def test_without_a_limit_all_is_counted_just_the_same(shop: Shop, counter: str):
    name = counter.removesuffix("_limit")
    shop.keys.change(shop.key_id, **{counter: "unlimited"})
    budgets = shop.settle(shop.hold("a", cost=costs(1) | {name: 10**12}))
    assert getattr(budgets, name) is None
    assert getattr(shop.meter.totals()[shop.key_id], name) == 10**12
    with refused(Code.INVALID_REQUEST):  # a limit that is set later starts from the truth
        shop.keys.change(shop.key_id, **{counter: 10**12 - 1})


def test_a_purchase_is_five_statements_whatever_is_limited(shop: Shop, monkeypatch):
    shop.keys.change(shop.key_id, **limits(100))
    ran: list[Statement] = []
    first = Statement.first
    monkeypatch.setattr(
        Statement, "first", lambda self, *given: ran.append(self) or first(self, *given)
    )
    shop.buy("a")
    assert len(ran) == 5


def test_a_refused_reservation_leaves_no_request_behind(shop: Shop):
    with refused(Code.BUDGET_EXHAUSTED):
        shop.reserve("a", 11)
    assert shop.hold("a", 1, fingerprint="other").attempt == 1


def test_an_unknown_key_holds_nothing(shop: Shop):
    with pytest.raises(Exception, match=r"(?i)foreign key"):  # not refused as an outage
        shop.meter.reserve("key_0", "a", fingerprint="f", cost=cost(1), hold_s=1)


def test_keys_do_not_share_idempotency_keys(shop: Shop):
    shop.buy("a")
    other = shop.keys.create("lab", 5).key.id
    hold = shop.meter.reserve(other, "a", fingerprint="g", cost=cost(1), hold_s=1)
    assert isinstance(hold, Hold)


# --- settle -------------------------------------------------------------------------------------


def test_settling_charges_what_was_held_and_says_what_is_left(shop: Shop):
    shop.hold("other", 2)
    budgets = shop.settle(shop.hold("a", 3))
    assert budgets == shop.meter.budgets(shop.key_id)
    assert budgets.queries.model_dump() == {"limit": 10, "used": 3, "held": 2, "remaining": 5}


def test_settling_writes_all_that_the_ledger_says(shop: Shop):
    shop.buy("a", 3)
    (event,) = shop.meter.events(shop.key_id).events
    assert event.model_dump(exclude={"id"}) == {
        "at": datetime(2026, 1, 1, 12, tzinfo=UTC),
        "request_id": "a",
        "model": "tiny",
        "image_set": "set_1",
        "prompts": 1,
        "images": 2,
        "classes": 3,
        "queries": 3,
        "logit_vectors": 2,
        "texts": 9,
        "logits": 18,
        "tag": "test",
        "run": "r1",
        "seconds": 1.5,
    }


def test_settling_twice_charges_once(shop: Shop):
    hold = shop.hold("a", 3)
    assert shop.settle(hold) == shop.settle(hold)
    assert shop.used_held == (3, 0)
    assert len(shop.meter.events(shop.key_id).events) == 1


def test_settling_what_was_released_delivers_nothing(shop: Shop):
    hold = shop.hold("a")
    shop.meter.release(hold)
    with refused(Code.DEADLINE_EXCEEDED):
        shop.settle(hold)
    assert shop.used_held == (0, 0)


def test_settling_an_expired_hold_charges_it_if_there_is_still_room(shop: Shop):
    hold = shop.hold("a", 3)
    shop.expire(hold)
    shop.settle(hold)
    assert shop.used_held == (3, 0)
    assert isinstance(shop.reserve("a", 3), Replay)


def test_settling_an_expired_hold_without_room_delivers_and_charges_nothing(shop: Shop):
    late = shop.hold("late", 6)
    shop.expire(late)
    shop.buy("b", 6)
    with refused(Code.DEADLINE_EXCEEDED) as refusal:
        shop.settle(late)
    assert refusal.value.retry_after_s is not None
    assert shop.used_held == (6, 0)
    with refused(Code.BUDGET_EXHAUSTED):
        shop.reserve("late", 6)


def test_an_old_holder_can_neither_settle_nor_release_a_newer_hold(shop: Shop):
    old = shop.hold("a")
    shop.expire(old)
    new = shop.hold("a")
    assert (old.attempt, new.attempt) == (1, 2)
    with refused(Code.DEADLINE_EXCEEDED):
        shop.settle(old)
    shop.meter.release(old)
    assert shop.used_held == (0, 1)
    shop.settle(new)
    assert shop.used_held == (1, 0)


def test_an_old_holder_may_deliver_what_its_retry_has_paid_for(shop: Shop):
    old = shop.hold("a")
    shop.expire(old)
    shop.settle(shop.hold("a"))
    assert shop.settle(old).queries.used == 1


def test_a_revoked_key_still_pays_for_what_is_in_flight(shop: Shop):
    hold = shop.hold("a", 2)
    shop.keys.revoke(shop.key_id)
    assert shop.settle(hold).queries.used == 2


# --- replay -------------------------------------------------------------------------------------


def test_asking_again_for_what_was_bought_is_free(shop: Shop):
    shop.buy("a", 10)
    digest = hashlib.sha256(REPLY).hexdigest()
    assert shop.reserve("a", 10) == Replay("a", REPLY, digest, cost(10))
    assert shop.used_held == (10, 0)


@pytest.mark.parametrize(("size", "stored"), [(1000, True), (1001, False)])
def test_replies_up_to_the_limit_are_stored_and_all_are_remembered(
    shop: Shop, size: int, stored: bool
):
    reply = b"x" * size
    shop.buy("a", reply=reply)
    replay = shop.reserve("a")
    assert isinstance(replay, Replay)
    assert replay.reply == (reply if stored else None)
    assert replay.reply_sha256 == hashlib.sha256(reply).hexdigest()


def test_a_stored_reply_is_dropped_after_a_day_but_never_sold_again(shop: Shop):
    shop.buy("a")
    shop.clock.jump(24 * 3600 - 1)
    shop.meter.expire()
    before = shop.reserve("a")
    shop.clock.jump(1)
    shop.meter.expire()
    after = shop.reserve("a")
    assert isinstance(before, Replay)
    assert isinstance(after, Replay)
    assert (before.reply, after.reply) == (REPLY, None)
    assert before.reply_sha256 == after.reply_sha256
    assert shop.used_held == (1, 0)


# --- release and expire -------------------------------------------------------------------------


def test_a_released_hold_costs_nothing_and_the_request_may_be_tried_again(shop: Shop):
    hold = shop.hold("a", 10)
    shop.meter.release(hold)
    shop.meter.release(hold)
    assert shop.used_held == (0, 0)
    assert shop.hold("a", 10).attempt == 2


def test_releasing_what_is_settled_changes_nothing(shop: Shop):
    hold = shop.hold("a", 3)
    shop.settle(hold)
    shop.meter.release(hold)
    assert shop.used_held == (3, 0)


def test_a_retry_after_a_release_holds_its_own_price(shop: Shop):
    shop.meter.release(shop.hold("a", 3))
    shop.settle(shop.hold("a", 5))
    assert shop.used_held == (5, 0)


def test_a_hold_lasts_exactly_as_long_as_it_was_asked_for(shop: Shop):
    shop.hold("a", hold_s=10)
    shop.clock.jump(9.999_999)
    assert shop.meter.expire() == 0
    shop.clock.jump(0.000_001)
    assert shop.meter.expire() == 1
    assert shop.meter.expire() == 0
    assert shop.used_held == (0, 0)


def test_only_stale_holds_expire(shop: Shop):
    shop.hold("short", 1, hold_s=1)
    shop.hold("long", 2, hold_s=100)
    shop.clock.jump(50)
    assert shop.meter.expire() == 1
    assert shop.used_held == (0, 2)


def test_a_clock_that_is_set_forward_costs_nobody_anything(shop: Shop):
    hold = shop.hold("a", 2)
    shop.clock.jump(10 * 365 * 24 * 3600)
    assert shop.meter.expire() == 1
    assert shop.settle(hold).queries.used == 2


def test_a_hold_from_before_the_clock_was_set_back_does_not_last_for_ever(shop: Shop):
    shop.clock.jump(3600)
    shop.hold("a", hold_s=10)
    shop.clock.jump(-3600)
    assert shop.meter.expire() == 1
    assert shop.used_held == (0, 0)


def test_a_crash_before_settling_costs_nothing_once_the_hold_is_stale(shop: Shop):
    shop.hold("a", 4)
    restarted = Meter(shop.store, clock=shop.clock)
    assert restarted.expire() == 0
    assert shop.used_held == (0, 4)
    shop.clock.jump(HOLD_S)
    assert restarted.expire() == 1
    assert shop.used_held == (0, 0)


# --- the database has the last word -------------------------------------------------------------


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE keys SET queries_used = 11",
        "UPDATE keys SET queries_held = 9",
        "UPDATE keys SET queries_held = -1",
        "UPDATE keys SET logit_vectors_used = 101",
        "UPDATE keys SET logit_vectors_limit = 1",
        "UPDATE keys SET queries_limit = 1",
        "UPDATE requests SET state = 'free'",
        "UPDATE requests SET state = 'held'",
        "UPDATE requests SET queries = -1",
        "DELETE FROM requests",
        """INSERT INTO ledger SELECT id + 1, at, key_id, request_id, model, image_set, prompts,
           images, classes, queries, calls, logit_vectors, texts, logits, tag, run, milliseconds
           FROM ledger""",
    ],
)
def test_the_database_itself_refuses_to_be_inconsistent(shop: Shop, statement: str):
    shop.buy("a", 2)
    with pytest.raises(exc.IntegrityError), shop.store.write() as tx:
        tx.execute(text(statement))


def test_the_audit_names_the_counter_that_is_wrong(shop: Shop):
    shop.keys.change(shop.key_id, **limits(100))
    shop.buy("a", 2)
    shop.hold("b", 3)
    mine = keys.c.id == shop.key_id
    good = shop.meter.audit()
    columns = [f"{name}_{what}" for name in LIMITS for what in ("used", "held")]
    for wrong, column in enumerate(columns, 20):
        with shop.store.write() as tx:
            right = tx.execute(select(keys.c[column]).where(mine)).scalar_one()
            tx.execute(update(keys).where(mine).values({column: wrong}))
        assert shop.meter.audit() == [Discrepancy(shop.key_id, column, wrong, right)]
        with shop.store.write() as tx:
            tx.execute(update(keys).where(mine).values({column: right}))
    assert good == []


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_sweeps_and_sums_use_their_indexes(shop: Shop):
    plans = {
        "SELECT 1 FROM requests WHERE reply IS NOT NULL AND settled_at <= 1": "requests_replies",
        "SELECT 1 FROM requests WHERE state = 'held' AND key_id = 'k'": "requests_held",
        "SELECT * FROM ledger WHERE key_id = 'k' AND id > 3 ORDER BY id": "ledger_pages",
    }
    with shop.store.read() as tx:
        for query, index in plans.items():
            plan = tx.execute(text(f"EXPLAIN QUERY PLAN {query}")).all()
            assert any(index in row.detail for row in plan), plan
            assert not any("TEMP B-TREE" in row.detail for row in plan), plan


# --- what was sold ------------------------------------------------------------------------------


@pytest.fixture
def history(shop: Shop) -> Shop:
    """Purchases of 1, 2 and 3 queries at 12:00, 13:30 and 12:00 the next day."""
    for idempotency_key, queries, jump in (("a", 1, 5400), ("b", 2, 81000), ("c", 3, 0)):
        tag, run = ("", "") if idempotency_key == "b" else ("fit", f"run-{idempotency_key}")
        line = LedgerEntry("tiny", "set_1", 1, 2, 3, tag=tag, run=run)
        shop.meter.settle(shop.hold(idempotency_key, queries), REPLY, entry=line)
        shop.clock.jump(jump)
    return shop


def test_the_total_adds_up_all_four_counters(history: Shop):
    reply = history.meter.usage(history.key_id)
    assert reply.bucket == "total"
    assert [bucket.start for bucket in reply.buckets] == [None]
    assert reply.buckets[0].counters == cost(6, calls=3, logit_vectors=6)
    assert history.meter.totals() == {history.key_id: reply.buckets[0].counters}


@pytest.mark.parametrize(
    ("bucket", "expected"),
    [
        ("hour", {(1, 12): 1, (1, 13): 2, (2, 12): 3}),
        ("day", {(1, 0): 3, (2, 0): 3}),
    ],
)
def test_buckets_are_whole_hours_and_days_of_utc(history: Shop, bucket, expected):
    reply = history.meter.usage(history.key_id, bucket=bucket)
    found = {(one.start.day, one.start.hour): one.counters.queries for one in reply.buckets}
    assert found == expected
    assert all(one.start.tzinfo is UTC and one.start.minute == 0 for one in reply.buckets)


def test_usage_can_be_cut_by_time_and_tag(history: Shop):
    def queries(**cut: object) -> int:
        return history.meter.usage(history.key_id, LedgerFilter(**cut)).buckets[0].counters.queries

    noon, next_noon = datetime(2026, 1, 1, 12, tzinfo=UTC), datetime(2026, 1, 2, 12, tzinfo=UTC)
    assert queries(since=noon) == 6
    assert queries(until=next_noon) == 3
    assert queries(since=next_noon) == 3
    assert queries(until=noon) == 0
    assert queries(tag="fit") == 4
    assert queries(tag="") == 2
    assert queries(tag="nothing") == 0
    assert queries(run="run-c") == 3
    assert queries(run="run-c", until=next_noon) == 0


def test_usage_can_be_added_up_by_tag_and_by_run(history: Shop):
    def queries(**how: object) -> list[tuple]:
        reply = history.meter.usage(history.key_id, **how)
        return [
            (one.start and one.start.day, one.tag, one.run, one.counters.queries)
            for one in reply.buckets
        ]

    assert queries(by="tag") == [(None, "fit", None, 4), (None, "", None, 2)]
    assert queries(by="run") == [
        (None, None, "run-c", 3),
        (None, None, "", 2),
        (None, None, "run-a", 1),
    ]
    assert queries(bucket="day", by="tag") == [
        (1, "", None, 2),
        (1, "fit", None, 1),
        (2, "fit", None, 3),
    ]
    assert queries(where=LedgerFilter(tag="fit", run="run-a"), by="run") == [
        (None, None, "run-a", 1)
    ]
    assert history.meter.usage(history.key_id, by="run").by == "run"
    assert history.meter.totals(LedgerFilter(tag=""))[history.key_id].queries == 2


def test_the_holds_of_all_keys_are_counted_and_the_oldest_is_dated(shop: Shop):
    assert shop.meter.holds() == Holds(0, None)
    first = shop.clock()
    hold = shop.hold("a", 1)
    shop.clock.jump(5)
    shop.hold("b", 1)
    assert shop.meter.holds() == Holds(2, first)
    shop.meter.release(hold)
    assert shop.meter.holds() == Holds(1, first + 5_000_000)


def test_an_unused_key_has_bought_nothing(shop: Shop):
    nothing = cost(0, calls=0, logit_vectors=0)
    assert [one.counters for one in shop.meter.usage(shop.key_id).buckets] == [nothing]
    assert shop.meter.usage(shop.key_id, bucket="day").buckets == []
    assert shop.meter.totals() == {}


def test_the_ledger_comes_in_pages_without_gap_or_repeat(history: Shop):
    first = history.meter.events(history.key_id, limit=2)
    assert [event.request_id for event in first.events] == ["a", "b"]
    assert first.next is not None
    second = history.meter.events(history.key_id, after=first.next, limit=2)
    assert [event.request_id for event in second.events] == ["c"]
    assert second.next is None
    tagged = history.meter.events(history.key_id, LedgerFilter(tag="fit"), limit=2)
    assert [event.request_id for event in tagged.events] == ["a", "c"]
    assert tagged.next is None


def test_a_key_sees_its_own_usage_alone(history: Shop):
    other = history.keys.create("lab", 5).key.id
    assert history.meter.events(other).events == []
    assert history.meter.usage(other).buckets[0].counters.queries == 0


def test_the_budget_of_an_unknown_key_is_not_found(shop: Shop):
    with refused(Code.NOT_FOUND):
        shop.meter.budgets("key_0")


def test_the_state_of_every_request_is_kept(shop: Shop):
    shop.hold("held")
    shop.buy("settled")
    shop.meter.release(shop.hold("released"))
    shop.hold("expired", hold_s=0)
    shop.meter.expire()
    with shop.store.read() as tx:
        rows = tx.execute(select(requests.c.idempotency_key, requests.c.state)).all()
        lines = tx.execute(select(ledger.c.idempotency_key)).scalars().all()
    assert all(idempotency_key == state for idempotency_key, state in rows)
    assert (len(rows), lines) == (4, ["settled"])


def test_a_holder_that_restarts_gives_back_its_own_holds_and_no_others(shop):
    mine, other = (Meter(shop.store, clock=shop.clock, holder=name) for name in "ab")
    for meter in (mine, other):
        meter.reserve(shop.key_id, str(id(meter)), fingerprint="f", cost=cost(2), hold_s=HOLD_S)
    assert shop.used_held == (0, 4)
    assert Meter(shop.store, clock=shop.clock, holder="a").recover("a") == 1
    assert shop.used_held == (0, 2)
    assert mine.audit() == []


# --- what nobody heard of -----------------------------------------------------------------------


class Deaf(Store):
    """A store whose commits go through, or not, and are not heard of."""

    def __init__(self, url: str, *, committed: bool) -> None:
        super().__init__(url)
        self.deaf, self.committed = False, committed

    @contextmanager
    def write(self) -> Iterator[Connection]:
        with super().write() as tx:
            yield tx
            if self.deaf and not self.committed:
                raise StoreDown(Code.NOT_READY, "cut off")
        if self.deaf:
            raise StoreDown(Code.NOT_READY, "cut off")


@pytest.mark.parametrize("committed", [True, False])
def test_a_hold_whose_commit_was_cut_off_is_given_back(database_url: str, committed: bool):
    store = Deaf(database_url, committed=committed)
    shop = Shop(store)
    store.deaf = True
    with refused(Code.NOT_READY):
        shop.reserve("a")
    with refused(Code.NOT_READY):
        shop.meter.give_back_unheard()
    store.deaf = False
    assert shop.used_held == (0, int(committed))
    assert shop.meter.give_back_unheard() == int(committed)
    assert shop.meter.give_back_unheard() == 0
    shop.buy("a")
    assert shop.used_held == (1, 0)
    assert shop.meter.audit() == []
    store.close()


def test_the_hold_of_a_retry_is_not_taken_for_the_one_that_was_cut_off(database_url: str):
    store = Deaf(database_url, committed=False)
    shop = Shop(store)
    store.deaf = True
    with refused(Code.NOT_READY):
        shop.reserve("a")
    store.deaf = False
    shop.clock.jump(1)
    hold = shop.hold("a")
    assert shop.meter.give_back_unheard() == 0
    shop.settle(hold)
    assert shop.used_held == (1, 0)
    store.close()


def test_what_was_cut_off_under_another_name_is_given_back(database_url: str):
    """A process takes another name when its own is lost, and that is in an outage."""
    store = Deaf(database_url, committed=True)
    shop = Shop(store)
    shop.meter.holder = "before"
    store.deaf = True
    with refused(Code.NOT_READY):
        shop.reserve("a")
    store.deaf = False
    shop.meter.holder = "after"
    assert shop.meter.give_back_unheard() == 1
    assert shop.used_held == (0, 0)
    store.close()


def test_several_give_back_at_once(database_url: str, monkeypatch: pytest.MonkeyPatch):
    """One takes the last away between another's look whether there is one and its look at it."""
    store = Deaf(database_url, committed=True)
    shop = Shop(store)
    store.deaf = True
    with refused(Code.NOT_READY):
        shop.reserve("a")
    store.deaf = False

    class Overtaken(deque[Any]):
        def __bool__(self) -> bool:
            found = len(self) > 0
            self.clear()
            return found

    monkeypatch.setattr(shop.meter, "_unheard", Overtaken(shop.meter._unheard))
    shop.meter.give_back_unheard()
    store.close()
