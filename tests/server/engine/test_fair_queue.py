"""Owners take turns, groups go together, and what is withdrawn never comes."""

import threading
from typing import NamedTuple

from hypothesis import given
from hypothesis import strategies as st

from craft_server.engine.fair_queue import FairQueue


class Item(NamedTuple):
    """An entry."""

    owner: str
    number: int
    group: str | None = None
    size: int = 1


def a_queue(*items, most_together=0):
    queue = FairQueue(most_together=most_together)
    assert queue.put(items)
    return queue


def taken(queue):
    batches = []
    while batch := queue.take(wait=False):
        batches.append(batch)
    return batches


def test_a_sweep_delays_another_owner_by_one():
    sweep = [Item("ann", number) for number in range(100)]
    queue = a_queue(*sweep)
    queue.take(wait=False)
    queue.put([Item("bob", 0)])
    assert [batch[0].owner for batch in taken(queue)[:3]] == ["ann", "bob", "ann"]


def test_who_comes_while_a_long_entry_runs_is_next():
    queue = a_queue(Item("ann", 0), Item("ann", 1))
    queue.take(wait=False)
    queue.put([Item("bob", 0)])
    queue.charge("ann", 0.5)
    assert [batch[0].owner for batch in taken(queue)] == ["bob", "ann"]


def test_owners_share_the_time_and_not_the_entries():
    queue = a_queue(*(Item("ann", number) for number in range(9)))
    queue.put([Item("bob", number) for number in range(99)])
    had = {"ann": 0.0, "bob": 0.0}
    for _ in range(50):
        (entry,) = queue.take(wait=False)
        seconds = 0.4 if entry.owner == "ann" else 0.02
        had[entry.owner] += seconds
        queue.charge(entry.owner, seconds)
    assert abs(had["ann"] - had["bob"]) <= 0.42


def test_nobody_saves_time_up_while_it_asks_for_nothing():
    queue = a_queue(*(Item("ann", number) for number in range(20)))
    for _ in range(10):
        queue.take(wait=False)
        queue.charge("ann", 1.0)
    queue.put([Item("bob", number) for number in range(10)])
    order = []
    for _ in range(6):
        (entry,) = queue.take(wait=False)
        order.append(entry.owner)
        queue.charge(entry.owner, 1.0)
    assert sorted(order) == ["ann"] * 3 + ["bob"] * 3


def test_a_device_that_was_idle_has_forgotten_who_used_it():
    queue = a_queue(Item("ann", 0))
    queue.take(wait=False)
    queue.charge("ann", 100.0)
    threading.Timer(0.05, queue.put, [[Item("ann", 1), Item("bob", 0)]]).start()
    assert [queue.take(wait=True)[0].owner, queue.take(wait=True)[0].owner] == ["ann", "bob"]


@given(st.lists(st.tuples(st.sampled_from("abcdef"), st.floats(0.001, 1)), max_size=40))
def test_only_owners_who_wait_or_are_ahead_are_remembered(works):
    queue = a_queue()
    for owner, seconds in works:
        queue.put([Item(owner, 0)])
        if len(queue) > 2:
            queue.charge(queue.take(wait=False)[0].owner, seconds)
    while batch := queue.take(wait=False):
        queue.charge(batch[0].owner, 0.5)
        waiting = set(queue._queues)
        assert all(owner in waiting or had > queue._now for owner, had in queue._had.items())


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 9)), max_size=30))
def test_each_owner_is_first_come_first_served_and_nobody_waits_longer_than_a_round(pairs):
    items = [Item(owner, number) for owner, number in pairs]
    order = [batch[0] for batch in taken(a_queue(*items))]
    for owner in "abc":
        mine = [item for item in items if item.owner == owner]
        assert [item for item in order if item.owner == owner] == mine
    rounds = [
        sorted(places.index(owner) for owner in places) == list(range(len(places)))
        for places in _rounds(order)
    ]
    assert all(rounds)


def _rounds(order):
    """The owners in runs without a repetition, as long as all of them still have something."""
    left = {owner: sum(item.owner == owner for item in order) for owner in "abc"}
    run = []
    for item in order:
        if item.owner in run:
            missing = {owner for owner, count in left.items() if count} - set(run)
            assert not missing
            yield run
            run = []
        run.append(item.owner)
        left[item.owner] -= 1


def test_a_group_goes_together_up_to_a_size_and_others_keep_their_place():
    queue = a_queue(
        Item("ann", 1, "x", 3),
        Item("bob", 2, "x", 3),
        Item("cyd", 3, "y", 1),
        Item("dan", 4, "x", 2),
        Item("eve", 5, "x", 2),
        most_together=8,
    )
    assert [[item.number for item in batch] for batch in taken(queue)] == [[1, 2, 4], [3], [5]]


def test_without_merging_each_goes_alone():
    queue = a_queue(Item("ann", 1, "x"), Item("bob", 2, "x"))
    assert [len(batch) for batch in taken(queue)] == [1, 1]


def test_what_is_withdrawn_never_comes():
    first, second = Item("ann", 1), Item("ann", 2)
    queue = a_queue(first, second)
    assert queue.withdraw([first]) == 1
    assert queue.withdraw([first]) == 0
    assert taken(queue) == [[second]]


def test_a_withdrawal_of_all_takes_none_if_one_has_begun():
    first, second = Item("ann", 1), Item("ann", 2)
    queue = a_queue(first, second)
    queue.take(wait=False)
    assert queue.withdraw([first, second], unless_begun=True) == 0
    assert len(queue) == 1


def test_closing_gives_what_was_left_and_wakes_who_waits():
    queue, batches = a_queue(), []
    waiting = threading.Thread(target=lambda: batches.append(queue.take(wait=True)))
    waiting.start()
    assert queue.close() == []
    waiting.join(10)
    assert batches == [None]
    assert not queue.put([Item("ann", 1)])
    assert queue.take(wait=False) == []
