"""How the server writes its log: one line per event on standard error, as text or as JSON.

Owns the form of a line, and what never stands in one: the message of an exception may quote what a
client sent, so an exception is logged by its kind and by where it was raised. Callers keep to the
same rule: a log has ids, figures, codes and digests, never prompts, class names, images, tokens or
names of owners.

    text   2026-01-31T12:00:00.000Z INFO craft_server.api.access_log req_5f... request status=200
    json   {"at": "2026-01-31T12:00:00.000Z", "level": "info", "logger": ..., "message": ...}
"""

import asyncio
import json
import logging
import sys
import threading
import traceback
from collections.abc import Iterator
from contextvars import ContextVar
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, Literal

_LOG = logging.getLogger(__name__)

OURS = ("craft_server", "uvicorn")
"""Loggers that follow the level asked for; others are heard from `warning` on."""

REQUEST_ID: ContextVar[str] = ContextVar("request_id", default="")
"""Id of the HTTP request that is being answered, in every line written meanwhile."""

_MOST_FRAMES = 30
_encode = json.JSONEncoder(ensure_ascii=False, default=str).encode


def configure(form: Literal["text", "json"], level: str) -> None:
    """Write every log of this process to standard error, warnings of libraries among them."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines() if form == "json" else TextLines())
    logging.basicConfig(handlers=[handler], level=logging.WARNING, force=True)
    for name in OURS:
        logging.getLogger(name).setLevel(level.upper())
    logging.captureWarnings(capture=True)
    threading.excepthook = on_thread_error


def fields(**values: Any) -> dict[str, Any]:
    """`extra=` of a logging call: more to be said in the line, by name."""
    return {"fields": values}


class JsonLines(logging.Formatter):
    """A record as one line of JSON."""

    def format(self, record: logging.LogRecord) -> str:
        """The line."""
        return _encode(_facts(record))


class TextLines(logging.Formatter):
    """A record as one line for people."""

    def format(self, record: logging.LogRecord) -> str:
        """The line."""
        facts = _facts(record)
        head = [facts.pop("at"), facts.pop("level").upper(), facts.pop("logger")]
        if "request_id" in facts:
            head.append(facts.pop("request_id"))
        stack = facts.pop("stack", [])
        line = " ".join([*head, facts.pop("message"), *_pairs(facts)])
        return "\n  at ".join([line.replace("\r", "\\r").replace("\n", "\\n"), *stack])


def on_loop_error(_: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """What an event loop does with an error that nobody waited for: log it as any other."""
    _LOG.error("an error that nobody waited for", exc_info=context.get("exception"))


def on_thread_error(ended: threading.ExceptHookArgs) -> None:
    """The same for an error that ended a thread."""
    _LOG.error("a thread ended with an error", exc_info=ended.exc_value)


def _facts(record: logging.LogRecord) -> dict[str, Any]:
    at = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
    facts: dict[str, Any] = {
        "at": at.removesuffix("+00:00") + "Z",
        "level": record.levelname.lower(),
        "logger": record.name,
        "message": record.getMessage(),
    }
    if request_id := REQUEST_ID.get():
        facts["request_id"] = request_id
    facts |= getattr(record, "fields", {})
    error = record.exc_info[1] if record.exc_info else None
    if error is not None:
        facts["error"] = " from ".join(type(one).__name__ for one in chain(error))
        facts["stack"] = _frames(error.__traceback__)
    return facts


def chain(error: BaseException | None) -> Iterator[BaseException]:
    """An error and what it came from, each once: `raise error.__cause__` makes a ring of them."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__


def _frames(trace: TracebackType | None) -> list[str]:
    frames = traceback.extract_tb(trace)[-_MOST_FRAMES:]
    return [f"{frame.filename}:{frame.lineno} {frame.name}" for frame in frames]


def _pairs(facts: dict[str, Any]) -> Iterator[str]:
    return (f"{name}={value}" for name, value in facts.items() if value is not None)
