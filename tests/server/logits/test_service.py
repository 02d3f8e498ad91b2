"""One purchase under bad luck: callers that leave, deadlines, drains, stores that go away."""

import asyncio
import threading

import numpy as np
import pytest

from craft_server.accounts.shares import Caller
from craft_server.api.services import services_of
from craft_server.app import card_limits, create_app
from craft_server.logits import payment, service
from craft_server.models.stub import StubBlackBox
from craft_shared.errors import Code, Refusal
from craft_shared.messages import LogitsRequest
from craft_shared.wire import decode_request
from tests.support.serving import png, settings_in, soft_body, text_request


class SlowBox(StubBlackBox):
    """The stub, but encoding texts waits until it is let go."""

    def __init__(self, limits):
        super().__init__(limits)
        self.started = threading.Event()
        self.go = threading.Event()
        self.scored = 0

    def encode_texts(self, pieces):
        self.started.set()
        assert self.go.wait(10)
        self.scored += len(pieces)
        return super().encode_texts(pieces)


class Shop:
    """A service around a slow box, a key with 10 queries, and a request for 2 of them."""

    def __init__(self, folder, **settings):
        self.settings = settings_in(folder, **settings)
        self.box = SlowBox(card_limits(self.settings))
        self.services = services_of(create_app(self.settings, self.box))
        self.service, self.meter = self.services.logits, self.services.meter
        self.key = self.services.keys.verify(self.services.keys.create("ann", 10).token)
        images = self.services.images.add("ann", [png(1), png(2)])
        made = self.services.images.create_set("ann", [image.id for image in images], name="")
        self.request = LogitsRequest.model_validate(text_request(made.id))

    async def price(self, name="one"):
        quote = await self.service.price(self.key, self.request, offsets=None, idempotency_key=name)
        return await self.service.plan(quote)

    async def buy(self, name="one"):
        return await self.service.buy(await self.price(name))

    def start(self, name="one"):
        return asyncio.create_task(self.buy(name))

    async def scoring(self):
        await asyncio.to_thread(self.box.started.wait, 10)

    def stands(self):
        budget = self.meter.budgets(self.key.id).queries
        return budget.used, budget.held


@pytest.fixture
def shop(tmp_path):
    return Shop(tmp_path, deadline_s=5)


def test_a_priced_request_touches_no_budget_until_it_is_bought(shop):
    async def main():
        await shop.price()
        assert shop.stands() == (0, 0)

    asyncio.run(main())


def test_the_budget_is_held_while_the_device_works_and_used_after(shop):
    async def main():
        buying = shop.start()
        await shop.scoring()
        assert shop.stands() == (0, 2)
        shop.box.go.set()
        reply = await buying
        assert shop.stands() == (2, 0)
        assert reply.logits.shape == (2, 2, 2)

    asyncio.run(main())


def test_a_caller_that_leaves_the_queue_is_dropped_and_released(shop):
    async def main():
        first = shop.start("one")
        await shop.scoring()
        second = shop.start("two")
        while shop.stands() != (0, 4):
            await asyncio.sleep(0.01)
        second.cancel()
        with pytest.raises(asyncio.CancelledError):
            await second
        assert shop.stands() == (0, 2)
        shop.box.go.set()
        await first
        assert (shop.stands(), shop.box.scored) == ((2, 0), 1)

    asyncio.run(main())


def test_a_caller_that_leaves_while_its_images_are_encoded_is_dropped_and_released(shop):
    encode, started, go = shop.box.encode_images, threading.Event(), threading.Event()

    def slow(pixels):
        started.set()
        assert go.wait(10)
        return encode(pixels)

    async def main():
        shop.box.encode_images = slow
        shop.box.go.set()
        leaving = shop.start()
        await asyncio.to_thread(started.wait, 10)
        leaving.cancel()
        await asyncio.sleep(0.01)
        go.set()
        await asyncio.wait([leaving])
        assert leaving.cancelled()
        assert (shop.stands(), shop.box.scored) == ((0, 0), 0)

    asyncio.run(main())


