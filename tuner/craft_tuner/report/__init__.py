"""What came of runs: a verdict, rows for a terminal, and one HTML page that compares them.

read.py           a run directory as values, also while a fit writes to it
verdict.py        what a run came to, in one sentence; its intervals are in intervals.py
calibration.py    how sure the answers were against how often they were right
price.py          what 1,000 answers cost
command.py        the command that asks for a run again
summary.py        report.json and report.md
comparison.py     tables of the page that put runs side by side
class_tables.py   tables of the page about classes and single images
curves.py         its figures
page.html         the page; page.css how it looks, page.js sorts its tables
page.py           these together
terminal.py       rows for a terminal
export.py         an adapter with its model card (model_card.py), to hand on
"""

from craft_tuner.report.page import REPORT, compare, write_report
from craft_tuner.report.terminal import cost_rows, summary_rows
from craft_tuner.report.verdict import verdict_of

__all__ = ["REPORT", "compare", "cost_rows", "summary_rows", "verdict_of", "write_report"]
