"""Uploads: few bodies in memory at a time, the rest unread; hundreds of images from end to end."""

import asyncio
import threading

import httpx
import pytest

from craft_server.api.services import services_of
from craft_server.app import create_app
from craft_server.concurrency import FairSemaphore
from craft_server.images.admission import UploadAdmission
from craft_shared.errors import Code, Refusal
from craft_shared.messages import Policy
from tests.support.serving import png, settings_in, stub_box, text_request, upload


class SlowImages:
    """An image store that keeps files when it is let go, counting how many wait inside."""

    def __init__(self):
        self.go = threading.Event()
        self.inside, self.most = 0, 0
        self._lock = threading.Lock()

    def add(self, owner, files, *, owner_bytes, end):
        with self._lock:
            self.inside += 1
            self.most = max(self.most, self.inside)
        assert self.go.wait(10)
        with self._lock:
            self.inside -= 1
        return list(files)


class Sender:
    """A body that says when it is read."""

    def __init__(self, *, forever=False):
        self.read_by_server = False
        self._forever = forever

    async def read(self):
        self.read_by_server = True
        await asyncio.sleep(1000 if self._forever else 0)
        return [b"image"]


@pytest.fixture
def store():
    return SlowImages()


@pytest.fixture
def make_admission(store):
    admissions = []

    def made(slots=2, deadline_s=10.0):
        admissions.append(UploadAdmission(store, slots=slots, deadline_s=deadline_s))
        return admissions[-1]

    yield made
    store.go.set()
    for admission in admissions:
        admission.close()


async def until(condition):
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.001)


def test_a_body_is_not_read_before_there_is_a_place(store, make_admission):
    async def main():
        admission, senders = make_admission(3), [Sender() for _ in range(5)]
        uploads = [asyncio.create_task(admission.add("ann", sender.read)) for sender in senders]
        await until(lambda: store.inside == 2)
        assert [sender.read_by_server for sender in senders] == [True, True, False, False, False]
        store.go.set()
        assert await asyncio.gather(*uploads) == [[b"image"]] * 5
        assert store.most == 2

    asyncio.run(main())


def test_a_place_is_taken_until_the_files_are_stored_also_if_the_sender_leaves(
    store, make_admission
):
    async def main():
        admission, second = make_admission(1), Sender()
        leaving = asyncio.create_task(admission.add("ann", Sender().read))
        await until(lambda: store.inside == 1)
        waiting = asyncio.create_task(admission.add("ann", second.read))
        leaving.cancel()
        await asyncio.sleep(0.02)
        assert not second.read_by_server
        store.go.set()
        with pytest.raises(asyncio.CancelledError):
            await leaving
        await waiting

    asyncio.run(main())


def test_a_sender_that_never_ends_gives_its_place_back(store, make_admission):
    async def main():
        admission = make_admission(1, deadline_s=0.05)
        with pytest.raises(Refusal) as caught:
            await admission.add("ann", Sender(forever=True).read)
        assert caught.value.code is Code.DEADLINE_EXCEEDED
        store.go.set()
        assert await admission.add("ann", Sender().read) == [b"image"]

    asyncio.run(main())


def test_a_refused_body_gives_its_place_back(store, make_admission):
    async def refuse():
        raise Refusal(Code.TOO_LARGE, "too much")

    async def main():
        admission = make_admission(1)
        for _ in range(3):
            with pytest.raises(Refusal):
                await admission.add("ann", refuse)
        store.go.set()
        assert await admission.add("ann", Sender().read) == [b"image"]

    asyncio.run(main())


def test_nobody_takes_the_last_place_and_who_has_fewest_goes_first():
    async def main():
        slots, order, go = FairSemaphore(3), [], asyncio.Event()

        async def take(owner):
            async with slots.slot(owner):
                order.append(owner)
                await go.wait()

        async def settled(count):
            await until(lambda: len(order) == count)
            await asyncio.sleep(0.01)
            assert len(order) == count

        ann = [asyncio.create_task(take("ann")) for _ in range(6)]
        await settled(2)
        bob = [asyncio.create_task(take("bob")) for _ in range(2)]
        await settled(3)
        ann[0].cancel()
        await settled(4)
        assert order == ["ann", "ann", "bob", "ann"]
        ann[5].cancel()
        go.set()
        await asyncio.gather(*ann, *bob, return_exceptions=True)
        assert sorted(order[4:]) == ["ann", "ann", "bob"]
        assert not slots._taken

    asyncio.run(main())


