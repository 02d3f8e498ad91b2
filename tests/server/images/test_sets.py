"""Image sets: one id for one list, theirs alone, bounded, and deleted only by their owner."""

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from craft_server.db.store import Store
from craft_server.db.tables import image_sets
from craft_server.images import sets, totals
from craft_server.images.decoding import ImageLimits
from craft_server.images.store import ImageStore
from craft_shared.errors import Code, Refusal
from tests.support.serving import png

LIMITS = ImageLimits(
    bytes=20_000,
    pixels=10_000,
    owner_bytes=100_000,
    owner_images=10,
    images_per_set=5,
    owner_sets=4,
    owner_set_images=12,
)


@pytest.fixture
def store(database_url):
    store = Store(database_url)
    yield store
    store.close()


@pytest.fixture
def images(store, tmp_path):
    images = ImageStore(store, tmp_path / "images", limits=LIMITS)
    yield images
    images.close()


def test_a_set_keeps_order_and_repeats_and_has_one_id(images):
    a, b = (image.id for image in images.add("ann", [png(1), png(2)]))
    made = images.create_set("ann", [b, a, b], name="train")
    assert (made.name, made.images) == ("train", 3)
    assert images.find_set("ann", made.id).digests == (b, a, b)
    assert images.create_set("ann", [b, a, b], name="other") == made
    assert images.create_set("ann", [a, b], name="").id != made.id


def test_a_set_is_its_owners_alone(images):
    made = images.create_set("ann", [images.add("ann", [png(1)])[0].id], name="")
    for look in (images.find_set, images.describe_set):
        with pytest.raises(Refusal) as caught:
            look("bob", made.id)
        assert caught.value.code is Code.UNKNOWN_IMAGE_SET


def test_a_set_has_a_largest_size(images):
    [image] = images.add("ann", [png(1)])
    with pytest.raises(Refusal) as caught:
        images.create_set("ann", [image.id] * 6, name="")
    assert caught.value.code is Code.TOO_LARGE


def test_thousands_of_ids_are_looked_up(images):
    [image] = images.add("ann", [png(1)])
    asked = [image.id, *(f"{number:064x}" for number in range(40_000))]
    assert len(images.missing("ann", asked)) == 40_000


def test_a_set_is_read_from_the_store_once_and_an_unknown_one_again(images):
    with pytest.raises(Refusal):
        images.find_set("ann", "set_" + "0" * 32)
    made = images.create_set("ann", [images.add("ann", [png(1)])[0].id], name="")
    assert images.find_set("ann", made.id) is images.find_set("ann", made.id)


def test_a_set_larger_than_all_room_for_sets_is_read_again(store, tmp_path, monkeypatch):
    monkeypatch.setattr("craft_server.images.sets._KEPT_DIGESTS", 1)
    images = ImageStore(store, tmp_path / "images", limits=LIMITS)
    [image] = images.add("ann", [png(1)])
    large = images.create_set("ann", [image.id] * 2, name="").id
    small = images.create_set("ann", [image.id], name="").id
    assert images.find_set("ann", small) is images.find_set("ann", small)
    assert images.find_set("ann", large) == images.find_set("ann", large)
    assert images.find_set("ann", large) is not images.find_set("ann", large)
    assert images.find_set("ann", small) is images.find_set("ann", small)
    images.close()


def test_conflicts_are_ignored_by_postgres_too():
    from sqlalchemy.dialects import postgresql

    from craft_server.images.queries import insertion

    statement = insertion(postgresql.dialect(), image_sets)
    assert "ON CONFLICT DO NOTHING" in str(statement.compile(dialect=postgresql.dialect()))


def code_of(work, *arguments, **options):
    with pytest.raises(Refusal) as caught:
        work(*arguments, **options)
    return caught.value.code


def upload(images, count=3, owner="ann"):
    return [image.id for image in images.add(owner, [png(seed) for seed in range(count)])]


def rows_of(store):
    with store.read() as tx:
        return len(tx.execute(image_sets.select()).all())


