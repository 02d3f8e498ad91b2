"""How well a classifier tells two kinds of observations apart, with nothing known in advance.

An observation is a dict of numbers and texts. Thresholds are set on a quarter of them, the best
feature is chosen on another quarter, and the accuracy is that of the other half, which neither saw.
"""

import math
import random
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Observation = Mapping[str, float | str]
Rule = Callable[[Observation], bool]
"""From an observation to: is it of the second kind?"""

Labelled = Sequence[tuple[Observation, bool]]

TOGETHER = "all together"
"""The name of the rule that adds up all features."""


class Guess(NamedTuple):
    """How often a rule was right on what it had not seen.

    Attributes:
        feature: what it looks at.
        right: share of right answers, 0.5 is a coin.
        spread: standard deviation of the share that a coin would have.
    """

    feature: str
    right: float
    spread: float


def tell(seen: Labelled, *, seed: int = 0) -> tuple[Guess, list[Guess]]:
    """The accuracy of the feature that was chosen, and that of each, best first."""
    mixed = list(seen)
    random.Random(seed).shuffle(mixed)
    quarter, half = len(mixed) // 4, len(mixed) // 2
    fitted, chosen, tested = mixed[:quarter], mixed[quarter:half], mixed[half:]
    rules = {name: _rule(name, fitted) for name in _names(fitted)}
    rules[TOGETHER] = _sum(rules, fitted)
    best = max(rules, key=lambda name: _right(rules[name], chosen))
    spread = 0.5 / math.sqrt(len(tested))
    guesses = [Guess(name, _right(rule, tested), spread) for name, rule in rules.items()]
    guesses.sort(key=lambda guess: -guess.right)
    return next(guess for guess in guesses if guess.feature == best), guesses


def _names(seen: Labelled) -> list[str]:
    """Features that are not the same in all observations."""
    names = {name for observation, _ in seen for name in observation}
    return sorted(n for n in names if len({observation.get(n) for observation, _ in seen}) > 1)


def _rule(name: str, seen: Labelled) -> Rule:
    values = [(observation.get(name, ""), label) for observation, label in seen]
    if any(isinstance(value, str) for value, _ in values):
        return _by_value(name, values)
    return _by_threshold(name, [(float(value), label) for value, label in values])


def _by_value(name: str, values: Sequence[tuple[float | str, bool]]) -> Rule:
    """Says what most observations with the same value were; of a new value, nothing."""
    votes: defaultdict[float | str, Counter[bool]] = defaultdict(Counter)
    for value, label in values:
        votes[value][label] += 1
    second = {value for value, count in votes.items() if count[True] > count[False]}
    return lambda observation: observation.get(name, "") in second


def _by_threshold(name: str, values: Sequence[tuple[float, bool]]) -> Rule:
    """The threshold and direction that are right most often."""
    ordered = sorted(values)
    labels = np.array([label for _, label in ordered])
    below = np.concatenate([[0], np.cumsum(labels)])  # of the second kind, left of each cut
    cuts = np.arange(len(ordered) + 1)
    above_right = (cuts - below) + (below[-1] - below)
    upwards = above_right.max() >= len(ordered) - above_right.min()
    cut = int(above_right.argmax() if upwards else above_right.argmin())
    threshold = ordered[cut][0] if cut < len(ordered) else math.inf
    return lambda observation: (_number(observation, name) >= threshold) == upwards


def _sum(rules: Mapping[str, Rule], seen: Labelled) -> Rule:
    """Least squares on ranks of numbers and on the answers of the rules on texts."""
    names = list(rules)
    numbers = {n for n in names if not any(isinstance(o.get(n, ""), str) for o, _ in seen)}
    ranks = {n: np.sort([_number(o, n) for o, _ in seen]) for n in numbers}

    def row(observation: Observation) -> NDArray[np.float64]:
        return np.array(
            [
                np.searchsorted(ranks[n], _number(observation, n)) / len(seen) - 0.5
                if n in numbers
                else rules[n](observation) - 0.5
                for n in names
            ]
            + [1.0]
        )

    kept = [n in numbers for n in names] + [True]
    rows = np.stack([row(observation) for observation, _ in seen]) * kept
    labels = np.array([1.0 if label else -1.0 for _, label in seen])
    ridge = rows.T @ rows + 1e-2 * len(seen) * np.eye(rows.shape[1])
    weights = np.linalg.solve(ridge, rows.T @ labels)
    return lambda observation: bool((row(observation) * kept) @ weights > 0)


def _number(observation: Observation, name: str) -> float:
    value = observation.get(name, math.nan)
    return float(value) if not isinstance(value, str) else math.nan


def _right(rule: Rule, seen: Labelled) -> float:
    return sum(rule(observation) == label for observation, label in seen) / len(seen)
