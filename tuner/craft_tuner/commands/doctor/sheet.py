"""What was found: a line for each check, with what to do where something is wrong."""

import textwrap
from collections.abc import Callable
from typing import Literal

from pydantic import BaseModel, ConfigDict

from craft_tuner.errors import CraftTunerError

State = Literal["ok", "warn", "fail", "skipped"]

_STATE, _CHECK = 8, 12
"""Columns of a line's state and of the name of its check."""
_INDENT = 4
"""Of what follows on a narrow terminal."""


class Line(BaseModel):
    """One check: `fail` is in the way of a fit, `warn` may be, `skipped` could not be tried."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    state: State
    check: str
    says: str
    """What was found, then what to do."""

    def text(self, width: int | None = None) -> str:
        """For people: one line, or lines of so many columns, all but the first indented."""
        line = f"{self.state:<{_STATE}} {self.check:<{_CHECK}} {' '.join(self.says.split())}"
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

    @property
    def failures(self) -> int:
        """How many checks failed."""
        return sum(line.state == "fail" for line in self.lines)

    def add(self, state: State, check: str, says: str) -> None:
        """Write a line."""
        line = Line(state=state, check=check, says=says)
        self.lines.append(line)
        self._show(line)

    def skip(self, *checks: str, needs: str) -> None:
        """Write that checks were not tried for want of something."""
        for check in checks:
            self.add("skipped", check, f"needs {needs}")

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
        self._sheet.add("fail", self._check, error.message)
        return True