def test_an_owner_keeps_so_many_sets_and_the_same_one_again_is_free(images, store):
    a, b, c = upload(images)
    made = [images.create_set("ann", one, name="") for one in ([a], [b], [c], [a, b])]
    with pytest.raises(Refusal, match=r"5 sets of 7 images.*may keep 4 sets of 12") as caught:
        images.create_set("ann", [b, a], name="")
    assert (caught.value.code, caught.value.param) == (Code.TOO_LARGE, "images")
    assert images.create_set("ann", [a], name="") == made[0]
    assert rows_of(store) == 4
    upload(images, 1, "bob")
    images.create_set("bob", [a], name="")


def test_an_owner_keeps_so_many_images_in_all_sets(images, store):
    a, b, c = upload(images)
    images.create_set("ann", [a] * 5, name="")
    images.create_set("ann", [b] * 5, name="")
    assert code_of(images.create_set, "ann", [c] * 3, name="") is Code.TOO_LARGE
    assert rows_of(store) == 2
    images.create_set("ann", [c] * 2, name="")


def test_a_set_that_the_quota_refuses_takes_no_write_lock(images, store, monkeypatch):
    a, b, c = upload(images)
    for one in ([a], [b], [c], [a, b]):
        images.create_set("ann", one, name="")
    monkeypatch.setattr(store, "write", lambda: pytest.fail("it writes"))
    assert code_of(images.create_set, "ann", [b, a], name="") is Code.TOO_LARGE


def test_a_deleted_set_is_gone_and_gives_its_room_back(images):
    a, b, c = upload(images)
    made = [images.create_set("ann", one, name="") for one in ([a], [b], [c], [a, b])]
    images.find_set("ann", made[0].id)
    images.delete_set("ann", made[0].id)
    for look in (images.find_set, images.describe_set, images.delete_set):
        assert code_of(look, "ann", made[0].id) is Code.UNKNOWN_IMAGE_SET
    images.create_set("ann", [b, a], name="")
    assert code_of(images.create_set, "ann", [a], name="") is Code.TOO_LARGE


def test_a_set_that_is_made_again_has_the_id_it_had(images):
    ids = upload(images)
    made = images.create_set("ann", ids, name="")
    images.delete_set("ann", made.id)
    assert images.create_set("ann", ids, name="") == made


@pytest.mark.parametrize("name", ["set_" + "0" * 32, "set_\0", "../../etc/passwd"])
def test_a_set_of_nobody_cannot_be_deleted(images, name):
    assert code_of(images.delete_set, "ann", name) is Code.UNKNOWN_IMAGE_SET


def test_another_owners_set_cannot_be_deleted_nor_does_a_deletion_reach_it(images):
    ids = upload(images)
    upload(images, 3, "bob")
    made = images.create_set("ann", ids, name="")
    assert code_of(images.delete_set, "bob", made.id) is Code.UNKNOWN_IMAGE_SET
    assert images.create_set("bob", ids, name="").id == made.id
    images.delete_set("bob", made.id)
    assert images.find_set("ann", made.id).digests == tuple(ids)
    images.delete("bob", ids[0])


def test_an_image_in_a_set_cannot_be_deleted_until_the_set_is(images):
    a, b, c = upload(images)
    made = images.create_set("ann", [a, b, a], name="")
    for held in (a, b):
        with pytest.raises(Refusal, match=made.id) as caught:
            images.delete("ann", held)
        assert caught.value.code is Code.IMAGE_IN_USE
    images.delete("ann", c)
    images.delete_set("ann", made.id)
    images.delete("ann", a)
    assert images.missing("ann", [a, b, c]) == [a, c]


def test_an_image_that_is_deleted_while_a_set_is_made_is_not_in_it(images, monkeypatch):
    a, b, _ = upload(images)
    look = sets._check_known

    def then_deleted(tx, owner, digests):
        look(tx, owner, digests)
        tx.commit()  # SQLite lets the other write meanwhile either way, Postgres too
        images.delete("ann", a)

    with monkeypatch.context() as patch:
        patch.setattr(sets, "_check_known", then_deleted)
        assert code_of(images.create_set, "ann", [a, b], name="") is Code.UNKNOWN_IMAGE
    assert code_of(images.create_set, "ann", [a, b], name="") is Code.UNKNOWN_IMAGE


def test_a_set_that_is_made_while_its_image_is_deleted_holds_it(images, monkeypatch):
    from craft_server.images import store as module

    a, b, _ = upload(images)
    look, made = module.holder, []

    def then_held(tx, owner, digest):
        found = look(tx, owner, digest)
        if not made:
            made.append(images.create_set("ann", [a, b], name=""))
        return found

    with monkeypatch.context() as patch:
        patch.setattr(module, "holder", then_held)
        assert code_of(images.delete, "ann", a) is Code.IMAGE_IN_USE
    assert images.missing("ann", [a]) == []


