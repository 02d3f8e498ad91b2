"""What a text encoder makes of class names: which are the same to it, too long, or no words.

CLIP's tokenizer repairs text and character references, ignores case and white space, and splits
what is left into words, single digits and runs of other signs. Here it is followed as far as that
needs no vocabulary.
"""

import html
import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Sequence
from itertools import groupby

from craft_shared.limits import MAX_CLASS_NAME_CHARS
from craft_tuner.errors import DataError

_LONGEST = 32
"""Bytes of the longest token of CLIP's vocabulary."""

_SHOWN = 40
"""Characters of a name that are shown."""

_REFERENCES = 3
"""How often character references are read: `&amp;amp;amp;` is `&`."""

_ENDINGS = re.compile(r"('(?:s|t|re|ve|m|ll|d))")
_QUOTES = dict.fromkeys(range(0x2018, 0x201C), "'") | dict.fromkeys(range(0x201C, 0x2020), '"')
_WIDE_OR_JOINED = re.compile("[\u3000\uff01-\uffef\ufb00-\ufb06]")

WORDNET_ID = re.compile(r"n\d{8}", re.ASCII)
_NUMBER = re.compile(r"(?:(?:class|label|category|cls|id|target|c) ?)?\d+(?:\.\d+)?", re.IGNORECASE)

ASKED = "a photo of a {}."


def heard(text: str) -> tuple[str, ...]:
    """The words, digits and runs of signs that CLIP's tokenizer splits a text into."""
    for _ in range(_REFERENCES):
        text = html.unescape(text)
    text = _WIDE_OR_JOINED.sub(lambda each: unicodedata.normalize("NFKC", each[0]), text)
    text = unicodedata.normalize("NFC", text).translate(_QUOTES).lower()
    return tuple(
        piece
        for word in text.split()
        for part in _ENDINGS.split(word)
        for piece in ([part] if _ENDINGS.fullmatch(part) else _pieces(part))
    )


def least_tokens(text: str) -> int:
    """How many tokens a text has at least, start and end included."""
    return 2 + sum(-(-len(piece.encode()) // _LONGEST) for piece in heard(text))


def check_class_names(names: Sequence[str]) -> None:
    """Make sure that names can be told apart by who is asked about them.

    Raises:
        DataError: there are fewer than two, or one is empty, too long or another's equal.
    """
    if len(names) < 2:
        raise DataError(f"the dataset has {len(names)} class(es) {list(names)}; needed: 2 or more")
    for name in names:
        if not name.strip() or len(name) > MAX_CLASS_NAME_CHARS:
            raise DataError(
                f"class name {name[:40]!r} has {len(name)} characters; allowed: 1 to "
                f"{MAX_CLASS_NAME_CHARS}, not spaces alone"
            )
    alike: dict[tuple[str, ...], list[str]] = defaultdict(list)
    for name in names:
        alike[heard(name)].append(name)
    same = next((found for found in alike.values() if found[1:]), None)
    if same and len(set(same)) == 1:
        raise DataError(
            f"{len(same)} classes are called {same[0]!r} (underscores count as spaces); give each "
            "its own name"
        )
    if same:
        raise DataError(
            f"the class names {', '.join(map(repr, same[:5]))} are the same to CLIP's tokenizer, "
            "so one of them is never answered; give each its own with --class-names"
        )


def check_lengths(names: Iterable[str], *, context: str, suffix: str, most: int) -> None:
    """Make sure that prompts may fit a model's context of `most` tokens; the server counts exactly.

    Raises:
        DataError: one is certain to have more.
    """
    for name in names:
        tokens = least_tokens(f"{context} {name}{suffix}")
        if tokens > most:
            said = f"its prompt takes at least {tokens} tokens, at most {most} fit"
            raise DataError(too_long(name, said))


def too_long(name: str, said: str, *, others: int = 0) -> str:
    """What is said of a class name that has too many tokens; `said` counts them."""
    more = f" ({others:,} more are too long)" if others else ""
    return (
        f"class name {short(name)} is too long for the model: {said}; give a shorter one with "
        f"--class-names FILE{more}"
    )


def short(name: str) -> str:
    """A name in quotes, cut where it is long."""
    return repr(name if len(name) <= _SHOWN else f"{name[: _SHOWN - 3]}...")


def no_words(names: Iterable[str]) -> list[tuple[str, list[str]]]:
    """Names that say nothing to a text encoder: what is to be said of them, and which they are."""
    found: dict[str, list[str]] = {"a WordNet id": [], "a number": []}
    for name in names:
        if WORDNET_ID.fullmatch(name):
            found["a WordNet id"].append(name)
        elif _NUMBER.fullmatch(name):
            found["a number"].append(name)
    return [(_advice(kind, some[0]), some) for kind, some in found.items() if some]


def _advice(kind: str, name: str) -> str:
    more = (
        "; ImageNet's are in classnames.txt, which CoOp's DATASETS.md links to"
        if WORDNET_ID.fullmatch(name)
        else ""
    )
    return (
        f'class name that is {kind}, asked as "{ASKED.format(name)}": give words with '
        f"--class-names{more}"
    )


def _pieces(word: str) -> Iterable[str]:
    for kind, signs in groupby(word, key=_kind):
        run = "".join(signs)
        yield from run if kind == "N" else [run]


def _kind(sign: str) -> str:
    kind = unicodedata.category(sign)[0]
    return kind if kind in "LN" else ""
