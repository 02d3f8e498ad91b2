"""Shares: a key's, an owner's, everybody's; who holds nothing else is let in."""

import pytest

from craft_server.accounts.shares import Caller, ShareLimits, Shares
from craft_shared.errors import Code, Refusal

ANN, ANN_TOO, BOB = Caller("a1", "ann"), Caller("a2", "ann"), Caller("b1", "bob")
LIMITS = ShareLimits(key=4, owner=6, everybody=8)


def refused(shares, caller, amount):
    held = shares.held
    with pytest.raises(Refusal) as caught:
        shares.lease(caller, amount)
    assert shares.held == held
    assert caught.value.retry_after_s
    return caught.value.code


def test_a_key_an_owner_and_all_have_their_shares():
    shares = Shares("things", LIMITS)
    shares.lease(ANN, 4)
    assert refused(shares, ANN, 1) is Code.RATE_LIMITED
    shares.lease(ANN_TOO, 2)
    assert refused(shares, ANN_TOO, 1) is Code.RATE_LIMITED
    assert refused(shares, BOB, 3) is Code.OVERLOADED
    shares.lease(BOB, 2)


def test_who_holds_nothing_else_is_let_in_whatever_it_asks_for():
    shares = Shares("things", LIMITS)
    with shares.lease(ANN, 100) as lease:
        lease.grow(100)
        assert shares.held == 200
        assert refused(shares, ANN_TOO, 1) is Code.RATE_LIMITED
    assert shares.held == 0


def test_a_lease_that_may_not_grow_stays_as_it_was():
    shares = Shares("things", LIMITS)
    with shares.lease(ANN, 2), shares.lease(ANN, 2) as lease:
        with pytest.raises(Refusal, match="this key has 4 things and asks for 1 more; at most 4"):
            lease.grow(1)
        assert (lease.amount, shares.held) == (2, 4)


def test_a_lease_is_given_back_once():
    shares = Shares("things", LIMITS)
    lease = shares.lease(ANN, 3)
    lease.close()
    lease.close()
    assert shares.held == 0
    assert not shares._held