def test_whoever_is_overtaken_again_and_again_is_told_to_come_back(images, monkeypatch):
    a, *_ = upload(images)
    monkeypatch.setattr(images._sets, "_insert", lambda *_: None)
    monkeypatch.setattr(images, "_delete", lambda *_: False)
    assert code_of(images.create_set, "ann", [a], name="") is Code.OVERLOADED
    assert code_of(images.delete, "ann", a) is Code.OVERLOADED


def test_sets_made_at_once_do_not_pass_the_quota(store, tmp_path, monkeypatch):
    """All look before any inserts, two replicas at that."""
    quota = replace(LIMITS, owner_sets=3)
    replicas = [ImageStore(store, tmp_path / "images", limits=quota) for _ in range(2)]
    ids = upload(replicas[0], 8)
    all_looked, look = threading.Barrier(8), sets._check_known
    monkeypatch.setattr(sets, "_check_known", lambda *asked: (look(*asked), all_looked.wait(30)))

    def make(number):
        try:
            replicas[number % 2].create_set("ann", [ids[number]], name="")
        except Refusal as refusal:
            return refusal.code
        return None

    with ThreadPoolExecutor(8) as pool:
        ends = list(pool.map(make, range(8)))
    assert sorted(map(str, ends)) == ["None"] * 3 + ["too_large"] * 5
    assert rows_of(store) == 3
    with store.read() as tx:
        assert totals.look(tx, "ann")[2:5] == (3, 3, 3)
    for images in replicas:
        images.close()


def test_to_count_a_set_reads_no_digests_and_is_kept(images, store, monkeypatch):
    ids = upload(images)
    made = images.create_set("ann", ids, name="")
    other = images.create_set("ann", ids[:2], name="")
    monkeypatch.setattr(sets, "find_set", lambda *_: pytest.fail("it reads digests"))
    assert images.known_set_count("ann", made.id) is None
    assert images.count_set("ann", made.id) == images.known_set_count("ann", made.id) == 3
    assert images.describe_set("ann", made.id) == made
    assert code_of(images.count_set, "bob", made.id) is Code.UNKNOWN_IMAGE_SET
    images.delete_set("ann", made.id)
    assert images.known_set_count("ann", made.id) is None
    assert code_of(images.count_set, "ann", made.id) is Code.UNKNOWN_IMAGE_SET
    monkeypatch.undo()
    images.find_set("ann", other.id)
    assert images.known_set_count("ann", other.id) == 2


def used_by(images, *owners):
    """A set of three images each, used in the order of their owners."""
    made = {owner: images.create_set(owner, upload(images, 3, owner), name="") for owner in owners}
    return {owner: images.find_set(owner, one.id) for owner, one in made.items()}


def test_an_owners_sets_push_out_no_other_owners(store, tmp_path, monkeypatch):
    monkeypatch.setattr(sets, "_KEPT_DIGESTS", 16)
    monkeypatch.setattr(sets, "_OWNER_DIGESTS", 4, raising=False)
    images = ImageStore(store, tmp_path / "images", limits=LIMITS)
    found = used_by(images, "bob", "cat", "dan")
    a, b, _ = upload(images)
    many = [
        images.create_set("ann", one, name="").id
        for one in ([a] * 3, [b] * 3, [a, b, a], [b, a, b])
    ]
    for _ in range(3):
        for one in many:
            images.find_set("ann", one)
    for owner, record in found.items():
        assert images.find_set(owner, record.id) is record
    assert images.find_set("ann", many[3]) is images.find_set("ann", many[3])
    images.close()


def test_all_owners_sets_together_take_no_more_than_the_room_for_sets(store, tmp_path, monkeypatch):
    monkeypatch.setattr(sets, "_KEPT_DIGESTS", 7)
    images = ImageStore(store, tmp_path / "images", limits=LIMITS)
    found = used_by(images, "ann", "bob", "cat")
    kept = [owner for owner, one in found.items() if images.known_set(owner, one.id) is one]
    assert kept == ["bob", "cat"]
    images.close()
