"""Requests begin few at a time, in turns of keys; whatever becomes of one, the next may begin."""

import asyncio

import pytest

from craft_server.api.starts import Starts


class App:
    """Waits for `go` before a request's key is known; fails or answers as told."""

    def __init__(self):
        self.began, self.go = [], asyncio.Event()
        self.end = lambda scope: None

    async def __call__(self, scope, receive, send):
        self.began.append(scope["path"])
        await self.go.wait()
        await self.end(scope, send)


def request(path, key="a"):
    return {"type": "http", "path": path, "headers": [(b"authorization", key.encode())]}


async def nothing(*_):
    pass


async def settle():
    for _ in range(50):
        await asyncio.sleep(0)


def run(main):
    asyncio.run(main())


def begin(starts, path, key="a"):
    return asyncio.create_task(starts(request(path, key), nothing, nothing))


def test_a_key_with_a_crowd_leaves_a_start_to_others():
    async def main():
        app = App()
        starts = Starts(app)
        crowd = [begin(starts, f"/{number}") for number in range(100)]
        await settle()
        assert len(app.began) == 7
        other = begin(starts, "/other", "b")
        await settle()
        assert app.began[-1] == "/other"
        for task in [*crowd, other]:
            task.cancel()
        await asyncio.gather(*crowd, other, return_exceptions=True)

    run(main)


async def counted(scope, send):
    scope["state"]["begun"]()
    await asyncio.Event().wait()


async def answered(scope, send):
    await send({"type": "http.response.start"})
    await asyncio.Event().wait()


async def failed(scope, send):
    raise ValueError


async def ended(scope, send):
    scope["state"]["begun"]()


@pytest.mark.parametrize("end", [counted, answered, failed, ended])
def test_the_next_begins_when_the_key_is_known_or_all_is_over(end):
    async def main():
        app = App()
        app.end = end
        app.go.set()
        starts = Starts(app)
        crowd = [begin(starts, f"/{number}") for number in range(100)]
        for _ in range(20):
            await settle()
        assert len(app.began) == 100
        for task in crowd:
            task.cancel()
        await asyncio.gather(*crowd, return_exceptions=True)

    run(main)


def test_who_leaves_while_waiting_takes_no_start():
    async def main():
        app = App()
        starts = Starts(app)
        crowd = [begin(starts, f"/{number}") for number in range(20)]
        await settle()
        for task in crowd:
            task.cancel()
        await asyncio.gather(*crowd, return_exceptions=True)
        later = [begin(starts, f"/later/{number}") for number in range(7)]
        await settle()
        assert len(app.began) == 14
        for task in later:
            task.cancel()
        await asyncio.gather(*later, return_exceptions=True)

    run(main)


def test_probes_do_not_wait():
    async def main():
        app = App()
        starts = Starts(app)
        crowd = [begin(starts, f"/{number}") for number in range(20)]
        await settle()
        probe = begin(starts, "/livez")
        await settle()
        assert app.began[-1] == "/livez"
        for task in [*crowd, probe]:
            task.cancel()
        await asyncio.gather(*crowd, probe, return_exceptions=True)

    run(main)
