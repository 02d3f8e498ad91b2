"""Each image is encoded once, in bounded memory, whichever caller leaves or fails."""

import asyncio
import hashlib
import threading
import weakref

import numpy as np
import pytest

from craft_server.db.store import Store
from craft_server.engine.features import ImageFeatures
from craft_server.images.blobs import name_of
from craft_server.images.decoding import ImageLimits
from craft_server.images.store import ImageSetRecord, ImageStore, StoredImageError
from tests.support.serving import features_of, png, settings_in, stub_box

LIMITS = ImageLimits(
    bytes=20_000,
    pixels=10_000,
    owner_bytes=10**9,
    owner_images=10**6,
    images_per_set=10**6,
    owner_sets=10**6,
    owner_set_images=10**9,
)


class Thumbnail(np.ndarray):
    """An array that can be counted while it lives."""


class CountingBox:
    """The stub, counting what is encoded, what is loaded, and the pixels alive at a time."""

    def __init__(self, box):
        self._box = box
        self.image_key = box.image_key
        self.encoded, self.loaded, self.most_alive = 0, 0, 0
        self._alive = weakref.WeakValueDictionary()

    def preprocess(self, image):
        pixels = self._box.preprocess(image).view(Thumbnail)
        self._alive[id(pixels)] = pixels
        self.most_alive = max(self.most_alive, len(self._alive))
        return pixels

    def encode_images(self, pixels):
        self.encoded += len(pixels)
        return self._box.encode_images([np.asarray(row) for row in pixels])

    def load_features(self, records):
        self.loaded += 1
        return self._box.load_features(records)


class Place:
    """An image store with `count` images, and caches over it, each as after a restart."""

    def __init__(self, folder, count=10, **settings):
        self.settings = settings_in(folder, **({"encode_batch": 2} | settings))
        self.box = CountingBox(stub_box(self.settings))
        self._store = Store(self.settings.resolved_database_url)
        self.images = ImageStore(self._store, self.settings.image_place, limits=LIMITS)
        stored = self.images.add("ann", [png(seed) for seed in range(count)])
        self.digests = [image.id for image in stored]
        self._caches = []
        self.jobs = 0

    def features(self):
        self._caches.append(ImageFeatures(self.settings, self.box, self.images))
        return self._caches[-1]

    def set_of(self, *places, owner="ann"):
        digests = [self.digests[place] for place in places]
        made = self.images.create_set(owner, digests, name="")
        return ImageSetRecord(owner=owner, id=made.id, digests=tuple(digests))

    def path(self, place):
        digest = self.digests[place]
        name = name_of("ann", digest)
        return self.settings.data_dir / "images" / name[:2] / name

    async def run(self, job):
        self.jobs += 1
        return await asyncio.to_thread(job)

    def close(self):
        for features in self._caches:
            features.close()
        self.images.close()
        self._store.close()


@pytest.fixture
def make_place(tmp_path):
    places = []

    def made(**options):
        places.append(Place(tmp_path, **options))
        return places[-1]

    yield made
    for place in places:
        place.close()


@pytest.fixture
def place(make_place):
    return make_place()


def test_features_are_the_models_own_in_the_sets_order_with_repeats(place):
    order = (3, 0, 3, 9)
    found = asyncio.run(place.features().of(place.set_of(*order), place.run))
    pictures = [place.images.open("ann", place.digests[number]) for number in order]
    assert np.array_equal(found, features_of(stub_box(place.settings), pictures))
    assert place.box.encoded == 3


def test_a_set_that_was_used_touches_no_device(place):
    features, images = place.features(), place.set_of(0, 1, 2)

    async def main():
        first = await features.of(images, place.run)
        assert place.jobs == 3
        assert await features.of(images, place.run) is first

    asyncio.run(main())
    assert place.jobs == 3


def test_overlapping_sets_encode_what_is_new(place):
    features = place.features()

    async def main():
        await features.of(place.set_of(0, 1, 2), place.run)
        await features.of(place.set_of(2, 1, 3), place.run)

    asyncio.run(main())
    assert (place.box.encoded, place.box.loaded) == (4, 2)


