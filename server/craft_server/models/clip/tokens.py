"""CLIP's byte-pair encoding within bounds: open_clip's ids, in little time and bounded memory.

open_clip's own tokenizer is exact and slow where a stranger chooses the text. It merges a word of n
letters in n steps over the whole word, it unescapes HTML as often as it is nested, and it remembers
every word for ever. Here are the same rules without that: merges by a heap, a bound on character
references, and a memory that forgets.

Owns what a text may be before it is tokenised. What is accepted has the ids of open_clip.
"""

from collections.abc import Mapping, Sequence
from heapq import heappop, heappush
from threading import Lock
from typing import Any, Generic, TypeVar

from open_clip.tokenizer import SimpleTokenizer

from craft_server.engine.texts import TooManyTokens, shown
from craft_shared.errors import Code, Refusal

MAX_REFERENCES = 16
"""Semicolons in a text with an ampersand: each may end a character reference (`&amp;`), and of
nested ones, all of the text is read again for each. 16 take 1 ms, the 255 that fit a name 15 ms."""

_END = "</w>"
_WORD_BYTES = 2**23
_A_WORD = 200
"""Bytes that a remembered word takes beside its letters and ids."""
_AN_ID = 8

K = TypeVar("K")
V = TypeVar("V")


class Memory(Generic[K, V]):
    """A mapping that forgets what was not asked for lately, within a number of bytes.

    Two generations: what is looked up moves to the young one; when that has half of the bytes it
    becomes the old one, and the old one is forgotten. Thread-safe. A look takes less than half
    the time of cachetools' LRU, 0.13 us to 0.30.

    Args:
        most_bytes: of all values, as `put` is told them.
    """

    def __init__(self, most_bytes: int) -> None:
        self._half = most_bytes // 2
        self._young: dict[K, tuple[V, int]] = {}
        self._old: dict[K, tuple[V, int]] = {}
        self._bytes = 0
        self._lock = Lock()

    def get(self, key: K) -> V | None:
        """The value, if it is remembered."""
        found = self._young.get(key)
        if found is None and (found := self._old.get(key)) is not None:
            self.put(key, *found)
        return None if found is None else found[0]

    def put(self, key: K, value: V, size: int) -> None:
        """Remember a value of so many bytes."""
        with self._lock:
            if self._bytes + size > self._half:
                self._old, self._young, self._bytes = self._young, {}, 0
            if size <= self._half:
                self._young[key] = value, size
                self._bytes += size


class BoundedTokenizer:
    """The ids of an open_clip tokenizer, with bounds on time and memory.

    Args:
        tokenizer: open_clip's, which says how a text is cleaned, split and merged.
        most: tokens that a text may have; one that is certain to have more is not tokenised.
    """

    def __init__(self, tokenizer: SimpleTokenizer, *, most: int) -> None:
        self.sot_token_id: int = tokenizer.sot_token_id
        self.eot_token_id: int = tokenizer.eot_token_id
        self._rules: Any = tokenizer
        self._special = {tokenizer.decoder[each] for each in tokenizer.all_special_ids}
        words = tokenizer.encoder.keys() - self._special
        self._longest = max(len(word.removesuffix(_END)) for word in words)
        self._most = most
        self._words: Memory[str, tuple[int, ...]] = Memory(_WORD_BYTES)

    def encode(self, text: str) -> list[int]:
        """Token ids without start and end.

        Raises:
            Refusal: `too_many_tokens` if that is certain by the text's length; `invalid_request`
                if it has more than `MAX_REFERENCES`.
        """
        ids: list[int] = []
        clean = self._clean(text)
        least = -(-len(clean.replace(" ", "").encode()) // self._longest)
        if least > self._most:
            raise TooManyTokens(text, least + 2, fit=self._most + 2, least=True)
        for word in clean.split(" "):  # no token spans a blank
            found = self._words.get(word)
            if found is None:
                found = tuple(self._encode_word(word))
                self._words.put(word, found, _A_WORD + 2 * len(word) + _AN_ID * len(found))
            ids.extend(found)
        return ids

    def _clean(self, text: str) -> str:
        if "&" in text and text.count(";") > MAX_REFERENCES:
            detail = (
                f"{shown(text)} has {text.count(';')} semicolons; with an ampersand, which begins "
                f"a character reference such as &amp;, at most {MAX_REFERENCES} are read"
            )
            raise Refusal(Code.INVALID_REQUEST, detail, param="prompts")
        clean: str = self._rules.clean_fn(text)
        return clean

    def _encode_word(self, word: str) -> list[int]:
        rules = self._rules
        ids: list[int] = []
        for part in rules.pat.findall(word):
            letters = [rules.byte_encoder[byte] for byte in part.encode()]
            symbols = [part] if part in self._special else [*letters[:-1], letters[-1] + _END]
            ids.extend(rules.encoder[symbol] for symbol in merge(symbols, rules.bpe_ranks))
        return ids


def merge(symbols: Sequence[str], ranks: Mapping[tuple[str, str], int]) -> list[str]:
    """Byte-pair merges of a word: the pair of lowest rank wherever it stands, until none is left.

    In n log n steps for n symbols. All places of one pair are merged from left to right before the
    next pair is looked for, as in Sennrich et al. (arXiv 1508.07909) and in open_clip.
    """
    word = _Word(symbols, ranks)
    while word.heap:
        lowest, merged = word.heap[0][0], []
        while word.heap and word.heap[0][0] == lowest:
            place = heappop(word.heap)[1]
            if word.rank(place) == lowest:  # else what stood there is merged already
                word.merge(place)
                merged.append(place)
        for place in merged:
            word.offer(word.before[place])
            word.offer(place)
    return [part for part in word.parts if part is not None]


class _Word:
    """A word in merging: its parts, each with its neighbours, and the pairs that may be merged.

    Attributes:
        parts: by place; None where a part was merged into the one before.
        before: the place of the part before, -1 for the first.
        heap: (rank, place) of pairs; some may be gone by now.
    """

    def __init__(self, symbols: Sequence[str], ranks: Mapping[tuple[str, str], int]) -> None:
        self._ranks = ranks
        self.parts: list[str | None] = list(symbols)
        self.before = list(range(-1, len(symbols) - 1))
        self._after = list(range(1, len(symbols) + 1))
        self.heap: list[tuple[int, int]] = []
        for place in range(len(symbols)):
            self.offer(place)

    def rank(self, place: int) -> int | None:
        """Of the pair that begins at a place; None if it cannot be merged."""
        if place < 0 or (other := self._after[place]) >= len(self.parts):
            return None
        first, second = self.parts[place], self.parts[other]
        return None if first is None or second is None else self._ranks.get((first, second))

    def offer(self, place: int) -> None:
        """Put the pair that begins at a place on the heap."""
        if (rank := self.rank(place)) is not None:
            heappush(self.heap, (rank, place))

    def merge(self, place: int) -> None:
        """Make one part of the pair that begins at a place."""
        gone = self._after[place]
        self.parts[place], self.parts[gone] = f"{self.parts[place]}{self.parts[gone]}", None
        self._after[place] = self._after[gone]
        if self._after[gone] < len(self.parts):
            self.before[self._after[gone]] = place
