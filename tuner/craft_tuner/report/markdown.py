"""Words from anywhere as Markdown that shows them and does nothing else.

A class, a model or a dataset may be called `<script>`, `[a](http://b)` or `| --- |`; cards are read
where HTML in Markdown is HTML.
"""

import html
import re

from craft_tuner.errors import printable

_SPECIAL = re.compile(r"[\\`*\[\]|~$@]|(?<!\w)_|_(?!\w)|:(?=//)|(?<=www)\.", re.IGNORECASE)
"""Emphasis, code, links (those that need no brackets too), cells, formulas. An underscore within a
word is none of these."""
_LINE_START = re.compile(r"^(\d*)([-+=#.)])")
"""What would begin a list, or make a heading of the line before."""


def plain(text: str) -> str:
    """Text for a paragraph, a heading or a cell of a table: one line, shown as it is."""
    line = " ".join(printable(text).split())
    marked = html.escape(_SPECIAL.sub(r"\\\g<0>", line), quote=False)
    return _LINE_START.sub(r"\1\\\2", marked)


def code(text: str) -> str:
    """Text as code in one line, for a cell of a table too."""
    line = " ".join(printable(text).split()).replace("|", "\\|")
    longest = max(map(len, re.findall("`+", line)), default=0)
    fence = "`" * (longest + 1)
    edge = " " if line.startswith("`") or line.endswith("`") else ""
    return f"{fence}{edge}{line}{edge}{fence}"
