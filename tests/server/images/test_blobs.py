"""Image bytes in every place they may be: whole or not there, and an outage charges nobody."""

import os
import secrets
import sys
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256

import fsspec
import pytest

from craft_server.api.services import services_of
from craft_server.images.blobs import BlobBucket, BlobFolder, BlobsDown, place_for
from craft_server.images.store import StoredImageError
from craft_shared.errors import Code
from tests.support.serving import image_set, png, settings_in, text_request, upload

CONTENTS = {sha256(data).hexdigest(): data for data in (b"", b"one", b"two" * 100_000)}
ONE = sha256(b"one").hexdigest()


@pytest.fixture
def bucket_url():
    return f"memory://bucket/{secrets.token_hex(4)}"


@pytest.fixture(params=["folder", "file://", "memory://"])
def place(request, tmp_path, bucket_url):
    places = {
        "folder": tmp_path / "images",
        "file://": f"file://{tmp_path}/with%20space",
        "memory://": bucket_url,
    }
    return places[request.param]


@pytest.fixture
def blobs(place):
    blobs = place_for(place)
    yield blobs
    blobs.close()


class Faulty:
    """Stands for a file system whose every call fails while it is `down`."""

    def __init__(self, files):
        self._files = files
        self.down: Exception | None = None

    def cat_file(self, path):
        return self._files.cat_file(self._checked(path))

    def pipe_file(self, path, data):
        self._files.pipe_file(self._checked(path), data)

    def rm_file(self, path):
        self._files.rm_file(self._checked(path))

    def _checked(self, path):
        if self.down is not None:
            raise self.down
        return path


def test_what_is_written_is_read_also_through_another_process_eyes(blobs, place):
    blobs.write(CONTENTS)
    blobs.write(CONTENTS)
    assert {digest: blobs.read(digest) for digest in CONTENTS} == CONTENTS
    other = place_for(place)
    assert {digest: other.read(digest) for digest in CONTENTS} == CONTENTS
    other.close()


def test_what_was_never_written_is_an_error_of_its_own(blobs):
    with pytest.raises(FileNotFoundError):
        blobs.read(ONE)


def test_what_is_removed_is_gone_and_may_be_removed_again(blobs):
    blobs.write(CONTENTS)
    blobs.remove(ONE)
    blobs.remove(ONE)
    with pytest.raises(FileNotFoundError):
        blobs.read(ONE)
    assert [blobs.read(name) for name in CONTENTS if name != ONE]


def test_many_writers_of_the_same_bytes_leave_them_whole(blobs):
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: blobs.write(CONTENTS), range(16)))
    assert {digest: blobs.read(digest) for digest in CONTENTS} == CONTENTS


def test_a_file_has_its_name_only_when_it_is_whole_and_synced(tmp_path, monkeypatch):
    """What a crash at any time before leaves is a draft, which no reader asks for."""
    from craft_server.images import blobs as module

    blobs, fsync, seen = BlobFolder(tmp_path), os.fsync, []

    def synced(handle):
        seen.append((tmp_path / ONE[:2] / ONE).exists())
        fsync(handle)

    monkeypatch.setattr(module.os, "fsync", synced)
    blobs.write({ONE: b"one"})
    assert seen[0] is False
    assert seen[1:] == [True, True]
    blobs.close()


def test_a_disk_that_fails_leaves_nothing_and_says_why(tmp_path, monkeypatch):
    from craft_server.images import blobs as module

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module.os, "fsync", full)
    blobs = BlobFolder(tmp_path)
    with pytest.raises(BlobsDown, match="No space left on device"):
        blobs.write(CONTENTS)
    blobs.close()
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


