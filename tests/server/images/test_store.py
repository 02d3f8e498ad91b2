"""Decoding and the image store: what gets in, who sees it, what is refused and how."""

import io
import os
import stat
import struct
import threading
import time
import tracemalloc
import zlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image, ImageFile

from benchmarks.common import forged
from craft_server.db.store import Store
from craft_server.images import claims, totals
from craft_server.images.decoding import ImageLimits, open_image
from craft_server.images.store import ImageStore, StoredImageError
from craft_shared.errors import Code, Refusal
from tests.support.picture_cases import CASES
from tests.support.serving import as_bytes, png

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
def images(tmp_path):
    store = Store(f"sqlite:///{tmp_path / 'craft.db'}")
    images = ImageStore(store, tmp_path / "images", limits=LIMITS)
    yield images
    images.close()
    store.close()


def png_header(width, height):
    """A PNG that claims a size and has next to no pixels."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0"))


def exif_of(number, more=()):
    """EXIF with an orientation and other tags behind it."""
    tags = [(0x112, 3, 1, number), *more]
    entries = b"".join(struct.pack("<HHLL", *tag) for tag in tags)
    return b"II*\0" + struct.pack("<LH", 8, len(tags)) + entries + bytes(4)


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def refusal_of(data):
    with pytest.raises(Refusal) as caught:
        open_image(data, LIMITS)
    return caught.value


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_allowed_formats_open_as_rgb(kind):
    image = open_image(as_bytes(Image.new("L", (9, 7), 200), kind), LIMITS)
    assert (image.mode, image.size) == ("RGB", (9, 7))


@pytest.mark.parametrize("kind", ["GIF", "BMP", "TIFF", "PPM"])
def test_other_formats_never_reach_a_decoder(kind):
    refusal = refusal_of(as_bytes(Image.new("RGB", (4, 4)), kind))
    assert refusal.code is Code.UNDECODABLE_IMAGE
    assert "JPEG, PNG, WEBP" in refusal.detail


@pytest.mark.parametrize("side", [200, 10_000, 50_000])
def test_a_huge_claimed_size_is_refused_from_the_header(side):
    refusal = refusal_of(png_header(side, side))
    assert refusal.code is Code.TOO_LARGE
    assert "at most 10000" in refusal.detail


def test_a_bomb_of_many_pixels_in_few_bytes_is_refused():
    bomb = as_bytes(Image.new("L", (1000, 1000)), "PNG")
    assert len(bomb) < LIMITS.bytes
    assert refusal_of(bomb).code is Code.TOO_LARGE


@pytest.mark.parametrize("data", [b"", b"hello", png(1)[:80], png_header(4, 4)])
def test_broken_files_are_undecodable(data):
    assert refusal_of(data).code is Code.UNDECODABLE_IMAGE


def test_a_truncated_jpeg_is_undecodable():
    jpeg = as_bytes(Image.effect_noise((90, 90), 80).convert("RGB"), "JPEG")
    assert refusal_of(jpeg[: len(jpeg) // 2]).code is Code.UNDECODABLE_IMAGE


def test_too_many_bytes_are_refused_unread():
    refusal = refusal_of(bytes(20_001))
    assert refusal.code is Code.TOO_LARGE
    assert "20001 bytes, at most 20000" in refusal.detail


def test_an_upload_is_known_by_its_digest_and_new_once(images):
    first = images.add("ann", [png(1), png(2), png(1)])
    assert [image.new for image in first] == [True, True, False]
    assert first[0].id == first[2].id
    assert [image.new for image in images.add("ann", [png(1)])] == [False]
    assert images.open("ann", first[1].id).size == (16, 12)


def test_one_bad_file_keeps_all_out_and_is_named(images):
    with pytest.raises(Refusal) as caught:
        images.add("ann", [png(1), b"junk"])
    assert caught.value.param == "files[1]"
    assert images.add("ann", [png(1)])[0].new


def test_another_owners_image_looks_absent_and_uploads_as_new(images):
    [image] = images.add("ann", [png(1)])
    assert images.missing("bob", [image.id]) == [image.id]
    with pytest.raises(Refusal) as caught:
        images.create_set("bob", [image.id], name="")
    assert caught.value.code is Code.UNKNOWN_IMAGE
    assert image.id in caught.value.detail
    assert images.add("bob", [png(1)])[0].new


def test_the_quota_counts_what_is_new_and_leaves_nothing_behind(images):
    images.add("ann", [png(seed) for seed in range(10)])
    images.add("ann", [png(3)])
    with pytest.raises(Refusal) as caught:
        images.add("ann", [png(11)])
    assert caught.value.code is Code.TOO_LARGE
    assert "11 images" in caught.value.detail
    images.add("bob", [png(11)])


def test_bytes_are_on_disk_before_the_row_that_announces_them(images, monkeypatch):
    """Files, then the folders that name them, then the store."""
    from craft_server.images import blobs
    from craft_server.images import store as image_store

    events = []
    fsync, insert = blobs.os.fsync, image_store.insert_new

    def synced(handle):
        events.append("folder" if stat.S_ISDIR(os.fstat(handle).st_mode) else "file")
        fsync(handle)

    monkeypatch.setattr(blobs.os, "fsync", synced)
    monkeypatch.setattr(
        image_store, "insert_new", lambda *rows: events.append("rows") or insert(*rows)
    )
    images.add("ann", [png(seed) for seed in range(9)])
    assert events[:9] == ["file"] * 9
    assert events[-1] == "rows"
    assert set(events[9:-1]) == {"folder"}


def test_a_disk_that_fails_announces_nothing_and_keeps_nothing(images, monkeypatch, tmp_path):
    from craft_server.images import blobs

    def full(_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(blobs.os, "fsync", full)
        with pytest.raises(Refusal, match="No space left") as caught:
            images.add("ann", [png(1)])
    assert caught.value.code is Code.NOT_READY
    assert [path for path in (tmp_path / "images").rglob("*") if path.is_file()] == []
    assert images.add("ann", [png(1)])[0].new


def test_a_decoder_that_fails_in_its_own_way_is_an_undecodable_image(monkeypatch):
    def explode(*_, **__):
        raise MemoryError("decoder bug")

    data = png(1)
    monkeypatch.setattr(ImageFile.ImageFile, "load", explode)
    assert refusal_of(data).code is Code.UNDECODABLE_IMAGE


@pytest.mark.parametrize(
    "forge",
    [
        forged.png_profiles,
        forged.jpeg_scans,
        forged.jpeg_exif,
        forged.png_chunks,
        forged.jpeg_segments,
        forged.jpeg_junk,
        forged.jpeg_ended,
        forged.jpeg_marks,
    ],
)
def test_a_file_that_makes_a_decoder_repeat_itself_is_refused(forge):
    with pytest.raises(Refusal) as caught:
        open_image(forge(), replace(LIMITS, bytes=8 * 2**20, pixels=32_000_000))
    assert caught.value.code is Code.TOO_LARGE
    assert "in one file" in caught.value.detail


@pytest.mark.parametrize(
    "case", [case for case in CASES if case.served and case.shows is not None], ids=lambda c: c.name
)
def test_what_a_picture_is_does_not_depend_on_its_file(case):
    found = np.asarray(open_image(case.data, LIMITS)).astype(int)
    assert found.shape == case.shows.shape
    assert np.abs(found - case.shows).max() <= case.tolerance


@pytest.mark.parametrize(
    "case", [case for case in CASES if case.served and case.shows is None], ids=lambda c: c.name
)
def test_a_picture_that_shows_nothing_is_refused(case):
    assert refusal_of(case.data).code is Code.UNDECODABLE_IMAGE


def test_a_side_longer_than_any_jpeg_is_refused_whichever_way_it_is_turned():
    for number in range(1, 9):
        data = png_header(1, 65_501)
        turned = data[:33] + chunk(b"eXIf", exif_of(number)) + data[33:]
        assert "on a side" in refusal_of(turned).detail


def test_exif_of_many_large_tags_costs_nothing():
    exif = exif_of(6, more=[(tag, 7, 2**20, 8) for tag in range(0x200, 0xFFFF)])
    data = as_bytes(Image.new("RGB", (30, 20)), "PNG")
    bomb = data[:33] + chunk(b"eXIf", exif + bytes(2**20)) + data[33:]
    tracemalloc.start()
    image = open_image(bomb, replace(LIMITS, bytes=8 * 2**20))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert (image.size, peak < 2**26) == ((20, 30), True)


def test_a_side_longer_than_any_jpeg_is_refused():
    refusal = refusal_of(png_header(1, 65_501))
    assert (refusal.code, "on a side" in refusal.detail) == (Code.TOO_LARGE, True)


def test_a_progressive_jpeg_with_profile_and_exif_is_taken():
    picture = Image.effect_noise((90, 90), 80).convert("RGB")
    exif = Image.Exif()
    exif[0x010E] = "x" * 1000
    data = io.BytesIO()
    picture.save(data, "JPEG", progressive=True, exif=exif, icc_profile=bytes(3000))
    assert open_image(data.getvalue(), LIMITS).size == (90, 90)


def test_a_file_that_is_lost_or_damaged_is_repaired_by_the_next_upload(images, tmp_path):
    [image] = images.add("ann", [png(1)])
    [file] = [path for path in (tmp_path / "images").rglob("*") if path.is_file()]
    for harm in (file.unlink, lambda: file.write_bytes(b"damaged")):
        harm()
        with pytest.raises(StoredImageError):
            images.open("ann", image.id)
        assert not images.add("ann", [png(1)])[0].new
        assert images.open("ann", image.id).size == (16, 12)


def test_a_key_may_lower_the_quota_of_its_owner_and_not_raise_it(images):
    size = len(png(1))
    with pytest.raises(Refusal) as caught:
        images.add("ann", [png(1)], owner_bytes=size - 1)
    assert caught.value.code is Code.TOO_LARGE
    assert f"of {size - 1} bytes" in caught.value.detail
    images.add("ann", [png(1)], owner_bytes=size)
    images.add("ann", [png(1)], owner_bytes=0)
    with pytest.raises(Refusal, match="of 100000 bytes"):
        images.add("ann", [png(seed) for seed in range(20)], owner_bytes=10**9)


def test_an_upload_whose_time_is_up_keeps_nothing(images):
    with pytest.raises(Refusal) as caught:
        images.add("ann", [png(1)], end=0)
    assert caught.value.code is Code.DEADLINE_EXCEEDED
    assert images.add("ann", [png(1)])[0].new


def test_two_uploads_at_once_do_not_pass_the_quota(database_url, tmp_path, monkeypatch):
    """Both look before either claims; the second look, under a lock, is the one that counts."""
    quota = replace(LIMITS, owner_images=10)
    store = Store(database_url)
    images = ImageStore(store, tmp_path / "images", limits=quota, decoders=2)
    both, claim, insert = threading.Barrier(2), images._claim, claims.claim
    monkeypatch.setattr(images, "_claim", lambda *asked: (both.wait(30), claim(*asked)))

    def slowly(*asked):
        fresh = insert(*asked)
        time.sleep(0.2)  # before it commits: the other must wait for that
        return fresh

    monkeypatch.setattr(claims, "claim", slowly)

    def add(first):
        try:
            images.add("ann", [png(seed) for seed in range(first, first + 6)])
        except Refusal as refusal:
            return refusal.code
        return None

    with ThreadPoolExecutor(2) as pool:
        ends = set(pool.map(add, [0, 6]))
    with store.read() as connection:
        assert totals.look(connection, "ann").images == 6
    assert ends == {None, Code.TOO_LARGE}
    images.close()
    store.close()
