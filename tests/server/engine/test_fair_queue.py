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
