"""Where the time of one request went: a port that does nothing by itself.

otel.py sends spans to a collector. Names and attributes of spans are words and figures of this
program, never what a client sent.
"""

from contextlib import AbstractContextManager, nullcontext


class Span:
    """A stretch of time under a name; this one is forgotten."""

    def set(self, **attributes: str | int) -> None:
        """Say more of it."""

    def rename(self, name: str) -> None:
        """Call it by a better name."""


_FORGOTTEN: AbstractContextManager[Span] = nullcontext(Span())


class Tracer:
    """Makes spans; one that is open when another begins is the other's parent."""

    def request(self, traceparent: str) -> AbstractContextManager[Span]:
        """The span of an HTTP request; its parent is that of a W3C `traceparent`, if there is."""
        del traceparent
        return _FORGOTTEN

    def span(self, name: str, **attributes: str | int) -> AbstractContextManager[Span]:
        """The span of a block of code; an error that ends it is noted by its kind."""
        del name, attributes
        return _FORGOTTEN

    def past(self, name: str, *, began: float, ended: float) -> None:
        """A span that is over, by `time.monotonic`."""

    def close(self) -> None:
        """Send what is left."""
