"""A finding: what a check found, and what to do about it."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal, NamedTuple

from craft_server.db.schema import SchemaError
from craft_server.settings import ModelError
from craft_shared.errors import Refusal

State = Literal["ok", "warn", "fail"]


class Finding(NamedTuple):
    """One line of the screen; `fail` keeps a server from serving, `warn` may be meant."""

    check: str
    state: State
    found: str
    do: str = ""

    @property
    def line(self) -> str:
        """As people read it."""
        return f"{self.state:<4}  {self.found}" + (f"; {self.do}" if self.do else "")


class Check:
    """The findings of one check, as they come.

    Args:
        name: of the check, for programs.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.findings: list[Finding] = []

    @property
    def failed(self) -> bool:
        """Was there anything that keeps a server from serving?"""
        return any(each.state == "fail" for each in self.findings)

    def ok(self, found: str) -> None:
        """This is as it should be."""
        self.findings.append(Finding(self.name, "ok", found))

    def warn(self, found: str, do: str) -> None:
        """A server would serve, but perhaps not as it is meant to."""
        self.findings.append(Finding(self.name, "warn", found, do))

    def fail(self, found: str, do: str) -> None:
        """A server would not serve."""
        self.findings.append(Finding(self.name, "fail", found, do))

    @contextmanager
    def refused(self, do: str) -> Iterator[None]:
        """What the server's own code refuses in the block becomes a finding.

        Args:
            do: where the error itself does not say what to do, after its first "; ".
        """
        try:
            yield
        except (ModelError, SchemaError, Refusal, OSError, ValueError) as error:
            sentence = error.detail if isinstance(error, Refusal) else str(error)
            found, _, advice = " ".join(sentence.split()).partition("; ")
            self.fail(found, advice or do)