def test_a_caller_that_leaves_a_running_job_pays_once_and_can_fetch_it(shop):
    async def main():
        buying = shop.start()
        await shop.scoring()
        buying.cancel()
        shop.box.go.set()
        await asyncio.wait([buying])
        assert shop.stands() == (2, 0)
        again = await shop.buy()
        assert again.message.replayed
        assert (shop.stands(), shop.box.scored) == ((2, 0), 1)

    asyncio.run(main())


def test_the_same_key_at_the_same_time_is_409_and_scored_once(shop):
    async def main():
        buying = shop.start()
        await shop.scoring()
        with pytest.raises(Refusal) as caught:
            await shop.buy()
        assert caught.value.code is Code.REQUEST_IN_PROGRESS
        shop.box.go.set()
        await buying
        assert shop.stands() == (2, 0)

    asyncio.run(main())


def test_a_caller_that_leaves_while_the_store_reserves_leaves_no_hold(shop, monkeypatch):
    reserve, reserving, go = shop.meter.reserve, threading.Event(), threading.Event()

    def slow(*arguments, **options):
        reserving.set()
        assert go.wait(10)
        return reserve(*arguments, **options)

    async def main():
        monkeypatch.setattr(shop.meter, "reserve", slow)
        buying = shop.start()
        await asyncio.to_thread(reserving.wait, 10)
        buying.cancel()
        go.set()
        with pytest.raises(asyncio.CancelledError):
            await buying
        assert (shop.stands(), shop.box.scored) == ((0, 0), 0)

    asyncio.run(main())


def test_a_deadline_releases(tmp_path):
    shop = Shop(tmp_path, deadline_s=0.1)

    async def main():
        with pytest.raises(Refusal) as caught:
            await shop.buy()
        assert caught.value.code is Code.DEADLINE_EXCEEDED
        assert shop.stands() == (0, 0)
        shop.box.go.set()
        await shop.buy()
        assert shop.stands() == (2, 0)

    asyncio.run(main())


def test_overload_takes_no_hold(tmp_path):
    shop = Shop(tmp_path, queue=1)

    async def main():
        buying = shop.start()
        await shop.scoring()
        with pytest.raises(Refusal) as caught:
            await shop.buy("two")
        assert caught.value.code is Code.OVERLOADED
        assert shop.stands() == (0, 2)
        shop.box.go.set()
        await buying

    asyncio.run(main())


def test_a_drain_waits_for_what_is_running_and_settles_it(shop):
    async def main():
        buying = shop.start()
        await shop.scoring()
        draining = asyncio.create_task(shop.service.drain(10))
        await asyncio.sleep(0.01)
        with pytest.raises(Refusal) as caught:
            await shop.service.check_ready()
        assert caught.value.code is Code.DRAINING
        shop.box.go.set()
        await draining
        assert (await buying).logits.shape == (2, 2, 2)
        assert shop.stands() == (2, 0)

    asyncio.run(main())


def test_a_drain_that_takes_too_long_releases_what_never_ran(shop):
    async def main():
        first = shop.start("one")
        await shop.scoring()
        second = shop.start("two")
        while shop.stands() != (0, 4):
            await asyncio.sleep(0.01)
        draining = asyncio.create_task(shop.service.drain(0.05))
        with pytest.raises(asyncio.CancelledError):
            await second
        shop.box.go.set()
        await draining
        await first
        assert shop.stands() == (2, 0)

    asyncio.run(main())


def no_store(*_, **__):
    raise Refusal(Code.NOT_READY, "the store does not answer")


async def given_back(shop):
    while shop.stands() != (0, 0):
        await asyncio.sleep(0.01)


def test_a_store_that_fails_at_settle_delivers_nothing_and_soon_holds_nothing(shop, monkeypatch):
    monkeypatch.setattr(payment, "_RETRY_S", 0.01)

    async def main():
        shop.box.go.set()
        with monkeypatch.context() as patch:
            patch.setattr(shop.meter, "settle", no_store)
            patch.setattr(shop.meter, "release", no_store)
            with pytest.raises(Refusal) as caught:
                await shop.buy()
            await asyncio.sleep(0.05)
        assert caught.value.code is Code.NOT_READY
        assert shop.stands() == (0, 2)
        await asyncio.wait_for(given_back(shop), 30)
        assert not (await shop.buy()).message.replayed
        assert shop.stands() == (2, 0)

    asyncio.run(main())