def test_a_set_that_does_not_fit_on_the_device_is_loaded_again_not_encoded(make_place):
    place = make_place(resident_images=2)
    features, images = place.features(), place.set_of(0, 1, 2)

    async def main():
        await features.of(images, place.run)
        await features.of(images, place.run)

    asyncio.run(main())
    assert (place.box.encoded, place.box.loaded) == (3, 2)


def test_a_restart_encodes_nothing_and_gives_the_same_bits(place):
    images = place.set_of(*range(10))
    first = asyncio.run(place.features().of(images, place.run))
    again = asyncio.run(place.features().of(images, place.run))
    assert np.array_equal(first, again)
    assert place.box.encoded == 10


def test_without_a_disk_cache_a_restart_encodes_again(make_place):
    place = make_place(feature_disk_images=0)
    asyncio.run(place.features().of(place.set_of(0, 1), place.run))
    asyncio.run(place.features().of(place.set_of(0, 1), place.run))
    assert place.box.encoded == 4


FIRST_RECORDS = hashlib.sha256(b"stub::0 records 1").hexdigest()
"""Of pictures without their transparency, depth and orientation."""


@pytest.mark.parametrize("before", ["0" * 64, FIRST_RECORDS])
def test_records_of_another_checkpoint_or_format_are_not_used(place, before):
    now, place.box.image_key = place.box.image_key, before
    asyncio.run(place.features().of(place.set_of(0, 1), place.run))
    place.box.image_key = now
    asyncio.run(place.features().of(place.set_of(0, 1), place.run))
    assert place.box.encoded == 4


def test_records_that_memory_forgot_come_from_disk(make_place):
    place = make_place(feature_cache=1, resident_images=0)
    features = place.features()

    async def main():
        await features.of(place.set_of(0, 1, 2), place.run)
        await features.of(place.set_of(0, 1, 2), place.run)

    asyncio.run(main())
    assert place.box.encoded == 3


def test_a_damaged_disk_cache_costs_time_and_nothing_else(place):
    images = place.set_of(*range(10))
    first = asyncio.run(place.features().of(images, place.run))
    place._caches[0].close()
    (place.settings.data_dir / "features.db").write_bytes(b"junk" * 5000)
    assert np.array_equal(asyncio.run(place.features().of(images, place.run)), first)
    assert place.box.encoded == 20
    assert np.array_equal(asyncio.run(place.features().of(images, place.run)), first)
    assert place.box.encoded == 20


@pytest.mark.parametrize("others", [range(10), range(5, 10), range(4)])
def test_callers_at_the_same_time_encode_no_image_twice(place, others):
    features = place.features()

    async def main():
        sets = [place.set_of(*range(6)), place.set_of(*others), place.set_of(*range(6))]
        return await asyncio.gather(*(features.of(images, place.run) for images in sets))

    first, _, third = asyncio.run(main())
    assert first is third
    assert place.box.encoded == len({*range(6), *others})


def test_a_small_set_does_not_wait_for_all_of_a_large_one(make_place):
    place = make_place(count=80)
    features = place.features()
    order = []

    async def ask(name, images):
        await features.of(images, place.run)
        order.append(name)

    async def main():
        large = asyncio.create_task(ask("large", place.set_of(*range(1, 80))))
        while not place.jobs:
            await asyncio.sleep(0.001)
        await asyncio.gather(large, ask("small", place.set_of(0)))

    asyncio.run(main())
    assert order == ["small", "large"]


def test_two_batches_of_pixels_are_in_memory_at_most(make_place):
    place = make_place(count=40, encode_batch=4)
    asyncio.run(place.features().of(place.set_of(*range(40)), place.run))
    assert place.box.most_alive <= 8 + 4  # the device's thread may still hold on to a third


def test_the_next_batch_is_decoded_while_one_is_encoded(place):
    decoded = threading.Semaphore(0)
    preprocess, encode = place.box.preprocess, place.box.encode_images

    def counting(image):
        pixels = preprocess(image)
        decoded.release()
        return pixels

    def waiting(pixels):
        assert all(decoded.acquire(timeout=10) for _ in range(2 if place.box.encoded == 0 else 0))
        return encode(pixels)

    async def main():
        place.box.preprocess, place.box.encode_images = counting, waiting
        features = place.features()
        await features.of(place.set_of(0, 1, 2, 3), place.run)
        assert place.box.encoded == 4

    asyncio.run(main())


