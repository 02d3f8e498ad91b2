"""One call to the server, sent until it is answered: retries, waiting, problem documents.

Sent again: calls that never got an answer (no connection, time-out, reply cut short), errors
whose problem document says `retryable`, and 408, 429 and 5xx of a gateway in between. The very
same bytes and headers go out each time, the Idempotency-Key included, so a retry is never a second
purchase. A server that never answered is given up on early: most likely its address is wrong.
Nothing of a reply leads elsewhere: redirects are not followed, cookies are not kept. How much of
one is read, and for how long, is in receiving.py.
"""

import math
import random
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Self, TypeVar

import httpx

from craft_shared.tensors import MalformedTensors
from craft_tuner.activity import doing
from craft_tuner.client.errors_by_code import error_of
from craft_tuner.client.failures import (
    CONNECT_TIMEOUT_S,
    gateway_says,
    mistrust,
    reason,
    seconds_ahead,
)
from craft_tuner.client.receiving import ReplyWatch, receive
from craft_tuner.client.responses import (
    Garbled,
    not_of_this_protocol,
    problem_of,
    retry_after_s,
    shortened,
)
from craft_tuner.client.surroundings import way_to
from craft_tuner.config.connection import Connection, check_key, clean_url, user_agent
from craft_tuner.errors import CraftTunerError, NoAnswer, ServerUnreachable

_GATEWAY_STATUSES = frozenset({408, 429, 500, 502, 503, 504})
_TOO_LARGE = 413

LOOKUP_BYTES = 4 * 1024 * 1024
"""Of a reply to a lookup: a card or a key may name 10,000 classes, a year has 8,760 hours."""

T = TypeVar("T")

Files = list[tuple[str, tuple[str, bytes, str]]]
"""Parts of a multipart body: (field, (file name, bytes, media type))."""


@dataclass(frozen=True)
class Patience:
    """How often a call is sent and how long to wait between: full jitter, doubling, capped."""

    attempts: int = 10
    first_attempts: int = 3
    """Attempts while the server has never answered anything."""
    base_s: float = 0.5
    cap_s: float = 60.0
    retry_after_cap_s: float = 120.0

    def wait_s(self, attempt: int, *, uniform: float, retry_after_s: float | None) -> float:
        """Seconds before attempt + 1; `uniform` is a random number in [0, 1)."""
        jitter = uniform * min(self.cap_s, self.base_s * 2.0 ** (attempt - 1))
        return max(jitter, min(retry_after_s or 0.0, self.retry_after_cap_s))


@dataclass(frozen=True)
class Call:
    """One HTTP request, as often as it may have to be sent."""

    method: str
    path: str
    params: Mapping[str, str] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    content: bytes | None = None
    files: Files | None = None
    longest_s: float = math.inf
    """Read time-out in seconds, where the connection's is longer than this call should take."""
    most_attempts: float = math.inf
    """How often to try at most, where the transport's patience is longer."""
    reply_bytes: int = LOOKUP_BYTES
    """Most bytes that an honest reply has; no more is read."""


class Trouble(NamedTuple):
    """Why a call has to be sent again, and after how many seconds at least."""

    reason: str
    retry_after_s: float | None = None