@pytest.mark.parametrize("fault", [OSError(5, "bucket secret-name"), RuntimeError("endpoint")])
def test_a_bucket_that_does_not_answer_is_not_ready_and_keeps_its_secrets(bucket_url, fault):
    """Stores' libraries raise what they like; what they say is for the log."""
    bucket = BlobBucket(bucket_url)
    bucket.write({ONE: b"one"})
    bucket._files = Faulty(bucket._files)
    bucket._files.down = fault
    acts = (
        lambda: bucket.read(ONE),
        lambda: bucket.write(CONTENTS),
        lambda: bucket.remove(ONE),
    )
    for act in acts:
        with pytest.raises(BlobsDown) as caught:
            act()
        assert caught.value.code is Code.NOT_READY
        assert caught.value.__cause__ is fault
        assert str(fault.args[-1]) not in caught.value.detail
    bucket._files.down = None
    assert bucket.read(ONE) == b"one"
    bucket.close()


@pytest.mark.parametrize("url", ["ftp://host/images", "bucket/prefix", "s3://", "memory:///"])
def test_a_url_of_no_store_that_will_do_is_refused_with_those_that_do(url):
    with pytest.raises(ValueError, match=r"image_url .* cannot be used.*file://, s3://"):
        place_for(url)


def test_a_store_whose_package_is_missing_names_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "s3fs", None)
    with pytest.raises(ValueError, match="needs the package s3fs, which is not installed"):
        place_for("s3://bucket/prefix")


# --- a server on a bucket -----------------------------------------------------------------------


@pytest.fixture
def settings(tmp_path, bucket_url):
    return settings_in(tmp_path, image_url=bucket_url)


@pytest.fixture
def bucket(app):
    """The bucket of the server, which can be taken down."""
    blobs = services_of(app).images._blobs
    blobs._files = Faulty(blobs._files)
    return blobs._files


def ask(client, set_id):
    headers = {"Idempotency-Key": "one"}
    return client.post("/v1/logits", json=text_request(set_id), headers=headers)


def assert_not_ready(reply):
    assert reply.status_code == 503, reply.text
    assert reply.headers["retry-after"] == "5"
    assert (reply.json()["code"], reply.json()["retryable"]) == ("not_ready", True)


def test_images_are_sold_from_a_bucket_and_none_is_in_the_data_dir(client, tmp_path):
    assert ask(client, image_set(client)).status_code == 200
    assert not (tmp_path / "images").exists()


def test_an_upload_during_an_outage_is_asked_to_come_back_and_announces_nothing(client, bucket):
    files = [png(seed) for seed in range(3)]
    ids = [sha256(data).hexdigest() for data in files]
    bucket.down = ConnectionError("no route")
    parts = [("files", (f"{index}.png", data)) for index, data in enumerate(files)]
    assert_not_ready(client.post("/v1/images", files=parts))
    assert client.post("/v1/images/missing", json={"ids": ids}).json()["missing"] == ids
    bucket.down = None
    assert upload(client, files) == ids
    assert client.post("/v1/images/missing", json={"ids": ids}).json()["missing"] == []


def test_a_query_during_an_outage_is_asked_to_come_back_and_charged_once(client, bucket):
    set_id = image_set(client)
    bucket.down = ConnectionError("no route")
    assert_not_ready(ask(client, set_id))
    queries = client.get("/v1/key").json()["budgets"]["queries"]
    assert (queries["used"], queries["held"]) == (0, 0)
    bucket.down = None
    assert ask(client, set_id).status_code == 200
    assert client.get("/v1/key").json()["budgets"]["queries"]["used"] == 2


def test_an_image_lost_from_the_bucket_is_a_fault_that_says_so(app, client, bucket_url):
    """Not an outage: asking again would not help."""
    set_id = image_set(client)
    files = fsspec.filesystem("memory")
    files.rm(bucket_url.removeprefix("memory:/"), recursive=True)
    reply = ask(client, set_id)
    assert (reply.status_code, reply.json()["code"]) == (500, "internal")
    with pytest.raises(StoredImageError, match="restore its file"):
        services_of(app).images.open("test", sha256(png(0)).hexdigest())
