"""Who asks for nothing that is paid waits for a turn, and nobody else does."""

import asyncio

import pytest

from craft_server.accounts.pacing import Pacing


class Clock:
    """Stands still until it is moved."""

    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def waits():
    return []


@pytest.fixture
def pacing(clock, waits):
    async def sleep(seconds):
        waits.append(seconds)

    return Pacing(10, clock=clock, sleep=sleep)


def take(pacing, owner, count):
    async def main():
        for _ in range(count):
            await pacing.turn(owner)

    asyncio.run(main())


def buy(pacing, owner, count):
    async def main():
        for _ in range(count):
            await pacing.turn(owner)
            pacing.give_back(owner)

    asyncio.run(main())


def test_a_few_turns_are_free_and_then_they_come_one_by_one(pacing, waits):
    take(pacing, "ann", 2)
    assert waits == []
    take(pacing, "ann", 3)
    assert waits == pytest.approx([0.1, 0.2, 0.3])


def test_who_buys_may_have_as_many_in_work_as_it_bought_lately(pacing, clock, waits):
    buy(pacing, "ann", 10)
    take(pacing, "ann", 12)
    assert waits == []
    take(pacing, "ann", 1)
    assert waits == pytest.approx([0.1])
    clock.now += 30  # long after: its purchases do not count any more
    waits.clear()
    take(pacing, "ann", 3)
    assert waits == pytest.approx([0.1], rel=0.01)


def test_no_more_than_three_seconds_of_turns_come_at_once(pacing, waits):
    buy(pacing, "ann", 1000)
    take(pacing, "ann", 30)
    assert waits == []
    take(pacing, "ann", 1)
    assert waits == pytest.approx([0.1])


def test_turns_come_back_with_time(pacing, clock, waits):
    take(pacing, "ann", 2)
    clock.now += 0.2
    take(pacing, "ann", 2)
    assert waits == []
    take(pacing, "ann", 1)
    assert waits == pytest.approx([0.1])


def test_an_owner_does_not_make_another_wait(pacing, waits):
    take(pacing, "ann", 60)
    waits.clear()
    take(pacing, "bob", 2)
    take(pacing, "", 2)
    assert waits == []


def test_what_is_paid_gives_its_turn_back(pacing, waits):
    buy(pacing, "ann", 1000)
    assert waits == []


def test_nobody_waits_longer_than_two_seconds(pacing, waits):
    take(pacing, "", 1000)
    assert max(waits) == pytest.approx(2)


def test_a_debt_is_forgotten_within_seconds(pacing, clock, waits):
    """One key of an owner that floods for an hour must not make its others wait for an hour."""
    take(pacing, "ann", 100_000)
    clock.now += 3
    waits.clear()
    take(pacing, "ann", 1)
    assert waits == []


def test_none_a_second_is_no_pacing(clock, waits):
    free = Pacing(0, clock=clock)
    take(free, "ann", 10_000)
    free.give_back("ann")
    assert waits == []
