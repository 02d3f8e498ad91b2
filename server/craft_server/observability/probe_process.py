"""The process that answers probes, so that no work of the server's can delay an answer.

    python -I -S probe_process.py HOST PORT METRICS_PORT

Owns the port of probes and metrics, the words of an answer, and the rules by which a state is
alive or ready. It is a program of the standard library alone, started by probes.py, which writes a
line of JSON with the server's `State` to its standard input now and then. A thread of the server's
could not promise an answer in time: it waits for Python's one lock, and some calls keep that for
seconds. /livez and /readyz are answered here, from the last state and the clock that both processes
share; everything else is asked of the server's own metrics. The end of the input ends it.
"""

import asyncio
import errno
import json
import sys
import time
from typing import NamedTuple

LOOP_SILENT_S = 30.0
"""An event loop that has not come round for so long is dead: attacks kept it from that for 7 s."""

STORE_SILENT_S = 4.0
"""A store that last answered so long ago is away: it is asked every second."""

_HEAD_S = 5.0
_HEAD_BYTES = 8192
_METRICS_S = 30.0
_BIND_S = 5.0
"""How long the port may still belong to a server that was just killed."""
_PIECE = 65536
_KEPT_HEADERS = ("accept:", "accept-encoding:")


class State(NamedTuple):
    """How a server is; times are of `time.monotonic`, the same in all processes of a machine."""

    loop_at: float
    """When the event loop last came round."""
    store_at: float
    """When the store last answered."""
    busy_since: float | None
    """When the batch on the device began; None if none runs."""
    stalled_s: float
    """A device that is at one batch for longer hangs."""
    unready: str | None
    """Why the server is not ready, as far as its event loop knows."""


def dead(state: State, now: float) -> str | None:
    """Why a server should be started again; None while it lives."""
    if now - state.loop_at > LOOP_SILENT_S:
        return f"the event loop has not come round for {now - state.loop_at:.0f} s"
    if state.busy_since is not None and now - state.busy_since > state.stalled_s:
        return f"the device has been at one batch for {now - state.busy_since:.0f} s"
    return None


def away(state: State, now: float) -> str | None:
    """Why the store is away; None while it answers."""
    silent_s = now - state.store_at
    return f"the store has not answered for {silent_s:.0f} s" if silent_s > STORE_SILENT_S else None


def unready(state: State, now: float) -> str | None:
    """Why a server should get no requests; None while it should."""
    return state.unready or dead(state, now) or away(state, now)


class Probes:
    """Answers requests by the state that came last."""

    def __init__(self, metrics_port: int) -> None:
        self._metrics_port = metrics_port
        self._state: State | None = None

    async def follow(self, states: asyncio.StreamReader) -> None:
        """Take states, a line each, until they end."""
        while line := await states.readline():
            self._state = State(**json.loads(line))

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer one request and close."""
        try:
            received = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), _HEAD_S)
            request, *headers = received.decode("latin-1").split("\r\n")
            method, target = request.split(" ")[:2]
            path = target.partition("?")[0]
            if path in {"/livez", "/readyz"}:
                head, body = self._answer(path)
                writer.write(head if method == "HEAD" else head + body)
            else:
                await asyncio.wait_for(self._forward(request, headers, writer), _METRICS_S)
            await writer.drain()
        except (OSError, EOFError, TimeoutError, ValueError, IndexError, asyncio.LimitOverrunError):
            pass  # who asks like that gets no answer
        finally:
            writer.close()

    def _answer(self, path: str) -> tuple[bytes, bytes]:
        """Head and body."""
        now = time.monotonic()
        if self._state is None:
            detail: str | None = "the server is starting"
        else:
            detail = dead(self._state, now) if path == "/livez" else unready(self._state, now)
        if detail is None:
            return _response("200 OK", {"status": "ok"})
        return _response("503 Service Unavailable", {"status": "not_ready", "detail": detail})

    async def _forward(
        self, request: str, headers: list[str], writer: asyncio.StreamWriter
    ) -> None:
        inner, outer = await asyncio.open_connection("127.0.0.1", self._metrics_port)
        try:
            kept = [line for line in headers if line.lower().startswith(_KEPT_HEADERS)]
            method, target = request.split(" ")[:2]
            asked = "GET" if method == "HEAD" else method  # the metrics know no HEAD
            lines = [f"{asked} {target} HTTP/1.0", *kept, "", ""]
            outer.write("\r\n".join(lines).encode("latin-1"))
            if method == "HEAD":
                writer.write(await inner.readuntil(b"\r\n\r\n"))
                return
            while piece := await inner.read(_PIECE):
                writer.write(piece)
                await writer.drain()
        finally:
            outer.close()


def _response(status: str, message: dict[str, str]) -> tuple[bytes, bytes]:
    body = json.dumps(message).encode()
    head = (
        f"HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n"
        "Cache-Control: no-store\r\nConnection: close\r\n\r\n"
    )
    return head.encode(), body


async def _bound(probes: Probes, host: str, port: int) -> asyncio.Server:
    end = time.monotonic() + _BIND_S
    while True:
        try:
            return await asyncio.start_server(probes.serve, host, port, limit=_HEAD_BYTES)
        except OSError as error:
            if error.errno != errno.EADDRINUSE or time.monotonic() > end:
                raise
        await asyncio.sleep(0.1)


async def main(host: str, port: int, metrics_port: int) -> None:
    """Say the port on standard output, then answer until the input ends."""
    probes = Probes(metrics_port)
    try:
        server = await _bound(probes, host, port)
    except OSError as error:
        sys.stdout.write(f"{error.strerror or error}\n")
        return
    sys.stdout.write(f"{server.sockets[0].getsockname()[1]}\n")
    sys.stdout.flush()
    states = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(states), sys.stdin
    )
    await probes.follow(states)
    server.close()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3])))