def test_a_settle_that_succeeded_unheard_is_not_undone(shop, monkeypatch):
    monkeypatch.setattr(payment, "_RETRY_S", 0.01)
    settle, release, released = shop.meter.settle, shop.meter.release, threading.Event()

    def unheard(*arguments, **options):
        settle(*arguments, **options)
        no_store()

    def heard(hold):
        release(hold)
        released.set()

    async def main():
        shop.box.go.set()
        monkeypatch.setattr(shop.meter, "release", heard)
        with monkeypatch.context() as patch:
            patch.setattr(shop.meter, "settle", unheard)
            with pytest.raises(Refusal):
                await shop.buy()
        assert await asyncio.to_thread(released.wait, 30)
        assert shop.stands() == (2, 0)
        assert (await shop.buy()).message.replayed

    asyncio.run(main())


def test_a_store_that_fails_at_release_gets_the_hold_back_later(shop, monkeypatch):
    monkeypatch.setattr(payment, "_RETRY_S", 0.01)

    def broken(*_):
        raise RuntimeError("the model failed")

    async def main():
        shop.box.go.set()
        with monkeypatch.context() as patch:
            patch.setattr(shop.meter, "release", no_store)
            patch.setattr(shop.box, "encode_texts", broken)
            with pytest.raises(RuntimeError, match="the model failed"):
                await shop.buy()
        await asyncio.wait_for(given_back(shop), 30)

    asyncio.run(main())


def test_readiness_is_red_while_the_model_fails_and_green_again(shop):
    async def main():
        shop.box.go.set()
        good = shop.box.encode_images
        shop.box.encode_images = lambda _: 1 / 0
        with pytest.raises(Refusal) as caught:
            await shop.service.check_ready()
        assert caught.value.code is Code.NOT_READY
        shop.box.encode_images = good
        await shop.service.check_ready()

    asyncio.run(main())


def test_readiness_is_red_for_a_model_that_answers_nonsense(shop, monkeypatch):
    async def main():
        shop.box.go.set()
        nonsense = np.full((1, 1, 1), np.nan, np.float32)
        monkeypatch.setattr(shop.box, "logits", lambda *_, **__: lambda: nonsense)
        with pytest.raises(Refusal):
            await shop.service.check_ready()

    asyncio.run(main())


def test_readiness_is_red_while_the_device_is_stuck(tmp_path):
    shop = Shop(tmp_path, device_stalled_s=0.001)

    async def main():
        buying = shop.start()
        await shop.scoring()
        await asyncio.sleep(0.01)
        with pytest.raises(Refusal) as caught:
            await shop.service.check_ready()
        assert "at one batch for" in caught.value.detail
        shop.box.go.set()
        await buying

    asyncio.run(main())


@pytest.mark.parametrize(("batching", "passes"), [("deterministic", 4), ("merged", 2)])
def test_requests_of_several_keys_for_the_same_classes_are_merged_only_if_asked_for(
    tmp_path, batching, passes
):
    shop = Shop(tmp_path, batching=batching)
    made, offsets = shop.request.image_set, np.ones((1, 4, 16), np.float32)
    request, _ = decode_request(soft_body(made, offsets))
    sizes = []

    async def buy(number):
        key = shop.services.keys.verify(shop.services.keys.create("ann", 10).token)
        quote = await shop.service.price(
            key, request, offsets=offsets * number, idempotency_key="one"
        )
        return (await shop.service.buy(await shop.service.plan(quote))).logits

    def counting(pieces, encode=shop.box.encode_texts):
        sizes.append(len(pieces))
        return encode(pieces)

    async def main():
        shop.box.encode_texts = counting
        first = asyncio.create_task(buy(1))
        await shop.scoring()
        rest = [asyncio.create_task(buy(number)) for number in (2, 3, 4)]
        while shop.service._worker.waiting < 3:
            await asyncio.sleep(0.001)
        shop.box.go.set()
        return await asyncio.gather(first, *rest)

    logits = asyncio.run(main())
    assert (len(sizes), sum(sizes)) == (passes, 4)
    alone = [asyncio.run(buy(number)) for number in (1, 2, 3, 4)]
    np.testing.assert_allclose(logits, alone, atol=1e-4)


