"""A token is shown once, checked before the store is asked, and refused without saying why."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import select

from craft_server.accounts import audit_log
from craft_server.accounts.cache import KeyCache
from craft_server.accounts.identity import CLIENT_SCOPES, MAX_LIMIT, MAY_BE_UNLIMITED, Scope
from craft_server.accounts.keys import Keys, account
from craft_server.accounts.tokens import BASE62, checksum, checksum_fits, digest, mint_token
from craft_server.db.store import Store, to_us
from craft_server.db.tables import LIMITS
from craft_server.db.tables import keys as table
from craft_server.metering.ledger import Ledger
from craft_server.metering.meter import Hold, LedgerEntry, Meter
from craft_shared.errors import Code, Refusal
from craft_shared.messages import Counters, Output, Policy

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)


class Clock:
    """Stands still at `now`."""

    now = NOON

    def __call__(self) -> int:
        return to_us(self.now)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def store(database_url: str) -> Iterator[Store]:
    store = Store(database_url)
    yield store
    store.close()


@pytest.fixture
def keys(store: Store, clock: Clock) -> Keys:
    return Keys(store, clock=clock)


class NoStore:
    """A store that must not be asked."""

    def read(self):
        raise AssertionError("the store was asked")


@contextmanager
def refused(code: Code, param: str | None = None) -> Iterator[pytest.ExceptionInfo[Refusal]]:
    with pytest.raises(Refusal) as refusal:
        yield refusal
    assert refusal.value.code is code
    assert param in {None, refusal.value.param}


def spend(store: Store, key_id: str) -> None:
    """Use 3 queries and hold 4 more; of all else ten times as many."""
    meter = Meter(store)
    for idempotency_key, queries in (("used", 3), ("held", 4)):
        cost = Counters(calls=1, **dict.fromkeys(LIMITS, 10 * queries) | {"queries": queries})
        hold = meter.reserve(key_id, idempotency_key, fingerprint="f", cost=cost, hold_s=60)
        if idempotency_key == "used":
            assert isinstance(hold, Hold)
            meter.settle(hold, b"", entry=LedgerEntry("tiny", "set_1", 1, 1, 1))


# --- tokens -------------------------------------------------------------------------------------


def test_a_token_has_the_documented_shape():
    token = mint_token()
    assert token.startswith("craft_")
    assert len(token) == len("craft_") + 43 + 6
    assert set(token[6:]) <= set(BASE62)
    assert len(set(BASE62)) == 62


def test_tokens_differ():
    assert len({mint_token() for _ in range(100)}) == 100


def test_the_checksum_is_the_documented_one():
    # zlib.crc32(b"123456789") == 0xCBF43926, the check value of CRC-32, in base 62
    assert checksum("123456789") == "3jZRME"
    digits = [BASE62.index(digit) for digit in checksum("123456789")]
    assert sum(digit * 62**place for place, digit in enumerate(reversed(digits))) == 0xCBF43926


@given(st.integers(0, 54), st.sampled_from(BASE62))
def test_one_wrong_character_is_always_noticed(place: int, character: str):
    token = mint_token()
    typed = token[:place] + character + token[place + 1 :]
    assert checksum_fits(typed) == (typed == token)


@pytest.mark.parametrize(
    "text",
    ["", "craft_", "x" * 55, "craft_" + "é" * 49, "craft_" + "\udcff" * 49, "sk-" + "a" * 52],
)
def test_what_is_no_token_is_refused_without_asking_the_store(text: str):
    with refused(Code.INVALID_KEY):
        Keys(NoStore()).verify(text)


# --- verify -------------------------------------------------------------------------------------


def test_a_token_finds_its_key(keys: Keys):
    minted = keys.create("lab", 10)
    keys.create("lab", 10)
    assert keys.verify(minted.token) == minted.key
    assert minted.key.owner == "lab"
    assert minted.key.created_at == NOON
    assert minted.key.scopes == CLIENT_SCOPES


def test_unknown_revoked_and_expired_tokens_are_refused_in_the_same_words(keys: Keys, clock: Clock):
    revoked, expired = keys.create("lab", 1), keys.create("lab", 1, expires_at=NOON)
    keys.revoke(revoked.key.id)
    details = set()
    for token in (mint_token(), revoked.token, expired.token, "craft_typo"):
        with refused(Code.INVALID_KEY, "Authorization") as refusal:
            keys.verify(token)
        details.add(refusal.value.detail)
    assert len(details) == 1


def test_a_key_is_good_until_the_moment_it_expires(keys: Keys, clock: Clock):
    minted = keys.create("lab", 1, expires_at=NOON + timedelta(seconds=1))
    clock.now = NOON + timedelta(microseconds=999_999)
    assert keys.verify(minted.token).expires_at == NOON + timedelta(seconds=1)
    clock.now = NOON + timedelta(seconds=1)
    with refused(Code.INVALID_KEY):
        keys.verify(minted.token)


def test_revoking_holds_from_the_next_request_on_in_every_process(keys: Keys, store: Store):
    minted = keys.create("lab", 1)
    elsewhere = Keys(store)
    elsewhere.verify(minted.token)
    assert keys.revoke(minted.key.id).revoked_at == NOON
    with refused(Code.INVALID_KEY):
        elsewhere.verify(minted.token)


def test_revoking_again_keeps_the_first_time(keys: Keys, clock: Clock):
    key = keys.create("lab", 1).key
    keys.revoke(key.id)
    clock.now = NOON + timedelta(days=1)
    assert keys.revoke(key.id).revoked_at == NOON


def test_the_store_never_sees_the_token(keys: Keys, store: Store):
    token = keys.create("lab", 1).token
    with store.read() as tx:
        row = tx.execute(select(table)).one()
    assert not any(isinstance(cell, str) and token[6:] in cell for cell in row)
    assert len(row.token_sha256) == 64


# --- create and list ----------------------------------------------------------------------------


def test_scopes_are_those_asked_for(keys: Keys):
    minted = keys.create("lab", 1, scopes=[Scope.USAGE_READ, Scope.LOGITS_READ, Scope.USAGE_READ])
    assert keys.verify(minted.token).scopes == (Scope.LOGITS_READ, Scope.USAGE_READ)


def test_keys_are_listed_oldest_first_whatever_became_of_them(keys: Keys, clock: Clock):
    first = keys.create("b", 1).key
    clock.now = NOON + timedelta(seconds=1)
    second = keys.create("a", 1, expires_at=NOON).key
    revoked = keys.revoke(first.id)
    assert keys.all() == [revoked, second]


@pytest.mark.parametrize("limit", [-1, MAX_LIMIT + 1, 1.0, True, "5"])
def test_a_limit_is_a_whole_number_within_range(keys: Keys, limit: object):
    with refused(Code.INVALID_REQUEST, "queries_limit"):
        keys.create("lab", limit)
    for name in MAY_BE_UNLIMITED:
        with refused(Code.INVALID_REQUEST, name):
            keys.create("lab", 1, **{name: limit})
    assert keys.all() == []


@pytest.mark.parametrize("limit", [0, MAX_LIMIT])
def test_the_ends_of_the_range_are_limits_too(keys: Keys, store: Store, limit: int):
    key = keys.create("lab", limit, **dict.fromkeys(MAY_BE_UNLIMITED, limit)).key
    budgets = Ledger(store).budgets(key.id)
    assert {name: budget.remaining for name, budget in budgets} == dict.fromkeys(LIMITS, limit)


@pytest.mark.parametrize("owner", ["", "x" * 129, "a\nb", "a\x00"])
def test_an_owner_is_a_printable_name(keys: Keys, owner: str):
    with refused(Code.INVALID_REQUEST, "owner"):
        keys.create(owner, 1)


# --- budgets ------------------------------------------------------------------------------------


def test_a_budget_can_be_raised_and_lowered_to_what_is_spent(keys: Keys, store: Store):
    key = keys.create("lab", 10, **dict.fromkeys(MAY_BE_UNLIMITED, 100)).key
    spend(store, key.id)
    for limit in (1000, 7):
        others = dict.fromkeys(MAY_BE_UNLIMITED, 10 * limit)
        keys.change(key.id, queries_limit=limit, **others)
        budgets = Ledger(store).budgets(key.id)
        found = {f"{name}_limit": budget.limit for name, budget in budgets}
        assert found == {"queries_limit": limit} | others


def test_a_budget_below_what_is_spent_is_refused_with_the_figures(keys: Keys, store: Store):
    key = keys.create("lab", 10, logit_vectors_limit=100).key
    spend(store, key.id)
    with refused(Code.INVALID_REQUEST, "queries_limit") as queries:
        keys.change(key.id, queries_limit=6)
    assert "6 is below 3 used + 4 held = 7" in queries.value.detail
    for name in MAY_BE_UNLIMITED:
        with refused(Code.INVALID_REQUEST, name) as other:
            keys.change(key.id, queries_limit=50, **{name: 69})
        assert "69 is below 30 used + 40 held = 70" in other.value.detail
    assert Ledger(store).budgets(key.id).queries.limit == 10


def test_a_limit_on_logit_vectors_can_be_taken_away_and_set_again(keys: Keys, store: Store):
    key = keys.create("lab", 10, logit_vectors_limit=100).key
    keys.change(key.id, logit_vectors_limit="unlimited")
    unlimited = Ledger(store).budgets(key.id)
    keys.change(key.id, logit_vectors_limit=5)
    limited = Ledger(store).budgets(key.id)
    assert (unlimited.logit_vectors, unlimited.queries.limit) == (None, 10)
    assert limited.logit_vectors is not None
    assert limited.logit_vectors.limit == 5


def test_a_key_cannot_be_without_a_limit_on_queries(keys: Keys):
    with refused(Code.INVALID_REQUEST, "queries_limit"):
        keys.create("lab", "unlimited")
    with refused(Code.INVALID_REQUEST, "queries_limit"):
        keys.change(keys.create("lab", 1).key.id, queries_limit="unlimited")


def test_a_limit_that_no_key_has_is_no_limit(keys: Keys):
    with pytest.raises(TypeError, match="no key has text_limit"):
        keys.create("lab", 1, text_limit=5)


def test_a_limit_that_is_out_of_range_is_refused(keys: Keys):
    key = keys.create("lab", 10).key
    with refused(Code.INVALID_REQUEST, "queries_limit"):
        keys.change(key.id, queries_limit=-1)


@pytest.mark.parametrize("change", [{}, {"queries_limit": 1}, {"logit_vectors_limit": "unlimited"}])
def test_an_unknown_key_is_not_found(keys: Keys, change: dict[str, object]):
    with refused(Code.NOT_FOUND, "key_id"):
        keys.change("key_0", **change)
    with refused(Code.NOT_FOUND, "key_id"):
        keys.revoke("key_0")


def test_verified_keys_are_kept_for_a_second_and_never_more_than_so_many(store):
    keys, now = Keys(store), [0.0]
    cache = KeyCache(keys, max_keys=1, timer=lambda: now[0])
    one, two = (keys.create("lab", 1).token for _ in range(2))
    assert cache.known(one) is None
    assert cache.verify(one) == cache.known(one)
    now[0] = 1.0
    assert cache.known(one) is None
    cache.verify(one)
    cache.verify(two)
    assert cache.known(one) is None
    assert cache.known(two) is not None


# --- rotation -----------------------------------------------------------------------------------


def test_a_rotated_key_is_the_same_key_with_another_token(keys, store):
    made = keys.create("lab", 10)
    spend(store, made.key.id)
    rotated = keys.rotate(made.key.id)
    assert rotated.token != made.token
    with refused(Code.INVALID_KEY):
        keys.verify(made.token)
    found = keys.verify(rotated.token)
    assert (found.id, found.owner) == (made.key.id, "lab")
    assert Ledger(store).budgets(found.id).queries.used == 3


def test_a_grace_lets_the_old_token_live_on_until_its_end(keys, clock):
    made = keys.create("lab", 1)
    rotated = keys.rotate(made.key.id, grace_s=60)
    old = keys.verify(made.token)
    assert old.token_until == NOON + timedelta(seconds=60)
    assert keys.verify(rotated.token).token_until is None
    clock.now = NOON + timedelta(seconds=60)
    with refused(Code.INVALID_KEY):
        keys.verify(made.token)
    assert keys.verify(rotated.token).id == made.key.id


def test_of_two_rotations_the_last_old_token_alone_has_a_grace(keys):
    made = keys.create("lab", 1)
    second = keys.rotate(made.key.id, grace_s=60)
    third = keys.rotate(made.key.id, grace_s=60)
    with refused(Code.INVALID_KEY):
        keys.verify(made.token)
    assert keys.verify(second.token).id == keys.verify(third.token).id
    keys.rotate(made.key.id)
    for token in (second.token, third.token):
        with refused(Code.INVALID_KEY):
            keys.verify(token)


def test_a_revoked_key_cannot_be_rotated_back_to_life(keys):
    made = keys.create("lab", 1)
    keys.revoke(made.key.id)
    with refused(Code.INVALID_REQUEST, "key_id"):
        keys.rotate(made.key.id)


def test_a_token_on_its_way_out_is_not_remembered(keys):
    made = keys.create("lab", 1)
    keys.rotate(made.key.id, grace_s=60)
    cache = KeyCache(keys)
    cache.verify(made.token)
    assert cache.known(made.token) is None


# --- what a key may do, and who said so ---------------------------------------------------------


def test_everything_but_the_budget_raises_the_version(keys):
    key_id = keys.create("lab", 1).key.id
    versions = [
        keys.change(key_id, queries_limit=5).version,
        keys.change(key_id, policy=Policy(max_classes=1)).version,
        keys.change(key_id, scopes=[Scope.USAGE_READ]).version,
        keys.change(key_id, expires_at=NOON + timedelta(days=1)).version,
        keys.rotate(key_id).key.version,
        keys.revoke(key_id).version,
        keys.revoke(key_id).version,
    ]
    assert versions == [0, 1, 2, 3, 4, 5, 5]


def test_the_meter_sells_nothing_to_an_older_version(keys, store):
    key = keys.create("lab", 10).key
    meter = Meter(store)
    cost = Counters(queries=1, calls=1, logit_vectors=1, texts=1)
    terms = {"fingerprint": "f", "cost": cost, "hold_s": 60, "version": key.version}
    hold = meter.reserve(key.id, "before", **terms)
    changed = keys.change(key.id, policy=Policy(max_classes=1))
    meter.settle(hold, b"", entry=LedgerEntry("tiny", "set_1", 1, 1, 1))
    for name in ("before", "after"):  # not even a replay
        with refused(Code.INVALID_KEY):
            meter.reserve(key.id, name, **terms)
    assert meter.budgets(key.id).queries.used == 1
    terms["version"] = changed.version
    assert isinstance(meter.reserve(key.id, "after", **terms), Hold)


def test_terms_can_be_changed_and_changed_back(keys):
    key_id = keys.create("lab", 1, expires_at=NOON + timedelta(days=1)).key.id
    assert keys.change(key_id, expires_at="never").expires_at is None
    assert keys.change(key_id, scopes=[Scope.USAGE_READ]).scopes == (Scope.USAGE_READ,)
    policy = Policy(output=Output(kind="top_k", k=3), models=["a"])
    assert keys.change(key_id, policy=policy).policy == policy
    assert keys.change(key_id).policy == policy
    assert keys.find(key_id).policy == policy


@pytest.mark.parametrize("scopes", [[], [Scope.ADMIN, Scope.USAGE_READ]])
def test_a_key_does_something_and_an_admin_key_nothing_else(keys, scopes):
    with refused(Code.INVALID_REQUEST, "scopes"):
        keys.create("lab", 1, scopes=scopes)
    key_id = keys.create("lab", 1).key.id
    with refused(Code.INVALID_REQUEST, "scopes"):
        keys.change(key_id, scopes=scopes)


def test_the_audit_log_says_who_did_what_when_and_never_a_token(keys, store):
    made = keys.create("lab", 5, expires_at=NOON + timedelta(days=1))
    key_id, ann = made.key.id, keys.by("key_ann")
    ann.change(key_id, queries_limit=7, policy=Policy(max_classes=2))
    rotated = ann.rotate(key_id, grace_s=5)
    keys.revoke(key_id)
    keys.revoke(key_id)  # changes nothing and is no act
    log = audit_log.read(store)
    assert [(act.actor, act.act, act.key_id, act.at) for act in log.acts] == [
        ("server", "create", key_id, NOON),
        ("key_ann", "change", key_id, NOON),
        ("key_ann", "rotate", key_id, NOON),
        ("server", "revoke", key_id, NOON),
    ]
    created, changed, *_ = ({c.field: (c.was, c.now) for c in act.changes} for act in log.acts)
    assert created["owner"] == (None, "lab")
    assert created["expires_at"] == (None, "2026-01-02T12:00:00+00:00")
    assert changed == {"queries_limit": ("5", "7"), "policy": ("{}", '{"max_classes":2}')}
    for token in (made.token, rotated.token):
        assert token not in log.model_dump_json()
        assert digest(token) not in log.model_dump_json()


def test_a_refused_change_leaves_no_record_and_changes_nothing(keys, store):
    made = keys.create("lab", 10)
    spend(store, made.key.id)
    with refused(Code.INVALID_REQUEST, "queries_limit"):
        keys.change(made.key.id, queries_limit=6, policy=Policy(max_classes=1))
    assert keys.find(made.key.id).policy == Policy()
    assert [act.act for act in audit_log.read(store).acts] == ["create"]


def test_the_audit_log_can_be_paged_and_narrowed_to_a_key(keys, store):
    ids = [keys.create("lab", 1).key.id for _ in range(3)]
    first = audit_log.read(store, limit=2)
    assert [act.key_id for act in first.acts] == ids[:2]
    rest = audit_log.read(store, after=first.next, limit=2)
    assert [act.key_id for act in rest.acts] == ids[2:]
    assert rest.next is None
    assert [act.key_id for act in audit_log.read(store, key_id=ids[1]).acts] == [ids[1]]


def test_an_account_is_named_even_where_the_user_has_no_name(monkeypatch):
    assert account().startswith("cli:")

    def nobody():
        raise KeyError

    monkeypatch.setattr("getpass.getuser", nobody)
    assert account() == "cli"


@pytest.mark.parametrize(
    "moment", [datetime(1, 1, 1, tzinfo=UTC), datetime.max.replace(tzinfo=UTC)]
)
def test_a_key_cannot_expire_outside_the_calendar(keys, moment):
    with refused(Code.INVALID_REQUEST, "expires_at"):
        keys.create("lab", 1, expires_at=moment)
    key_id = keys.create("lab", 1).key.id
    with refused(Code.INVALID_REQUEST, "expires_at"):
        keys.change(key_id, expires_at=moment)
