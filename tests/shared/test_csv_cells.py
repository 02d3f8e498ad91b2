"""What a spreadsheet would take for a formula is text; all else is as it was."""

import pytest

from craft_shared.csv_cells import spreadsheet_safe


@pytest.mark.parametrize("first", list("=+-@\t\r"))
def test_a_formula_becomes_text(first):
    assert spreadsheet_safe(first + "SUM(A1:A9)") == "'" + first + "SUM(A1:A9)"


@pytest.mark.parametrize("plain", ["", "run 1", "a=b", "'", "2026-11-28T12:00:00Z"])
def test_other_text_is_as_it_was(plain):
    assert spreadsheet_safe(plain) == plain
