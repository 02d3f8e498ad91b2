"""Bodies on their way in: size by kind, time, and all of them in memory together."""

import asyncio
import json
from dataclasses import replace

import httpx
import pytest

from craft_server.accounts.shares import NOBODY, Caller
from craft_server.api.least_rate import LeastRate
from craft_server.api.middleware import BodyCap, BodyLimits
from craft_server.api.services import services_of
from craft_shared.errors import Code, Refusal
from craft_shared.tensors import TENSOR_MEDIA_TYPE

MIB = 2**20
LIMITS = BodyLimits(bytes=4 * MIB, json_bytes=2 * MIB, all_bytes=4 * MIB, seconds=0.2)


class Reader:
    """An application that reads a whole body and then waits until it is let go."""

    def __init__(self, limits=LIMITS):
        self.go = asyncio.Event()
        self.has_read = asyncio.Event()
        self.cap = BodyCap(self.read, limits=limits)

    async def read(self, scope, receive, send):
        while (await receive())["more_body"]:
            pass
        self.has_read.set()
        await self.go.wait()

    async def ask(self, pieces, *, kind=TENSOR_MEDIA_TYPE, delay_s=0.0, caller=NOBODY):
        pieces = iter(pieces)

        async def receive():
            await asyncio.sleep(delay_s)
            piece = next(pieces, None)
            return {"type": "http.request", "body": piece or b"", "more_body": piece is not None}

        headers = [(b"content-type", kind.encode())]
        scope = {"type": "http", "headers": headers, "state": {"caller": caller}}
        await self.cap(scope, receive, None)


def refused(work):
    with pytest.raises(Refusal) as caught:
        asyncio.run(work())
    return caught.value


@pytest.mark.parametrize(
    ("kind", "most"),
    [
        (TENSOR_MEDIA_TYPE, 4 * MIB),
        ("multipart/form-data; boundary=x", 4 * MIB),
        ("application/json", 2 * MIB),
        ("text/plain", 2 * MIB),
    ],
)
def test_json_may_be_less_than_tensors(kind, most):
    async def main(size):
        reader = Reader()
        reader.go.set()
        await reader.ask([bytes(size)], kind=kind)

    asyncio.run(main(most))
    refusal = refused(lambda: main(most + 1))
    assert refusal.code is Code.TOO_LARGE
    assert (TENSOR_MEDIA_TYPE in refusal.detail) == (most == 2 * MIB)


def test_a_body_that_comes_in_drops_is_refused_when_its_time_is_up():
    async def main():
        await Reader().ask([b"x"] * 1000, delay_s=0.01)

    refusal = refused(main)
    assert refusal.code is Code.DEADLINE_EXCEEDED
    assert "0.2 s" in refusal.detail


def test_the_time_in_which_the_server_does_not_read_is_not_the_senders():
    async def main():
        reader = Reader()
        reader.go.set()

        async def patient(scope, receive, send):
            await asyncio.sleep(0.5)
            await reader.read(scope, receive, send)

        reader.cap = BodyCap(patient, limits=LIMITS)
        await reader.ask([b"x"])

    asyncio.run(main())


def test_after_the_body_nothing_is_timed():
    """A handler listens for `http.disconnect` as long as it works."""

    async def main():
        received = []

        async def app(scope, receive, send):
            received.extend([await receive(), await receive()])

        messages = [{"type": "http.request", "body": b""}, {"type": "http.disconnect"}]

        async def receive():
            await asyncio.sleep(0 if len(messages) == 2 else 0.5)
            return messages.pop(0)

        await BodyCap(app, limits=LIMITS)({"type": "http", "headers": []}, receive, None)
        assert received[1]["type"] == "http.disconnect"

    asyncio.run(main())


def test_bodies_in_work_have_a_bound_together_and_small_ones_always_pass():
    """Each of up to 1 MiB passes; what is beyond counts, until the request ends."""

    async def main():
        reader = Reader()
        first = asyncio.create_task(reader.ask([bytes(4 * MIB)]))
        await reader.has_read.wait()
        with pytest.raises(Refusal) as caught:
            await reader.ask([bytes(3 * MIB)], caller=Caller("key", "bob"))
        assert caught.value.code is Code.OVERLOADED
        assert caught.value.retry_after_s
        reader.go.set()
        await reader.ask([bytes(MIB)])
        await first
        await reader.ask([bytes(4 * MIB)])

    asyncio.run(main())


def test_the_bodies_of_one_key_leave_room_for_those_of_others():
    limits = replace(LIMITS, all_bytes=32 * MIB)
    assert (limits.shares.key, limits.shares.owner) == (8 * MIB, 16 * MIB)
    ann, bob = (Caller(f"key of {name}", name) for name in ("ann", "bob"))

    async def main():
        reader = Reader(limits)
        work = [asyncio.create_task(reader.ask([bytes(4 * MIB)], caller=ann)) for _ in range(2)]
        await asyncio.sleep(0.01)
        with pytest.raises(Refusal) as caught:
            await reader.ask([bytes(4 * MIB)], caller=ann)
        assert caught.value.code is Code.RATE_LIMITED
        reader.go.set()
        await reader.ask([bytes(4 * MIB)], caller=bob)
        await asyncio.gather(*work)
        assert reader.cap._in_memory.held == 0

    asyncio.run(main())


def test_a_body_that_comes_slower_than_the_least_rate_is_refused_long_before_its_time_is_up():
    limits = replace(LIMITS, seconds=600, least=LeastRate(bytes_s=10_000, grace_s=0.2))

    async def main():
        await Reader(limits).ask([b"x" * 10] * 1000, delay_s=0.01)

    refusal = refused(main)
    assert refusal.code is Code.DEADLINE_EXCEEDED
    assert "at least 10000 bytes must come in a second" in refusal.detail


def test_a_body_that_keeps_the_least_rate_may_take_longer_than_the_grace():
    limits = replace(LIMITS, seconds=600, least=LeastRate(bytes_s=1000, grace_s=0.2))

    async def main():
        reader = Reader(limits)
        reader.go.set()
        await reader.ask([b"x" * 1000] * 50, delay_s=0.01)

    asyncio.run(main())


def test_what_was_refused_is_not_in_memory_any_more():
    async def main():
        reader = Reader()
        reader.go.set()
        for pieces in ([bytes(2 * MIB)] * 4, [bytes(MIB), bytes(9 * MIB)]):
            with pytest.raises(Refusal) as caught:
                await reader.ask(pieces)
            assert caught.value.code is Code.TOO_LARGE
            assert reader.cap._in_memory.held == 0

    asyncio.run(main())


def test_a_slow_body_gets_a_problem_document(settings, box):
    from craft_server.app import create_app

    app = create_app(settings.model_copy(update={"body_s": 0.05}), box)
    key = services_of(app).keys.create("ann", 1).token

    async def body():
        yield b"{"
        await asyncio.sleep(10)

    async def main():
        transport = httpx.ASGITransport(app)
        headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
        async with httpx.AsyncClient(transport=transport, base_url="http://here") as client:
            return await client.post("/v1/image-sets", content=body(), headers=headers)

    reply = asyncio.run(main())
    assert reply.status_code == 504
    assert reply.headers["content-type"] == "application/problem+json"
    assert reply.headers["retry-after"]
    assert json.loads(reply.content)["code"] == "deadline_exceeded"
    services_of(app).uploads.close()
    services_of(app).images.close()
    services_of(app).store.close()