def test_waiting_for_another_requests_images_is_bounded_too(tmp_path):
    shop, go = Shop(tmp_path, deadline_s=0.2), threading.Event()
    encode = shop.box.encode_images
    shop.box.encode_images = lambda pixels: (go.wait(10), encode(pixels))[1]

    async def main():
        first, second = shop.start("one"), shop.start("two")
        results = await asyncio.gather(first, second, return_exceptions=True)
        go.set()
        shop.box.go.set()
        return results, await shop.buy("three")

    refusals, third = asyncio.run(main())
    assert {refusal.code for refusal in refusals} == {Code.DEADLINE_EXCEEDED}
    assert all("not finished after 0.2 s" in refusal.detail for refusal in refusals)
    assert (third.logits.shape, shop.stands()) == ((2, 2, 2), (2, 0))


@pytest.mark.parametrize(("names", "on_the_loop"), [(2, True), (200, False)])
def test_a_priced_request_of_many_texts_is_checked_off_the_event_loop(tmp_path, names, on_the_loop):
    shop, threads = Shop(tmp_path), []
    prepare = shop.box.prepare_in_steps

    def watched(*what):
        threads.append(threading.current_thread())
        return (yield from prepare(*what))

    shop.box.prepare_in_steps = watched
    fields = {"class_names": [f"name {number}" for number in range(names)]}
    shop.request = LogitsRequest.model_validate(text_request(shop.request.image_set) | fields)
    asyncio.run(shop.price())
    assert (threads == [threading.current_thread()]) is on_the_loop


def test_no_set_is_read_for_a_request_that_its_budget_refuses(shop, monkeypatch):
    """A set may have 50,000 digests, and a key without budget may ask for one after another."""
    poor = shop.services.keys.verify(shop.services.keys.create("ann", 1).token)
    images = shop.services.images
    monkeypatch.setattr(images, "find_set", lambda *_: pytest.fail("it reads the digests"))

    async def main():
        for name in ("one", "two"):
            with pytest.raises(Refusal) as caught:
                await shop.service.price(poor, shop.request, offsets=None, idempotency_key=name)
            assert caught.value.code is Code.BUDGET_EXHAUSTED

    asyncio.run(main())


def test_no_set_is_read_for_another_request_under_the_name_of_a_bought_one(shop, monkeypatch):
    shop.box.go.set()
    token = shop.services.keys.create("ann", 2).token
    shop.key = shop.services.keys.verify(token)

    async def main():
        await shop.buy("one")
        shop.key = shop.services.keys.verify(token)
        shop.request = shop.request.model_copy(update={"class_names": ["other", "names"]})
        images = shop.services.images
        monkeypatch.setattr(images, "known_set", lambda *_: pytest.fail("it reads the digests"))
        with pytest.raises(Refusal) as caught:
            await shop.price("one")
        assert caught.value.code is Code.IDEMPOTENCY_KEY_REUSED

    asyncio.run(main())


def test_many_texts_of_what_was_bought_are_read_for_a_key_two_at_a_time(shop, monkeypatch):
    monkeypatch.setattr(service, "_SMALL_TEXTS", 0)
    shop.box.go.set()

    async def main():
        await shop.buy("one")
        with shop.service._replays_read.lease(Caller.of(shop.key), 2):
            with pytest.raises(Refusal) as caught:
                await shop.price("one")
            await shop.buy("two")  # is no replay
        assert caught.value.code is Code.RATE_LIMITED
        assert (await shop.buy("one")).message.replayed

    asyncio.run(main())
