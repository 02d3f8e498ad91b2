"""Why no answer came, in words: of a connection that failed, and of a gateway that answers instead.

Owns how much is shown of a text that is not the protocol's: its first words, without markup and
control characters.
"""

import html
import re
import socket
import ssl
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http.client import responses
from typing import TypeVar

import httpx

from craft_tuner.errors import ServerUnreachable

CONNECT_TIMEOUT_S = 5.0
WORDS_CHARS = 120
"""Of a gateway's text that is shown."""

_READ_BYTES = 4096
"""Of a gateway's text that is searched for words."""
_MARKUP = re.compile(r"<(script|style)\b.*?</\1\s*>|<!--.*?-->|<[^<>]*>", re.DOTALL | re.IGNORECASE)

_OUT_OF_DATE = (9, 10)
"""OpenSSL's codes of certificates that are not valid yet, or no more."""
_NUMBER = re.compile(r"^\[Errno -?\d+\] ")
"""Of an error of the operating system, before its words."""

E = TypeVar("E", bound=BaseException)


def reason(error: httpx.TransportError) -> str:
    """What happened to a call, for people."""
    if isinstance(error, httpx.ConnectTimeout):
        return f"no connection within {CONNECT_TIMEOUT_S:g} s"
    if isinstance(error, httpx.TimeoutException):
        return "no reply in time (--timeout)"
    unknown = _cause(error, socket.gaierror)
    if unknown is not None:
        return f"no address is known for its name ({unknown.strerror})"
    return _NUMBER.sub("", str(error)) or type(error).__name__


def mistrust(url: str, error: BaseException) -> ServerUnreachable | None:
    """The error where TLS came to no agreement, which the next attempt would not either."""
    untrusted = _cause(error, ssl.SSLCertVerificationError)
    if untrusted is not None:
        advice = (
            "its owner has to renew it, unless this machine's clock is wrong"
            if untrusted.verify_code in _OUT_OF_DATE
            else "name its authority's PEM file with SSL_CERT_FILE, or give the name that it is "
            "for with --server"
        )
        shown = f"a certificate that is not trusted ({untrusted.verify_message})"
        return ServerUnreachable(f"{url} shows {shown}; {advice}")
    other = _cause(error, ssl.SSLError)
    if other is not None and other.reason == "WRONG_VERSION_NUMBER":
        return ServerUnreachable(
            f"{url} does not answer in TLS; if it is a plain server, give --server as http://"
        )
    return None


def gateway_says(response: httpx.Response) -> str:
    """A gateway's status and the first words of its text."""
    status = response.status_code
    words = first_words(response.content) or responses.get(status)
    return f"a gateway answers {status}" + (f" ({words})" if words else "")


def first_words(body: bytes) -> str:
    """The first words of a page or a text; no markup, no control characters."""
    text = body[:_READ_BYTES].decode("utf-8", errors="ignore")
    text = html.unescape(_MARKUP.sub(" ", text))
    shown = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return shown if len(shown) <= WORDS_CHARS else f"{shown[:WORDS_CHARS].rstrip()}..."


def seconds_until(date: str, response: httpx.Response) -> float | None:
    """Seconds from a reply, by its own clock where it tells, to an HTTP date; None: it is none."""
    try:
        until = parsedate_to_datetime(date)
        said = response.headers.get("date")
        now = parsedate_to_datetime(said) if said else datetime.now(UTC)
        return max(0.0, (until - now).total_seconds())
    except (TypeError, ValueError, OverflowError):
        return None


def seconds_ahead(response: httpx.Response) -> float | None:
    """How far the clock of who answers is ahead of this machine's; None: it does not tell."""
    try:
        said = parsedate_to_datetime(response.headers["date"])
        return (said - datetime.now(UTC)).total_seconds()
    except (KeyError, TypeError, ValueError, OverflowError):
        return None


def _cause(error: BaseException | None, kind: type[E]) -> E | None:
    """The first of this kind among what led to an error."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        if isinstance(error, kind):
            return error
        seen.add(id(error))
        error = error.__cause__ or error.__context__
    return None
