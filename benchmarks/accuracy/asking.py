"""What an attacker asks about images, and everything that the model would answer.

Names of its own choice, or the only names that a policy allows in templates of its own. Texts are
encoded, and logits computed, by the server's model as the server does it, in this process.
"""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from benchmarks.accuracy.recovery import Floats
from benchmarks.common.class_names import names_of
from benchmarks.common.local import logits_of
from craft_server.engine.blackbox import BlackBox, Piece
from craft_server.logits.disclosure import disclose
from craft_shared.messages import LogitsRequest, Output, TextPrompts

FIXED = names_of("digits")
"""The only names of a key with a fixed class list."""
_GUESSED = """
zero one two three four five six seven eight nine 0 1 2 3 4 5 6 7 8 9
a b c d e f g h k m n p q r s t w x z alpha beta gamma delta sigma omega
photo image scan drawing sign letter digit number symbol character greek
small large tiny huge thin bold narrow wide tilted italic blurry noisy faint
white black bright dark red green blue yellow capital lowercase on paper of the
"""
WORDS = tuple(_GUESSED.split())
"""What somebody would guess who knows that the model reads characters. Names are a few of these."""
NONSENSE = "abcdefghijklmnopqrstuvwxyz "
"""For names that have nothing to do with the pictures."""

NAMES_PER_QUERY = 2000
"""Of one request, within the server's own limit."""
_LONGEST_NAME = 5
"""Words."""


@dataclass(frozen=True)
class Replies:
    """Everything that the model says of some texts, before the policy.

    Attributes:
        texts: features (T, D), as anybody computes them.
        logits: (N, T) float32, the server's own.
    """

    texts: Floats
    logits: Floats

    def told(self, texts: int, names: int, output: Output) -> tuple[Floats, Floats]:
        """Features (P, K, D) and what is told (P, N, K) of the first P x K <= `texts` texts."""
        prompts = texts // names
        count = prompts * names
        logits = self.logits[:, :count].reshape(len(self.logits), prompts, names)
        features = self.texts[:count].reshape(prompts, names, -1)
        return features, disclose(np.ascontiguousarray(logits.transpose(1, 0, 2)), output)


def ask(
    model: BlackBox, records: Sequence[bytes], templates: Sequence[str], names: Sequence[str]
) -> Replies:
    """Every name in every template, about every image; names run fastest."""
    features, texts, logits = model.load_features(records), [], []
    for start in range(0, len(names), NAMES_PER_QUERY):
        request = LogitsRequest(
            model=model.card.id,
            image_set="set_" + "0" * 32,
            class_names=list(names[start : start + NAMES_PER_QUERY]),
            prompts=TextPrompts(templates=list(templates)),
        )
        prompts = model.prepare(request, None)
        found = [model.encode_texts([Piece(prompts, run)])[0] for run in prompts.pieces]
        flat = [np.asarray(each, np.float32) for each in found]
        texts += [each.reshape(-1, each.shape[-1]) for each in flat]
        rows = logits_of(model, prompts, features)  # (P, N, K)
        logits.append(rows.transpose(1, 0, 2).reshape(len(records), -1))
    return Replies(np.concatenate(texts), np.concatenate(logits, axis=1))


def some_words(rng: random.Random) -> str:
    """A name of one to five words."""
    return " ".join(rng.choices(WORDS, k=rng.randint(1, _LONGEST_NAME)))


def some_letters(rng: random.Random) -> str:
    """A name without a meaning."""
    return "q" + "".join(rng.choices(NONSENSE, k=rng.randint(3, 30))).strip()


def some_template(rng: random.Random) -> str:
    """A template that says something else around the name."""
    return f"{some_words(rng)} {{}} {some_words(rng)}"


def replies(
    model: BlackBox, records: Sequence[bytes], pool: str, count: int, *, seed: int
) -> Replies:
    """To `count` texts of a pool, drawn anew for each seed."""
    rng = random.Random(f"{pool} {seed}")
    if pool == "fixed":
        templates = distinct(lambda: some_template(rng), count // len(FIXED))
        return ask(model, records, templates, FIXED)
    draw = some_letters if pool == "nonsense" else some_words
    return ask(model, records, ["{}"], distinct(lambda: draw(rng), count))


def distinct(draw: Callable[[], str], count: int) -> list[str]:
    """As many different strings."""
    found: dict[str, None] = {}
    while len(found) < count:
        found[draw()] = None
    return list(found)
