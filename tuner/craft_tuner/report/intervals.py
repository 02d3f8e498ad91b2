"""Intervals of 95 % for shares of test images and for differences between two ways of answering.

Each function names its source: Wilson 1927; Tango 1998; Newcombe 1998.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

Z = 1.959964
"""Of the normal distribution, two-sided 95 %."""

WILSON = "Wilson"
PAIRED = "Tango, paired answers"
UNPAIRED = "Newcombe, answers not paired"


class Interval(NamedTuple):
    """Both ends, shares or differences of shares."""

    low: float
    high: float


def wilson(right: int, images: int) -> Interval:
    """Wilson's score interval of `right` out of `images` (at least 1)."""
    share, spread = right / images, Z**2 / images
    centre = (share + spread / 2) / (1 + spread)
    half = math.sqrt(share * (1 - share) * spread + spread**2 / 4) / (1 + spread)
    return Interval(max(0.0, centre - half), min(1.0, centre + half))


def half_width(accuracy: float, images: int) -> float:
    """Half the width of Wilson's interval of an accuracy measured on so many images."""
    low, high = wilson(round(accuracy * images), images)
    return (high - low) / 2


def paired(gained: int, lost: int, images: int) -> Interval:
    """Of (gained - lost) / images, where each image was answered both ways: Tango's score interval.

    Its ends are the differences that the score test just does not refuse.
    """
    found = (gained - lost) / images
    low = _crossing(-1.0, found, lambda delta: _score(gained, lost, images, delta) > Z)
    high = _crossing(1.0, found, lambda delta: _score(gained, lost, images, delta) < -Z)
    return Interval(low, high)


def _score(gained: int, lost: int, images: int, delta: float) -> float:
    """Tango's statistic of a true difference `delta`."""
    linear = (2 * images - gained + lost) * delta - gained - lost
    constant = -lost * delta * (1 - delta)
    root = math.sqrt(max(0.0, linear**2 - 8 * images * constant))
    spread = images * ((root - linear) / (2 * images) + delta * (1 - delta))
    return (gained - lost - images * delta) / math.sqrt(max(spread, 1e-12))


def _crossing(outer: float, inner: float, refused: Callable[[float], bool]) -> float:
    """Where refusing begins on the way from `inner` to `outer`."""
    for _ in range(50):
        middle = (outer + inner) / 2
        if refused(middle):
            outer = middle
        else:
            inner = middle
    return (outer + inner) / 2


def unpaired(before: int, after: int, images: int) -> Interval:
    """Of (after - before) / images where it is not known which images are right.

    Newcombe's method 10, made of two Wilson intervals; wider than the paired one.
    """
    old, new = wilson(before, images), wilson(after, images)
    p, q = before / images, after / images
    return Interval(
        q - p - math.hypot(q - new.low, old.high - p),
        q - p + math.hypot(new.high - q, p - old.low),
    )


def mcnemar(gained: int, lost: int) -> float:
    """Exact two-sided p of so many gained and lost images, if both were as likely."""
    changed = gained + lost
    tail = math.fsum(
        math.exp(
            math.lgamma(changed + 1)
            - math.lgamma(k + 1)
            - math.lgamma(changed - k + 1)
            - changed * math.log(2)
        )
        for k in range(min(gained, lost) + 1)
    )
    return min(1.0, 2 * tail)
