"""What an owner has is always what its sums say, and bytes stay as long as anybody needs them."""

import asyncio
import contextlib
import random
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from hashlib import sha256

import pytest
from sqlalchemy import event, text

from craft_server.db.store import Store
from craft_server.images import claims, totals
from craft_server.images.blobs import BlobsDown, name_of
from craft_server.images.decoding import ImageLimits
from craft_server.images.store import ImageStore
from craft_shared.errors import Code, Refusal
from tests.support.serving import png

pytestmark = pytest.mark.slow  # a thousand transactions

LIMITS = ImageLimits(
    bytes=20_000,
    pixels=10_000,
    owner_bytes=100_000,
    owner_images=10,
    images_per_set=5,
    owner_sets=10,
    owner_set_images=100,
)
LINGER_S = 100


class Place:
    """An image store whose clock is set by hand."""

    def __init__(self, url, folder):
        self.url, self.folder = url, folder
        self.now = 0
        self.store = Store(url)
        self.images = self.replica(LIMITS)

    def replica(self, limits):
        return ImageStore(
            self.store,
            self.folder,
            limits=limits,
            linger_s=LINGER_S,
            clock=lambda: self.now * 1_000_000,
        )

    def wait(self, seconds):
        self.now += seconds
        return self.images.remove_old_claims()

    def files(self):
        return sorted(path.name for path in self.folder.rglob("*") if path.is_file())

    def sums(self, owner="ann"):
        with self.store.read() as tx:
            return totals.look(tx, owner)

    def counted(self, owner="ann"):
        counts = """
            SELECT
             (SELECT count(*) FROM images WHERE owner = :of)
             + (SELECT count(*) FROM image_claims WHERE owner = :of),
             (SELECT coalesce(sum(bytes), 0) FROM images WHERE owner = :of)
             + (SELECT coalesce(sum(bytes), 0) FROM image_claims WHERE owner = :of),
             (SELECT count(*) FROM image_sets WHERE owner = :of),
             (SELECT coalesce(sum(count), 0) FROM image_sets WHERE owner = :of)"""
        with self.store.read() as tx:
            return tuple(tx.execute(text(counts), {"of": owner}).one())


@pytest.fixture
def place(database_url, tmp_path):
    place = Place(database_url, tmp_path / "images")
    yield place
    place.images.close()
    place.store.close()


def test_deleted_bytes_count_and_stay_a_while_and_then_go(place):
    [image] = place.images.add("ann", [png(1)])
    place.images.delete("ann", image.id)
    assert place.images.missing("ann", [image.id]) == [image.id]
    assert place.wait(LINGER_S - 1) == 0
    assert place.files() == [name_of("ann", image.id)]
    assert place.sums()[:2] == (1, image.bytes)
    assert place.wait(2) == 1
    assert (place.files(), place.sums()[:2]) == ([], (0, 0))


def test_an_upload_and_deletion_again_and_again_takes_no_more_than_the_quota(place):
    for seed in range(10):
        [image] = place.images.add("ann", [png(seed)])
        place.images.delete("ann", image.id)
    with pytest.raises(Refusal) as caught:
        place.images.add("ann", [png(10)])
    assert caught.value.code is Code.TOO_LARGE
    assert len(place.files()) == 10
    place.wait(LINGER_S + 1)
    assert place.images.add("ann", [png(10)])[0].new


def test_a_refused_upload_writes_no_bytes(place):
    place.images.add("ann", [png(seed) for seed in range(10)])
    with pytest.raises(Refusal):
        place.images.add("ann", [png(10)])
    assert len(place.files()) == 10


def test_what_another_owner_has_stays(place):
    [image] = place.images.add("ann", [png(1)])
    place.images.add("bob", [png(1)])
    place.images.delete("ann", image.id)
    assert place.wait(LINGER_S + 1) == 1
    assert place.images.open("bob", image.id).size == (16, 12)
    assert (place.sums().images, place.sums("bob").images) == (0, 1)
    place.images.delete("bob", image.id)
    place.wait(LINGER_S + 1)
    assert place.files() == []


def test_what_is_uploaded_again_before_it_goes_stays_and_counts_once(place):
    [image] = place.images.add("ann", [png(1)])
    place.images.delete("ann", image.id)
    place.now += LINGER_S + 1
    assert place.images.add("ann", [png(1)])[0].new
    assert place.images.remove_old_claims() == 0
    assert place.images.open("ann", image.id).size == (16, 12)
    assert place.sums()[:2] == (1, image.bytes) == place.counted()[:2]


def test_what_an_older_server_kept_for_all_owners_goes_with_the_last(place):
    """It lies under its digest and is no owner's own."""
    with place.store.write() as tx:
        digest = sha256(png(1)).hexdigest()
        for owner in ("ann", "bob"):
            row = f"INSERT INTO images VALUES ('{owner}', '{digest}', {len(png(1))}, 16, 12)"
            tx.execute(text(row))
    place.images._blobs.write({digest: png(1)})
    for owner, left in (("ann", [digest]), ("bob", [])):
        assert place.images.open(owner, digest).size == (16, 12)
        place.images.delete(owner, digest)
        place.wait(LINGER_S + 1)
        assert place.files() == left


