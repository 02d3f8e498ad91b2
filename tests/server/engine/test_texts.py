"""Counting texts: in steps, with what is refused, and no further than anybody reads."""

import pytest

from craft_server.engine.blackbox import at_once
from craft_server.engine.texts import MOST_REFUSED, Counted, TooManyTokens, count_in_steps
from craft_shared.errors import Code, Refusal


def tokens_of(text):
    if text == "odd":
        raise Refusal(Code.INVALID_REQUEST, "not to be read")
    if len(text) > 4:
        raise TooManyTokens(text, len(text), fit=4)
    return len(text)


@pytest.mark.parametrize(
    ("texts", "longest", "numbers"),
    [
        ([], 0, []),
        (["a", "abc", "ab"], 3, []),
        (["abcd"], 4, []),
        (["a", "abcde", "abcdefg", "b"], 7, [1, 2]),
        (["odd", "a"], 1, [0]),
    ],
)
def test_the_longest_and_the_refused(texts, longest, numbers):
    counted = at_once(count_in_steps(texts, tokens_of))
    assert (counted.longest, [number for number, _ in counted.refused]) == (longest, numbers)
    assert counted.context is None


def test_each_text_is_a_step():
    assert len(list(count_in_steps(["a"] * 7, tokens_of))) == 7


def test_behind_the_last_refused_text_that_is_told_nothing_is_read():
    read = []

    def heard(text):
        read.append(text)
        return tokens_of(text)

    counted = at_once(count_in_steps(["abcde"] * 1000, heard))
    assert (len(counted.refused), len(read)) == (MOST_REFUSED, MOST_REFUSED)
    assert isinstance(counted, Counted)


@pytest.mark.parametrize("least", [False, True])
def test_a_refusal_shows_the_text_cut_the_count_and_the_limit(least):
    refusal = TooManyTokens("x" * 500, 90, fit=77, least=least)
    words = "at least 90" if least else "90"
    assert refusal.detail == f"'{'x' * 57}...' takes {words} tokens, at most 77 fit"
    assert (refusal.code, refusal.param, refusal.tokens) == ("too_many_tokens", "prompts", 90)