class Transport:
    """A pool of connections to one server.

    Args:
        connection: address, key and read time-out.
        patience: how often and how long to try.
        notice: called with a sentence when the transport waits.
        sleep: waits so many seconds.
        uniform: gives random numbers in [0, 1).
        mock: answers requests in place of a network.
    """

    def __init__(
        self,
        connection: Connection,
        *,
        patience: Patience = Patience(),
        notice: Callable[[str], None] = lambda _: None,
        sleep: Callable[[float], None] = time.sleep,
        uniform: Callable[[], float] = random.random,
        mock: httpx.BaseTransport | None = None,
    ) -> None:
        self.url = clean_url(connection.url)
        self._patience = patience
        self._notice = notice
        self._sleep = sleep
        self._uniform = uniform
        self.took_s = 0.0
        """Seconds from sending to reading of the last request that was answered, waiting apart."""
        self.clock_ahead_s: float | None = None
        """Seconds that the clock of the last answer is ahead of this machine's, if it tells."""
        self._timeout_s = connection.timeout_s
        self._answered = False
        self._connection: dict[str, Any] = {}
        self._way = way_to(self.url)
        self._http = httpx.Client(
            base_url=self.url,
            headers={
                "Authorization": f"Bearer {check_key(connection.key)}",
                "User-Agent": user_agent(),
                "Accept-Encoding": "identity",
            },
            follow_redirects=False,  # to wherever a reply says, with the key
            transport=mock,
            trust_env=False,  # what counts of it is in the way
            proxy=self._way.http_proxy,
            verify=self._way.tls,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the pool."""
        self._http.close()

    def send(self, call: Call, read: Callable[[httpx.Response], T]) -> T:
        """Send a call until it is answered and give what `read` makes of the answer.

        `read` sees successful replies only; it may raise Garbled to have the call sent again.

        Raises:
            NoAnswer: no answer, or still busy after all attempts; or a gateway takes no such body.
            ServerUnreachable: not a craft-server.
            CraftTunerError: the server refused; the kind depends on its code (`errors_by_code`).
        """
        attempt = 0
        while True:
            outcome = self._send_once(call, read)
            if not isinstance(outcome, Trouble):
                return outcome
            attempt += 1
            if attempt >= min(self._attempts, call.most_attempts):
                raise self._given_up(call, outcome, attempt)
            self._wait(attempt, outcome)

    @property
    def _attempts(self) -> int:
        return self._patience.attempts if self._answered else self._patience.first_attempts

    def _send_once(self, call: Call, read: Callable[[httpx.Response], T]) -> T | Trouble:
        longest_s = min(self._timeout_s, call.longest_s)
        with ReplyWatch(longest_s + _GRACE_S, self._connection) as watch:
            try:
                response = self._exchange(call, watch)
            except httpx.TransportError as error:
                lasting = mistrust(self.url, error)
                if lasting is not None:
                    raise lasting from error
                return Trouble(_LATE if watch.overdue else reason(error))
            if watch.overdue:
                return Trouble(_LATE)
        try:
            return self._judge(call, response, read)
        except (Garbled, MalformedTensors) as error:
            return Trouble(f"the reply cannot be read ({error})")

    def _exchange(self, call: Call, watch: ReplyWatch) -> httpx.Response:
        """Send a call once and read the reply."""
        request = self._http.build_request(
            call.method,
            call.path,
            params=dict(call.params),
            headers=dict(call.headers),
            content=call.content,
            files=call.files,
            timeout=httpx.Timeout(min(self._timeout_s, call.longest_s), connect=CONNECT_TIMEOUT_S),
            extensions={"trace": watch.trace},
        )
        started = time.monotonic()
        try:
            with doing("waiting for the server"):
                response = self._http.send(request, stream=True)
        except (httpx.InvalidURL, ValueError) as error:  # a Location of no address, say
            raise ServerUnreachable(
                f"{self.url} answers {call.method} {call.path} with a head that cannot be read "
                f"({type(error).__name__}); check that --server is a craft-server's address"
            ) from error
        try:
            with doing("receiving the reply"):
                whole = receive(response, most_bytes=call.reply_bytes, watch=watch)
        finally:
            response.close()
            self._http.cookies.clear()
        self.took_s = time.monotonic() - started
        self.clock_ahead_s = seconds_ahead(whole)
        return whole

    def _judge(
        self, call: Call, response: httpx.Response, read: Callable[[httpx.Response], T]
    ) -> T | Trouble:
        if response.is_success:
            result = read(response)
            self._answered = True
            return result
        problem = problem_of(response)
        if problem is None and response.status_code in _GATEWAY_STATUSES:
            return Trouble(gateway_says(response), retry_after_s(response))
        if problem is None and response.status_code == _TOO_LARGE:
            raise self._too_large(call, response)
        if problem is None:
            raise self._foreign(call, response)
        self._answered = True
        if problem.retryable:
            return Trouble(problem.detail, retry_after_s(response))
        raise error_of(problem)

    def _wait(self, attempt: int, trouble: Trouble) -> None:
        seconds = self._patience.wait_s(
            attempt, uniform=self._uniform(), retry_after_s=trouble.retry_after_s
        )
        self._notice(f"{self.url}: {trouble.reason}; trying again in {seconds:.1f} s")
        with doing(f"waiting to ask {self.url} again"):
            self._sleep(seconds)

    def _given_up(self, call: Call, trouble: Trouble, attempts: int) -> CraftTunerError:
        times = "1 attempt" if attempts == 1 else f"{attempts} attempts"
        tried = f"{call.method} {call.path} after {times}: {trouble.reason}"
        advice = (
            "try again later; what was bought is not paid twice"
            if self._answered
            else "check that the server runs (`craft-server serve`) and that --server is right"
        )
        if self._way.proxy is not None:
            advice += f"; the way leads through the proxy {self._way.proxy}"
        return NoAnswer(f"no answer from {self.url} to {tried}; {advice}")

    def _too_large(self, call: Call, response: httpx.Response) -> CraftTunerError:
        size = int(response.request.headers.get("content-length", "0"))
        return NoAnswer(
            f"a gateway at {self.url} takes no body of {size:,} bytes for {call.method} "
            f"{call.path}; its limit (client_max_body_size of nginx) should be the server's own"
        )

    def _foreign(self, call: Call, response: httpx.Response) -> CraftTunerError:
        if response.has_redirect_location:
            where = shortened(response.headers["location"])
            return ServerUnreachable(
                f"{self.url} sends {call.path} on to {where}; give the "
                "server's own address with --server"
            )
        return not_of_this_protocol(response)


_GRACE_S = 2.0
"""A server that says nothing at all is left to the read time-out, which says so."""

_LATE = "the reply came too slowly and was cut off (--timeout)"
