"""Where the server is and who asks: addresses and keys, checked before they are used."""

import ipaddress
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
        UsageError: not an http or https URL.
    """
    cleaned = url.strip().rstrip("/").removesuffix(f"/{PROTOCOL_VERSION}").rstrip("/")
    try:
        parsed = urlsplit(cleaned)
        is_address = parsed.scheme in {"http", "https"} and parsed.hostname and parsed.port != 0
    except ValueError as error:
        raise UsageError(f"--server {url!r} is not a URL ({error})") from error
    if not is_address:
        raise UsageError(f"--server {url!r}; needed: a URL such as http://127.0.0.1:8000")
    return cleaned


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
    host = urlsplit(url).hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
