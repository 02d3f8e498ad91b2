"""What came of runs: rows for a terminal, and one HTML page that compares them.

read.py           a run directory as values, also while a fit writes to it
comparison.py     tables of the page that put runs side by side
class_tables.py   tables of the page about classes and single images
curves.py         its figures
page.html         the page; page.css how it looks
page.py           these together
terminal.py       rows for a terminal
export.py         an adapter with its model card (model_card.py), to hand on
"""

from craft_tuner.report.page import REPORT, compare, write_report
from craft_tuner.report.terminal import cost_rows, summary_rows, time_words

__all__ = ["REPORT", "compare", "cost_rows", "summary_rows", "time_words", "write_report"]
