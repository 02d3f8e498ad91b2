"""What a model says of texts before anybody pays for them: how long they are, which it refuses."""

from collections.abc import Callable, Generator, Iterable
from dataclasses import dataclass
from typing import TypeVar

from craft_shared.errors import Code, Refusal

MOST_REFUSED = 100
"""Refused texts that are told of one request; what comes after them is not read."""

T = TypeVar("T")


class TooManyTokens(Refusal):
    """A text takes more tokens than the model's context has, start and end included.

    Args:
        text: as the tower would read it.
        tokens: how many it takes.
        fit: how many may be.
        least: it was not tokenised; it takes `tokens` or more.
    """

    def __init__(self, text: str, tokens: int, *, fit: int, least: bool = False) -> None:
        count = f"at least {tokens}" if least else str(tokens)
        detail = f"{shown(text)} takes {count} tokens, at most {fit} fit"
        super().__init__(Code.TOO_MANY_TOKENS, detail, param="prompts")
        self.tokens = tokens


@dataclass(frozen=True)
class Counted:
    """What came of counting texts.

    Attributes:
        longest: tokens of the longest, start and end included, the refused ones too.
        refused: the number of a text and why it is refused, at most `MOST_REFUSED`.
        context: tokens of a soft prompt's context; None for templates.
    """

    longest: int
    refused: tuple[tuple[int, Refusal], ...]
    context: int | None = None


def count_in_steps(
    texts: Iterable[T], tokens_of: Callable[[T], int]
) -> Generator[None, None, Counted]:
    """Count the tokens of texts, one in each step; `tokens_of` may raise a Refusal of its own."""
    longest, refused = 0, list[tuple[int, Refusal]]()
    for number, text in enumerate(texts):
        if len(refused) == MOST_REFUSED:
            break
        yield
        try:
            longest = max(longest, tokens_of(text))
        except Refusal as refusal:
            refused.append((number, refusal))
            if isinstance(refusal, TooManyTokens):
                longest = max(longest, refusal.tokens)
    return Counted(longest, tuple(refused))


def shown(text: str) -> str:
    """A text in quotes, cut where it is long."""
    return repr(text if len(text) <= 60 else text[:57] + "...")
