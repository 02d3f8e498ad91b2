"""`shots` is a number, at most a number, or all; anything else is refused with what is needed."""

import numpy as np
import pytest

from craft_tuner.config.fit_config import build
from craft_tuner.config.shots import MOST, most, takes_fewer
from craft_tuner.errors import UsageError


@pytest.mark.parametrize(
    ("given", "shots", "largest", "fewer"),
    [
        (16, 16, 16, False),
        ("16", 16, 16, False),
        (" 4 ", 4, 4, False),
        (np.int64(8), 8, 8, False),
        (MOST, MOST, MOST, False),
        ("up to 16", "up to 16", 16, True),
        ("Up  To 016", "up to 16", 16, True),
        (f"up to {MOST}", f"up to {MOST}", MOST, True),
        ("all", "all", 10**9, True),
        (" ALL ", "all", 10**9, True),
    ],
)
def test_what_may_be_said(given, shots, largest, fewer):
    config = build({"shots": given})
    assert config.shots == shots
    assert (most(config.shots), takes_fewer(config.shots)) == (largest, fewer)
    assert type(config).model_validate_json(config.model_dump_json()) == config


@pytest.mark.parametrize(
    "given",
    [
        *(0, -1, MOST + 1, "0", "up to 0", "up to", "up to -3", "upto 3", f"up to {MOST + 1}"),
        *("some", "", "1.5", 1.5, True, None, [4], "up to all", "\u0661", "9" * 5000),
    ],
)
def test_anything_else_is_refused_in_a_sentence(given):
    with pytest.raises(UsageError, match='needed: 1 to 10,000, "up to N" or "all"'):
        build({"shots": given})


@pytest.mark.parametrize(("shots", "budget"), [("all", 8000), ("up to 8", 8000), ("up to 2", 4000)])
def test_the_papers_budget_is_that_of_the_largest_class_that_may_be(shots, budget):
    assert build({"shots": shots}).paper_budget == budget


def test_the_paper_has_numbers_alone():
    with pytest.raises(UsageError, match="needs a --shots of the paper, not all"):
        build({"preset": "dtd", "paper_exact": True, "shots": "all"})