def test_owners_take_a_single_place_in_turns():
    async def main():
        slots, order = FairSemaphore(1), []

        async def take(owner):
            async with slots.slot(owner):
                order.append(owner)
                await asyncio.sleep(0)

        owners = ["ann", "ann", "ann", "bob", "bob"]
        await asyncio.gather(*(take(owner) for owner in owners))
        assert order == ["ann", "bob", "ann", "bob", "ann"]

    asyncio.run(main())


def test_one_who_leaves_as_the_turn_comes_gives_the_place_on():
    async def main():
        slots = FairSemaphore(1)
        async with slots.slot("ann"):
            waiting = asyncio.create_task(slots.enter("bob"))
            await asyncio.sleep(0)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        async with asyncio.timeout(5), slots.slot("ann"):
            pass

    asyncio.run(main())


def test_the_quota_of_a_key_holds_for_its_uploads(client, app, mint_key):
    from craft_server.db.tables import keys

    store = services_of(app).store
    with store.write() as connection:
        policy = Policy(image_bytes=len(png(1))).model_dump_json()
        connection.execute(keys.update().values(policy=policy))
    assert len(upload(client, [png(1)])) == 1
    reply = client.post("/v1/images", files=[("files", ("1.png", png(2)))])
    assert (reply.status_code, reply.json()["code"]) == (413, "too_large")


def test_the_route_reads_no_byte_of_a_body_without_a_place(tmp_path):
    """Through the whole application, middleware included."""
    settings = settings_in(tmp_path, uploads=1)
    app = create_app(settings, stub_box(settings))
    token = services_of(app).keys.create("ann", 1).token
    headers = {
        "Authorization": f"Bearer {token}",
        "Content-Type": "multipart/form-data; boundary=x",
    }
    go, asked = asyncio.Event(), []

    async def body(name):
        asked.append(name)
        await go.wait()
        yield b'--x\r\nContent-Disposition: form-data; name="files"; filename="a.png"\r\n\r\n'
        yield png(1) + b"\r\n--x--\r\n"

    async def main():
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://here") as client:
            posts = [
                asyncio.create_task(client.post("/v1/images", content=body(name), headers=headers))
                for name in ("first", "second")
            ]
            await until(lambda: asked)
            await asyncio.sleep(0.05)
            assert len(asked) == 1
            go.set()
            assert [(await post).status_code for post in posts] == [200, 200]

    asyncio.run(main())
    assert sorted(asked) == ["first", "second"]
    services_of(app).uploads.close()
    services_of(app).images.close()
    services_of(app).store.close()


@pytest.mark.slow
def test_300_images_are_uploaded_scored_and_after_a_restart_not_encoded_again(tmp_path):
    from starlette.testclient import TestClient

    settings = settings_in(tmp_path, encode_batch=32)
    replies, encoded = [], []
    for start in range(2):
        box = stub_box(settings)
        encode = box.encode_images
        box.encode_images = lambda pixels, encode=encode: (
            encoded.append(len(pixels)) or encode(pixels)
        )
        app = create_app(settings, box)
        token = services_of(app).keys.create("ann", 10).token
        with TestClient(app, headers={"Authorization": f"Bearer {token}"}) as client:
            ids = [
                each
                for first in range(0, 300, 100)
                for each in upload(client, [png(seed) for seed in range(first, first + 100)])
            ]
            made = client.post("/v1/image-sets", json={"images": ids}).json()
            reply = client.post(
                "/v1/logits",
                json=text_request(made["id"]),
                headers={"Idempotency-Key": f"start {start}"},
            )
            replies.append(reply.json()["logits"])
    assert replies[0] == replies[1]
    assert sum(size for size in encoded if size > 1) == 288 + 12
    assert encoded.count(1) == 2
