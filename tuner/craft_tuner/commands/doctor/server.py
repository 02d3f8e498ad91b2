"""The way to the server: address, proxy and certificates, an answer, readiness, its clock."""

import socket
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from threading import Event, Thread
from urllib.parse import urlsplit

from craft_shared import PROTOCOL_VERSION
from craft_shared.messages import Health, ModelCard
from craft_tuner.client.account import choose_model
from craft_tuner.client.responses import message
from craft_tuner.client.surroundings import way_to
from craft_tuner.client.transport import Call, Transport
from craft_tuner.commands.doctor.sheet import Sheet
from craft_tuner.commands.progress import Screen
from craft_tuner.config.connection import check_key, clean_url, is_loopback
from craft_tuner.config.settings import DEFAULT_SERVER, Sources
from craft_tuner.errors import AccessDenied, CraftTunerError, NoAnswer, UsageError

LONGEST_S = 10.0
"""No answer is waited for longer."""

_AHEAD_S = 60.0
"""Clocks that differ by more are told: ends of keys and certificates are then wrong."""
_TLS_S = 2.0
_TICK_S = 3.0


@dataclass(frozen=True)
class Reached:
    """A server that answered: the model's card, or why the key does not open it."""

    card: ModelCard | None
    denied: AccessDenied | None


def find_address(sheet: Sheet, sources: Sources) -> str | None:
    """The server's address, and where it was given."""
    with sheet.trying("address"):
        url, origin = clean_url(sources.settings.address()), sources.origins.get("server")
        if origin is None:
            sheet.add(
                "warn",
                "address",
                f"no server is named, {DEFAULT_SERVER} is assumed",
                "give --server, CRAFT_SERVER_URL or the file of --config",
            )
        elif url.startswith("http:") and not is_loopback(url):
            sheet.add(
                "warn",
                "address",
                f"the server {url} of {origin} is not encrypted: the key can be read on the way",
                "use https:// or a tunnel",
            )
        else:
            sheet.add("ok", "address", f"the server is {url} of {origin}")
        return url
    return None


def find_key(sheet: Sheet, sources: Sources) -> str | None:
    """The key, if there is one that can be sent."""
    with sheet.trying("key"):
        return check_key(sources.settings.connection().key)
    return None


def find_way(sheet: Sheet, url: str) -> bool:
    """Whether a connection can be tried: through which proxy, trusting whom."""
    with sheet.trying("way"):
        proxy = way_to(url).proxy
        sheet.add(
            "ok",
            "way",
            f"the way leads through the proxy {proxy}" if proxy else "no proxy in between",
        )
        return True
    return False


def connect(
    sheet: Sheet, transport: Transport, sources: Sources, *, screen: Screen
) -> Reached | None:
    """Ask which models there are, as a fit begins; None: no server answers."""
    card, denied = None, None
    try:
        with waiting(screen, transport.url):
            card = choose_model(transport, sources.settings.model)
    except AccessDenied as error:
        denied = error
    except UsageError as error:
        sheet.refuse("model", error.message)
    except CraftTunerError as error:
        sheet.refuse("connection", _instead(transport.url, error))
        return None
    milliseconds = f"{1000 * transport.took_s:.0f} ms"
    sheet.add("ok", "connection", f"protocol {PROTOCOL_VERSION}, an answer takes {milliseconds}")
    if card is not None:
        sheet.add("ok", "model", f"model {card.id}, {' and '.join(card.prompt_kinds)} prompts")
    return Reached(card, denied)


def check_ready(sheet: Sheet, transport: Transport, *, screen: Screen) -> None:
    """Whether the model scores; a gateway may let only the protocol's own calls through."""
    try:
        with waiting(screen, f"the readiness of {transport.url}"):
            transport.send(Call("GET", "/readyz", longest_s=LONGEST_S), message(Health))
    except NoAnswer as error:
        sheet.refuse("ready", error.message)
    except CraftTunerError:
        sheet.skip("ready", needs="a way to /readyz, which what stands in between hides")
    else:
        sheet.add("ok", "ready", "the server's store answers and its model scores")


def check_clock(sheet: Sheet, transport: Transport) -> None:
    """Whether this machine's clock is the server's."""
    ahead = transport.clock_ahead_s
    if ahead is None:
        sheet.skip("clock", needs="a date in the server's answers")
    elif abs(ahead) <= _AHEAD_S:
        sheet.add("ok", "clock", "the server's time is this machine's")
    else:
        way = "behind" if ahead > 0 else "ahead of"
        sheet.add(
            "warn",
            "clock",
            f"this machine is {abs(ahead):,.0f} s {way} the server, so that certificates and keys "
            "seem to end at other times",
            "set its clock (NTP), or tell the server's owner",
        )


@contextmanager
def waiting(screen: Screen, what: str) -> Iterator[None]:
    """Say every few seconds that something is still waited for."""
    over = Event()

    def tick() -> None:
        seconds = 0.0
        while not over.wait(_TICK_S):
            seconds += _TICK_S
            screen.say(f"waiting for {what} since {seconds:.0f} s")

    ticking = Thread(target=tick, daemon=True)
    ticking.start()
    try:
        yield
    finally:
        over.set()
        ticking.join()


def _instead(url: str, error: CraftTunerError) -> str:
    """Why there is no answer: that of a server that is to be spoken to in TLS is no reason."""
    if url.startswith("http:") and way_to(url).proxy is None and _speaks_tls(url):
        return f"{url} answers in TLS alone; give --server as https:{url.removeprefix('http:')}"
    return error.message


def _speaks_tls(url: str) -> bool:
    parts = urlsplit(url)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE  # nothing is told it
    try:
        with (
            socket.create_connection((parts.hostname, parts.port or 80), _TLS_S) as plain,
            context.wrap_socket(plain, server_hostname=parts.hostname),
        ):
            return True
    except (OSError, ValueError):
        return False