def test_owners_share_no_file(place):
    """Else the second would replace it, which takes longer than to make one."""
    [image] = place.images.add("ann", [png(1)])
    place.images.add("bob", [png(1)])
    assert place.files() == sorted(name_of(owner, image.id) for owner in ("ann", "bob"))


def test_an_upload_that_takes_longer_than_bytes_linger_is_refused_whole(place, monkeypatch):
    write = place.images._blobs.write

    def slowly(files):
        write(files)
        place.wait(LINGER_S + 1)

    with monkeypatch.context() as patch:
        patch.setattr(place.images._blobs, "write", slowly)
        with pytest.raises(Refusal) as caught:
            place.images.add("ann", [png(1), png(2)])
    assert caught.value.code is Code.DEADLINE_EXCEEDED
    assert place.sums()[:2] == place.counted()[:2] == (0, 0)
    assert place.images.add("ann", [png(1), png(2)])[0].new


def test_what_a_failed_upload_left_goes_and_a_retry_counts_once(place, monkeypatch):
    def half(files):
        first = next(iter(files.items()))
        place.images._blobs._write(*first)
        raise BlobsDown("full")

    with monkeypatch.context() as patch:
        patch.setattr(place.images._blobs, "write", half)
        for _ in range(3):
            with pytest.raises(BlobsDown):
                place.images.add("ann", [png(1), png(2)])
    assert (len(place.files()), place.sums().images) == (1, 2)
    place.wait(LINGER_S + 1)
    assert (place.files(), place.sums()[:2]) == ([], (0, 0))


def test_bytes_that_cannot_be_taken_away_are_tried_again(place, monkeypatch):
    [image] = place.images.add("ann", [png(1)])
    place.images.delete("ann", image.id)

    def refuse(_):
        raise BlobsDown("read-only")

    with monkeypatch.context() as patch:
        patch.setattr(place.images._blobs, "remove", refuse)
        with pytest.raises(BlobsDown):
            place.wait(LINGER_S + 1)
    assert place.sums().images == 1
    assert place.wait(0) == 1
    assert place.files() == []


def test_sweeps_go_on_whatever_fails(place, caplog):
    ends = iter([BlobsDown("read-only"), ValueError("a bug"), 0])
    done = threading.Event()

    def remove():
        if isinstance(end := next(ends), Exception):
            raise end
        done.set()
        return end

    async def main():
        sweep = asyncio.create_task(claims.sweep(remove, every_s=0))
        await asyncio.to_thread(done.wait, 10)
        sweep.cancel()

    asyncio.run(main())
    assert done.is_set()
    assert [record.levelname for record in caplog.records][:2] == ["WARNING", "ERROR"]


def test_only_an_owners_own_images_can_be_deleted(place):
    [image] = place.images.add("ann", [png(1)])
    for name in (image.id, "0" * 64, "x\0", "../" + image.id):
        with pytest.raises(Refusal) as caught:
            place.images.delete("bob", name)
        assert caught.value.code is Code.UNKNOWN_IMAGE
    assert place.images.missing("ann", [image.id]) == []


@pytest.mark.parametrize("seed", range(3))
def test_the_sums_are_what_the_rows_say_whatever_is_done(place, seed):
    rng, images = random.Random(seed), place.images
    known = {number: images.add("all", [png(number)])[0].id for number in range(6)}
    sets = {}

    def do(owner):
        digest = known[number := rng.randrange(6)]
        act = rng.randrange(6)
        if act == 0:
            images.add(owner, [png(number), png(rng.randrange(6))])
        elif act == 1:
            images.delete(owner, digest)
        elif act == 2:
            sets[owner] = images.create_set(owner, [digest, digest], name="").id
        elif act == 3:
            images.delete_set(owner, sets.get(owner, ""))
        else:
            place.wait(rng.randrange(LINGER_S))

    for _ in range(120):
        owner = rng.choice(["ann", "bob"])
        with contextlib.suppress(Refusal):
            do(owner)
        assert place.sums(owner)[:4] == place.counted(owner)
    for digest in known.values():
        for owner in ("ann", "bob"):
            if not images.missing(owner, [digest]):
                assert images.open(owner, digest).size == (16, 12)


def test_an_owner_whose_rows_an_older_replica_made_is_counted(place):
    with place.store.write() as tx:
        rows = "INSERT INTO images VALUES ('ann', :digest, 7, 1, 1)"
        tx.execute(text(rows), [{"digest": f"{number:064x}"} for number in range(9)])
    place.images.add("ann", [png(1)])
    assert place.sums().images == 10 == place.counted()[0]
    with pytest.raises(Refusal, match="11 images"):
        place.images.add("ann", [png(2)])


