"""What came of runs: rows for a terminal, and one HTML page that compares them.

read.py     a run directory as values, whoever works on it
tables.py   what the page says of these values
page.html   how it says it; page.css how that looks
page.py     the two together
"""

from craft_tuner.report.page import REPORT, compare, write_report
from craft_tuner.report.rows import cost_rows, summary_rows

__all__ = ["REPORT", "compare", "cost_rows", "summary_rows", "write_report"]
