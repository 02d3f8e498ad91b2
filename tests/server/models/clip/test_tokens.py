"""Texts of strangers: the ids of open_clip, in little time and bounded memory."""

import random
import string
import sys
import time

import open_clip
import pytest

from craft_server.models.clip import tokens
from craft_server.models.clip.text import TextEncoder
from craft_server.models.clip.tokens import MAX_REFERENCES, BoundedTokenizer, Memory, merge
from craft_shared.errors import Code, Refusal
from tests.server.models.clip.test_text import MODELS

THEIRS = open_clip.SimpleTokenizer()
OURS = BoundedTokenizer(open_clip.SimpleTokenizer(), most=10**6)

ODD = [
    *("&amp;", "&lt;b&gt;", "&#38;", "&ampamp;", "<start_of_text>", "<END_OF_TEXT>", "'s", "'LL"),
    *(
        "é",
        "Ã©",
        "â€™",
        "漢字",
        "😀😀",
        "\u200d",
        "İ",
        "ß",
        "ﬁ",
        "\u017f",
        "½",
        "٣",
        "\u0301",
        "\ufeff",
    ),
    *(
        "\x1c",
        "\x85",
        "\xa0",
        "\u3000",
        "\r\n",
        "\t",
        "\x00",
        "…",
        "“",
        "a",
        "aa",
        "aaa",
        "ab",
        "ba",
    ),
]
"""What cleaning and splitting treat in a way of its own."""


def texts(count, seed):
    """Texts of words and halves of words, of odd pieces, of few letters and of any letters."""
    pick = random.Random(seed)
    words = [word.removesuffix("</w>") for word in THEIRS.encoder]
    for _ in range(count):
        size = pick.choice((1, 2, 5, 20, 60))
        alphabet = pick.choice((words + ODD * 500, ODD, ["a", "b"], [*string.printable]))
        yield pick.choice(("", " ")).join(pick.choices(alphabet, k=size))


def refusal_of(call, *arguments):
    with pytest.raises(Refusal) as caught:
        call(*arguments)
    return caught.value


def encoder():
    return TextEncoder(MODELS["clip"], open_clip.SimpleTokenizer())


@pytest.mark.slow
def test_every_text_that_is_accepted_has_open_clips_ids():
    compared = 0
    for text in texts(1500, seed=3):
        try:
            found = OURS.encode(text)
        except Refusal:
            assert "&" in text
            continue
        assert found == THEIRS.encode(text), text
        compared += 1
    assert compared > 1400


def test_a_pair_is_merged_everywhere_before_one_that_its_merges_make_is_looked_for():
    ranks = {("ab", "c"): 2, ("abc", "ab"): 1, ("a", "b"): 0}
    assert merge([*"abcabc"], ranks) == ["abc", "abc"]
    assert merge([*"aaaaa"], {("a", "a"): 0}) == ["aa", "aa", "a"]


def test_long_words_take_little_time():
    """32 words of 900 letters: more than 1 s where each merge goes over the whole word."""
    texts_of, letters = encoder(), random.Random(1)
    words = ["".join(letters.choices(string.ascii_lowercase, k=900)) for _ in range(32)]
    began = time.thread_time()
    for word in words:
        assert refusal_of(texts_of.plan_templates, ["{}"], [word]).code is Code.TOO_MANY_TOKENS
    assert time.thread_time() - began < 1


@pytest.mark.parametrize("reference", ["amp;", "#38;", "#x26;"])
def test_references_that_are_nested_deep_are_refused_before_they_are_read(reference):
    texts_of = encoder()
    allowed = "&" + reference * MAX_REFERENCES + "lt; cat"
    assert texts_of.plan_templates(["{}"], [allowed.replace(reference, "", 1)])
    began = time.thread_time()
    for _ in range(100):
        refusal = refusal_of(texts_of.plan_templates, ["{}"], ["&" + reference * 200])
        assert refusal.code is Code.INVALID_REQUEST
        assert "200 semicolons" in refusal.detail
        assert f"at most {MAX_REFERENCES} are read" in refusal.detail
    assert time.thread_time() - began < 0.5  # more, if each is unescaped


def test_a_text_that_cannot_fit_is_refused_without_a_merge(monkeypatch):
    monkeypatch.setattr(tokens, "merge", None)
    refusal = refusal_of(encoder().plan_templates, ["{}"], ["x" * 1000])
    assert refusal.code is Code.TOO_MANY_TOKENS
    assert "takes at least 34 tokens, at most 32 fit" in refusal.detail


def test_what_was_tokenised_is_forgotten_within_a_bound():
    tokenizer = open_clip.SimpleTokenizer()
    remembered = len(tokenizer.cache)
    texts_of = TextEncoder(MODELS["clip"], tokenizer)
    for number in range(300):
        texts_of.plan_templates(["{}"], [f"word{number}"])
    assert len(tokenizer.cache) == remembered


def test_a_memory_keeps_within_its_bytes_and_forgets_what_nobody_asks_for():
    memory = Memory(1000)
    for number in range(100):
        memory.put(number, str(number), 100)
        memory.put("asked", "often", 100) if number == 0 else memory.get("asked")
    assert memory.get("asked") == "often"
    kept = [number for number in range(100) if memory.get(number) is not None]
    assert kept
    assert min(kept) >= 90


def test_a_memory_does_not_take_what_is_too_large_for_it():
    memory = Memory(1000)
    memory.put("small", 1, 100)
    memory.put("large", 2, 501)
    assert (memory.get("small"), memory.get("large")) == (1, None)


def test_a_remembered_text_takes_no_more_bytes_than_it_is_counted_for():
    text = "漢字" * 20
    row = (1,) * 70
    counted = 250 + 4 * len(text) + 8 * len(row)
    assert sys.getsizeof(text) + sys.getsizeof(row) <= counted
