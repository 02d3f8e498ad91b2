"""A bucket of one minute's calls per key, which fills as time passes."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from craft_server.accounts.rate_limit import WINDOW_S, RateLimiter


class Clock:
    """Stands still at `now`."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_without_a_limit_nothing_is_counted(clock):
    assert RateLimiter(0, clock=clock).take("key", None) is None


def test_a_minute_of_calls_may_come_at_once_and_the_next_one_waits(clock):
    limiter = RateLimiter(0, clock=clock)
    statuses = [limiter.take("key", 3) for _ in range(4)]
    assert [status.remaining for status in statuses] == [2, 1, 0, 0]
    assert [status.wait_s for status in statuses] == [0, 0, 0, 20]
    assert [status.reset_s for status in statuses] == [20, 40, 60, 60]
    refusal = statuses[-1].refusal()
    assert (refusal.code, refusal.param, refusal.retry_after_s) == ("rate_limited", "rate", 20)
    clock.now += 20
    assert limiter.take("key", 3).wait_s == 0
    assert limiter.take("key", 3).wait_s == 20


def test_each_key_has_its_own_bucket_and_a_policy_goes_before_the_server_s_rate(clock):
    limiter = RateLimiter(1, clock=clock)
    assert limiter.take("one", None).wait_s == 0
    assert limiter.take("one", None).wait_s == 60
    assert limiter.take("two", None).wait_s == 0
    assert limiter.take("one", 100).limit == 100


def test_the_keys_that_called_last_are_remembered(clock, monkeypatch):
    monkeypatch.setattr("craft_server.accounts.rate_limit._KEPT", 2)
    limiter = RateLimiter(1, clock=clock)
    for key in ("one", "two", "one", "three"):
        limiter.take(key, None)
    assert limiter.take("one", None).wait_s == 60
    assert limiter.take("two", None).wait_s == 0  # forgotten, as if its bucket were full again


@given(st.integers(1, 1000), st.lists(st.floats(0, 30), max_size=60))
def test_in_no_minute_are_more_calls_allowed_than_two_buckets_and_a_reported_wait_suffices(
    limit, pauses
):
    clock = Clock()
    limiter, allowed = RateLimiter(limit, clock=clock), []
    for pause in pauses:
        clock.now += pause
        status = limiter.take("key", None)
        assert 0 <= status.remaining <= limit
        if not status.wait_s:
            allowed.append(clock.now)
            continue
        assert status.remaining == 0
        clock.now += status.wait_s
        assert limiter.take("key", None).wait_s == 0
        allowed.append(clock.now)
    for start in allowed:
        window = [moment for moment in allowed if start <= moment <= start + WINDOW_S]
        assert len(window) <= 2 * limit + 1
    assert math.isfinite(clock.now)