@pytest.mark.parametrize("work", ["upload", "set", "delete"])
def test_work_on_one_image_does_not_grow_with_what_the_owner_has(tmp_path, work):
    """Counted in steps of SQLite's machine, of which counting 200,000 rows takes twice as many."""
    place = Place(f"sqlite:///{tmp_path / 'craft.db'}", tmp_path / "images")
    images = place.replica(replace(LIMITS, owner_images=10**6, owner_bytes=10**9))
    [first, second] = images.add("ann", [png(1), png(2)])
    with place.store.write() as tx:
        many = """
            WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 200000)
            INSERT INTO images SELECT 'ann', printf('%064x', i), 7, 1, 1 FROM n"""
        tx.execute(text(many))
    steps = 0

    def count():
        nonlocal steps
        steps += 100

    def listen(connection, *_):
        connection.set_progress_handler(count, 100)

    event.listen(place.store._engine, "checkout", listen)
    if work == "upload":
        images.add("ann", [png(3)])
    elif work == "set":
        images.create_set("ann", [first.id, second.id], name="")
    else:
        images.delete("ann", first.id)
    assert steps < 10_000
    images.close()
    place.images.close()
    place.store.close()


def while_bytes_go(place, monkeypatch, act):
    """What an act came to that was done while the bytes of an old claim were taken away."""
    remove, came = place.images._blobs.remove, []

    def slowly(name):
        if not came:
            came.append(None)
            with ThreadPoolExecutor(1) as other:
                came[0] = other.submit(act).result()
        remove(name)

    with monkeypatch.context() as patch:
        patch.setattr(place.images._blobs, "remove", slowly)
        place.wait(LINGER_S + 1)
    return came[0]


def test_no_transaction_is_open_while_bytes_go(place, monkeypatch):
    """An object store that hangs would stop all that is written, and on SQLite all purchases."""
    [image] = place.images.add("ann", [png(1)])
    place.images.delete("ann", image.id)

    def write():
        eager = Store(place.url, busy_timeout_s=0.5)
        with eager.write() as tx:
            totals.lock(tx, "ann")
        eager.close()
        return "written"

    assert while_bytes_go(place, monkeypatch, write) == "written"
    assert (place.files(), place.sums()[:2]) == ([], (0, 0))


def code_of_upload(place):
    try:
        place.images.add("ann", [png(1)])
    except Refusal as refusal:
        return refusal.code
    return None


def test_an_upload_of_bytes_that_are_going_is_sent_away_and_may_come_again(place, monkeypatch):
    [image] = place.images.add("ann", [png(1)])
    place.images.delete("ann", image.id)
    came = while_bytes_go(place, monkeypatch, lambda: code_of_upload(place))
    assert came is Code.OVERLOADED
    assert place.sums()[:2] == place.counted()[:2] == (0, 0)
    assert place.images.add("ann", [png(1)])[0].new
    assert place.images.open("ann", image.id).size == (16, 12)


def test_what_was_written_so_late_that_its_bytes_are_going_is_not_announced(place, monkeypatch):
    write = place.images._blobs.write
    removing, go = threading.Event(), threading.Event()
    remove = place.images._blobs.remove

    def slow_remove(name):
        removing.set()
        assert go.wait(10)
        remove(name)

    sweeps = [threading.Thread(target=lambda: place.wait(LINGER_S + 1))]

    def slow_write(files):
        write(files)
        sweeps[0].start()
        assert removing.wait(10)

    with monkeypatch.context() as patch:
        patch.setattr(place.images._blobs, "remove", slow_remove)
        patch.setattr(place.images._blobs, "write", slow_write)
        assert code_of_upload(place) is Code.DEADLINE_EXCEEDED
        go.set()
        sweeps[0].join()
    assert (place.files(), place.sums()[:2], place.counted()[:2]) == ([], (0, 0), (0, 0))


def test_a_second_sweep_leaves_alone_what_the_first_is_taking_away(place, monkeypatch):
    """Else its bytes could go after an upload that came between."""
    [image] = place.images.add("ann", [png(1)])
    place.images.delete("ann", image.id)
    assert while_bytes_go(place, monkeypatch, lambda: place.wait(60)) == 0
    assert place.sums()[:2] == place.counted()[:2] == (0, 0)


def test_what_a_server_was_taking_away_when_it_died_goes_later(place, monkeypatch):
    [image] = place.images.add("ann", [png(1)])
    place.images.delete("ann", image.id)

    def die(_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(place.images._blobs, "remove", die)
        with pytest.raises(KeyboardInterrupt):
            place.wait(LINGER_S + 1)
    assert place.wait(60) == 0
    assert code_of_upload(place) is Code.OVERLOADED
    assert place.wait(20 * 60) == 1
    assert (place.files(), place.sums()[:2], place.counted()[:2]) == ([], (0, 0), (0, 0))
