"""What was found: a line for each check, with what to do where something is wrong."""

import textwrap
from collections.abc import Callable
from typing import Literal

from pydantic import BaseModel, ConfigDict

from craft_tuner.errors import CraftTunerError

State = Literal["ok", "warn", "fail", "skip"]

_INDENT = 6
"""Columns of a line's state, and of what follows on a narrow terminal."""


class Line(BaseModel):
    """One check: `fail` is in the way of a fit, `warn` may be, `skip` could not be tried."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    check: str
    state: State
    found: str
    do: str = ""

    @property
    def says(self) -> str:
        """What was found, then what to do."""
        return f"{self.found}; {self.do}" if self.do else self.found

    def text(self, width: int | None = None) -> str:
        """For people: one line, or lines of so many columns, all but the first indented."""
        line = f"{self.state:<{_INDENT}}{' '.join(self.says.split())}"
        if width is None:
            return line
        wrapped = textwrap.wrap(
            line,
            width=width,
            subsequent_indent=" " * _INDENT,
            break_long_words=False,
            break_on_hyphens=False,
        )
        return "\n".join(wrapped)


class Sheet:
    """The lines of one examination, shown as they come.

    Args:
        show: called with each line.
    """

    def __init__(self, show: Callable[[Line], None] = lambda _: None) -> None:
        self.lines: list[Line] = []
        self._show = show

    def count(self, state: State) -> int:
        """How many lines have a state."""
        return sum(line.state == state for line in self.lines)

    def add(self, state: State, check: str, found: str, do: str = "") -> None:
        """Write a line: what was found, and what to do about it."""
        line = Line(check=check, state=state, found=found, do=do)
        self.lines.append(line)
        self._show(line)

    def skip(self, *checks: str, needs: str) -> None:
        """Write that checks were not tried for want of something."""
        for check in checks:
            self.add("skip", check, f"{check}: needs {needs}")

    def refuse(self, check: str, message: str) -> None:
        """Write a failure in the words of an error: what was wrong; what to do."""
        found, _, do = message.partition("; ")
        self.add("fail", check, found, do)

    def trying(self, check: str) -> "_Trying":
        """A context: what is refused in it is a failure of this check, in the refusal's words."""
        return _Trying(self, check)


class _Trying:
    """See `Sheet.trying`."""

    def __init__(self, sheet: Sheet, check: str) -> None:
        self._sheet = sheet
        self._check = check

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> bool:
        if not isinstance(error, CraftTunerError):
            return False
        self._sheet.refuse(self._check, error.message)
        return True
