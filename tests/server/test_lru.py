"""The cache in memory: what it keeps, what it drops, what it weighs."""

from hypothesis import given
from hypothesis import strategies as st

from craft_server.lru import Recent


def test_what_was_not_used_for_longest_goes_first():
    cache = Recent(2)
    cache.put({"a": 1, "b": 2})
    cache.get(["a"])
    cache.put({"c": 3})
    assert cache.get(["a", "b", "c"]) == {"a": 1, "c": 3}


def test_what_is_put_again_is_replaced_and_weighs_once():
    cache = Recent(3)
    cache.put({"a": 1}, weight=3)
    cache.put({"a": 2})
    cache.put({"b": 3}, weight=2)
    assert cache.get(["a", "b"]) == {"a": 2, "b": 3}


def test_an_item_heavier_than_the_capacity_displaces_nothing():
    cache = Recent(2)
    cache.put({"a": 1})
    cache.put({"b": 2}, weight=3)
    assert cache.get(["a", "b"]) == {"a": 1}


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(1, 4))))
def test_nothing_is_kept_but_the_last_items_that_fit(puts):
    cache = Recent(6)
    for key, weight in puts:
        cache.put({key: weight}, weight=weight)
    weights = {}
    for key, weight in puts:
        weights.pop(key, None)
        weights[key] = weight
    expected, room = {}, 6
    for key, weight in reversed(weights.items()):
        room -= weight
        if room < 0:
            break
        expected[key] = weight
    kept = cache.get(range(6))
    assert sum(kept.values()) <= 6
    assert expected.items() >= kept.items()