def test_a_caller_that_leaves_keeps_what_was_encoded_and_blocks_nobody(place):
    features = place.features()
    started, go = threading.Event(), threading.Event()
    encode = place.box.encode_images

    def slow(pixels):
        started.set()
        assert go.wait(10)
        return encode(pixels)

    async def main():
        place.box.encode_images = slow
        leaving = asyncio.create_task(features.of(place.set_of(*range(6)), place.run))
        waiting = asyncio.create_task(features.of(place.set_of(0, 1, 7), place.run))
        queued = asyncio.create_task(features.of(place.set_of(8), place.run))
        await asyncio.to_thread(started.wait, 10)
        leaving.cancel()
        queued.cancel()
        go.set()
        gone = await asyncio.gather(leaving, queued, return_exceptions=True)
        assert [type(error) for error in gone] == [asyncio.CancelledError] * 2
        while place.box.encoded < 2:
            await asyncio.sleep(0.001)
        return await asyncio.wait_for(waiting, 10)

    assert asyncio.run(main()).shape[0] == 3


def test_what_was_encoded_for_a_caller_that_left_is_on_disk_too(place):
    features = place.features()

    async def leaves(job):
        await place.run(job)
        raise asyncio.CancelledError

    async def main():
        with pytest.raises(asyncio.CancelledError):
            await features.of(place.set_of(0, 1), leaves)
        features.close()
        await place.features().of(place.set_of(0, 1), place.run)

    asyncio.run(main())
    assert place.box.encoded == 2


@pytest.mark.parametrize("harm", ["gone", "damaged"])
def test_an_image_that_cannot_be_opened_fails_its_caller_alone(place, harm):
    if harm == "gone":
        place.path(3).unlink()
    else:
        place.path(3).write_bytes(b"junk")
    features = place.features()

    async def main():
        return await asyncio.gather(
            features.of(place.set_of(*range(6)), place.run),
            features.of(place.set_of(0, 1, 2), place.run),
            return_exceptions=True,
        )

    failed, good = asyncio.run(main())
    assert isinstance(failed, StoredImageError)
    assert place.digests[3] in str(failed)
    assert good.shape[0] == 3


def test_a_model_that_fails_leaves_the_shelf_usable(place):
    features, encode = place.features(), place.box.encode_images

    async def main():
        place.box.encode_images = lambda _: 1 / 0
        with pytest.raises(ZeroDivisionError):
            await features.of(place.set_of(0, 1), place.run)
        place.box.encode_images = encode
        return await features.of(place.set_of(0, 1), place.run)

    assert asyncio.run(main()).shape[0] == 2


@pytest.mark.parametrize("resident", [0, 100])
@pytest.mark.parametrize("memory", [1, 100])
def test_what_another_owner_had_encoded_saves_no_work(make_place, resident, memory):
    """On the device, in memory or on disk: each would tell that another owner has the images."""
    place = make_place(resident_images=resident, feature_cache=memory)
    place.images.add("bob", [png(seed) for seed in range(10)])
    features = place.features()

    async def main():
        of_ann, of_bob = place.set_of(0, 1, 2), place.set_of(0, 1, 2, owner="bob")
        assert of_ann.id == of_bob.id
        first = await features.of(of_ann, place.run)
        jobs = place.jobs
        assert np.array_equal(await features.of(of_bob, place.run), first)
        assert place.jobs == 2 * jobs
        await place.features().of(of_bob, place.run)

    asyncio.run(main())
    assert place.box.encoded == 6


def test_owners_that_ask_at_the_same_time_share_no_work_either(place):
    place.images.add("bob", [png(seed) for seed in range(10)])
    features = place.features()

    async def main():
        sets = [place.set_of(*range(6), owner=owner) for owner in ("ann", "bob", "ann")]
        await asyncio.gather(*(features.of(images, place.run) for images in sets))

    asyncio.run(main())
    assert place.box.encoded == 12
