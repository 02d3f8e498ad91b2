"""Where the server is and who asks: addresses and keys, checked before they are used."""

import ipaddress
import re
from dataclasses import dataclass
from importlib import metadata
from urllib.parse import urlsplit

from craft_shared import PROTOCOL_VERSION
from craft_tuner.errors import UsageError

READ_TIMEOUT_S = 630.0
"""Longer than a server's own deadline (600 s by default), so that the server gives up first."""


@dataclass(frozen=True)
class Connection:
    """Where the server is and who asks."""

    url: str
    key: str
    timeout_s: float = READ_TIMEOUT_S


def clean_url(url: str) -> str:
    """The server's address without a trailing slash or /v1.

    Raises:
        UsageError: not an http or https URL of a host.
    """
    cleaned = url.strip().rstrip("/").removesuffix(f"/{PROTOCOL_VERSION}").rstrip("/")
    try:
        fault = _fault(cleaned)
    except UnicodeError:
        fault = "a part of its host is empty or too long"
    except ValueError as error:
        fault = str(error)
    if fault is not None:
        shown = re.sub("//.*@", "//...@", url)
        raise UsageError(
            f"--server {shown!r} is no address ({fault}); needed: a URL such as "
            "http://127.0.0.1:8000, in CRAFT_SERVER_URL or the file of --config too"
        )
    return cleaned


def _fault(url: str) -> str | None:
    """What is wrong with an address; ValueError may say it as well."""
    parsed = urlsplit(url)
    host = parsed.hostname or ""
    if not url.isprintable() or " " in url:
        return "it has blanks or control characters"
    if parsed.scheme not in {"http", "https"}:
        return "it does not begin with http:// or https://"
    if "@" in parsed.netloc:
        return "keys go into --key, no name and password before the host"
    if "?" in url or "#" in url:
        return "nothing stands behind a ? or #"
    if not host or parsed.port == 0:
        return "it has no host" if not host else "there is no port 0"
    if re.fullmatch(r"[0-9.]*\.[0-9]+\.?", host):
        ipaddress.IPv4Address(host.removesuffix("."))
    host.encode("idna")
    return None


def check_key(key: str) -> str:
    """The key, if a header can carry it.

    Raises:
        UsageError: it is empty or has characters that no key has.
    """
    if not key or not key.isascii() or not key.isprintable() or " " in key:
        raise UsageError(
            f"the API key of {len(key)} characters is empty or has characters that no key has; "
            "give it with --key or CRAFT_API_KEY, as in craft_..."
        )
    return key


def user_agent() -> str:
    """What the tuner calls itself: its version and the protocol's."""
    return f"craft-tuner/{metadata.version('craft-blackbox')} (protocol {PROTOCOL_VERSION})"


def is_loopback(url: str) -> bool:
    """Is it this machine? Then no proxy of the environment stands in between."""
    host = (urlsplit(url).hostname or "").removesuffix(".")
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")
