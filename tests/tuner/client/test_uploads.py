"""Pictures are read once, sent once, a batch at a time, and blamed by name."""

from dataclasses import dataclass, field

import pytest

from craft_shared.errors import Code, Refusal
from craft_shared.messages import CardLimits, ImageSet, StoredImage, UploadReply
from craft_tuner.client import uploads
from craft_tuner.client.client import Client
from craft_tuner.client.uploads import upload
from craft_tuner.data.pictures import BytesPicture
from craft_tuner.errors import DataError, ServerUnreachable, UsageError
from tests.support.tuner_server import (
    Answer,
    FakeServer,
    an_image,
    files_of,
    model_card,
    transport_to,
)


@dataclass
class Counted:
    """A picture that counts how often it is read."""

    data: bytes
    name: str
    reads: list[str] = field(default_factory=list)

    def read(self):
        self.reads.append(self.name)
        return self.data


def pictures(count, *, size=100):
    return [
        BytesPicture(an_image(str(index), size=size), f"dir/{index}.png") for index in range(count)
    ]


def send(server, files, *, set_size=1000, limits: CardLimits | None = None, **options):
    transport = transport_to(server)
    limits = limits or server.cards[0].limits
    return upload(transport, files, limits=limits, set_size=set_size, name="shots", **options)


def test_an_upload_becomes_a_set_in_the_order_given():
    server, files = FakeServer(), pictures(5)
    done = send(server, files)
    assert [server.images[one] for one in server.sets[done.images.sets[0]]] == [
        file.data for file in files
    ]
    assert (done.images.count, done.sizes, len(done.ids)) == (5, (5,), 5)


def test_what_is_there_already_is_not_sent_again():
    server = FakeServer()
    send(server, pictures(3))
    send(server, pictures(5))
    sent = [files_of(asked) for asked in server.calls("/v1/images")]
    assert [len(files) for files in sent] == [3, 2]
    send(server, pictures(5))
    assert len(server.calls("/v1/images")) == 2


def test_the_same_bytes_twice_are_sent_once_and_stand_twice_in_the_set():
    server = FakeServer()
    done = send(server, [BytesPicture(an_image("same"), name) for name in ("a.png", "b.png")])
    assert len(files_of(server.calls("/v1/images")[0])) == 1
    assert len(server.sets[done.images.sets[0]]) == 2


def test_large_sets_are_split_in_order():
    server, files = FakeServer(), pictures(7)
    done = send(server, files, set_size=3)
    assert done.sizes == (3, 3, 1)
    order = [one for name in done.images.sets for one in server.sets[name]]
    assert [server.images[one] for one in order] == [file.data for file in files]


@pytest.mark.parametrize(
    ("batch_images", "body_bytes", "batches"),
    [(4, 10**7, [4, 4, 2]), (256, 3 * 612, [3, 3, 3, 1]), (256, 10**7, [10])],
)
def test_batches_are_bounded_by_count_and_by_bytes(batch_images, body_bytes, batches, monkeypatch):
    monkeypatch.setattr(uploads, "BATCH_IMAGES", batch_images)
    server = FakeServer()
    limits = model_card(body_bytes=body_bytes).limits
    send(server, pictures(10, size=100), limits=limits)
    sent = [len(files_of(asked)) for asked in server.calls("/v1/images")]
    assert sent == batches
    assert all(len(asked.body) <= body_bytes for asked in server.calls("/v1/images"))


def test_each_picture_is_read_once_and_only_when_its_batch_is_due(monkeypatch):
    monkeypatch.setattr(uploads, "BATCH_IMAGES", 2)
    reads: list[str] = []
    server = FakeServer()
    seen_at_first_upload: list[int] = []
    honest = server._upload

    def spy(asked):
        seen_at_first_upload.append(len(reads))
        return honest(asked)

    server._upload = spy
    files = [Counted(an_image(str(index)), f"{index}", reads) for index in range(6)]
    send(server, files)
    assert reads == ["0", "1", "2", "3", "4", "5"]
    assert seen_at_first_upload[0] <= 3


def test_progress_adds_up(monkeypatch):
    monkeypatch.setattr(uploads, "BATCH_IMAGES", 4)
    steps: list[int] = []
    send(FakeServer(), pictures(10), on_uploaded=steps.append)
    assert steps == [4, 4, 2]


def test_what_was_looked_at_is_read_again_only_to_be_sent():
    server, reads = FakeServer(), []
    files = [Counted(an_image(str(index)), f"{index}", reads) for index in range(4)]
    send(server, files[:1])
    reads.clear()
    client = Client(transport_to(server), server.cards[0], run_id="run")
    client.look(files)
    assert (reads, len(server.calls("/v1/images/missing"))) == (["0", "1", "2", "3"], 2)
    shown = []
    for _ in range(2):  # as shots, then in a bundle
        done = client.upload(files, name="shots", classes=2, on_uploaded=shown.append)
        assert [server.images[each] for each in done.ids] == [file.data for file in files]
    assert reads == ["0", "1", "2", "3", "1", "2", "3"]
    assert len(server.calls("/v1/images/missing")) == 2
    assert len(server.calls("/v1/images")) == 2
    assert sum(shown) == 2 * len(files)


def test_a_picture_that_changes_after_it_was_looked_at_is_looked_at_again():
    server, files = FakeServer(), [Counted(an_image("first"), "0"), Counted(an_image("b"), "1")]
    client = Client(transport_to(server), server.cards[0], run_id="run")
    client.look(files)
    files[0].data = an_image("second")
    done = client.upload(files, name="shots", classes=2)
    assert [server.images[each] for each in done.ids] == [file.data for file in files]
    files[1].data = b"no image"
    client = Client(transport_to(FakeServer()), server.cards[0], run_id="run")
    with pytest.raises(DataError, match="cannot decode the image 1"):
        client.look(files)


def test_a_picture_too_large_is_named_before_anything_is_sent():
    server = FakeServer()
    limits = model_card(image_bytes=99).limits
    with pytest.raises(DataError, match=r"image dir/0\.png has 100 bytes, the server takes 99"):
        send(server, pictures(1), limits=limits)
    assert not server.asked


def test_a_picture_that_the_server_cannot_decode_is_named():
    server, files = FakeServer(), pictures(5)
    send(server, files[:2])
    server.bad_image = files[4].data
    with pytest.raises(DataError, match=r"the image dir/4\.png: .*not an image"):
        send(server, files)


@pytest.mark.parametrize("param", [None, "files", "files[1]", "images[0]"])
def test_an_error_whose_param_is_no_file_of_the_request_stays_as_it_is(param):
    server = FakeServer()
    detail = "files[0]: words that look like a place say nothing"

    def refuse(_asked):
        raise Refusal(Code.TOO_LARGE, detail, param=param)

    server._upload = refuse
    with pytest.raises(UsageError, match=r"files\[0\]: words") as caught:
        send(server, pictures(1))
    assert not isinstance(caught.value, DataError)
    assert caught.value.param == param


def test_a_server_that_stores_other_images_is_not_believed():
    server = FakeServer()
    other = StoredImage(id="0" * 64, bytes=1, width=1, height=1, new=True)
    body = UploadReply(images=[other]).model_dump_json().encode()
    server._upload = lambda _asked: Answer(body=body)
    with pytest.raises(ServerUnreachable, match="stored other images"):
        send(server, pictures(1))


def test_a_server_that_makes_a_set_of_another_size_is_not_believed():
    server = FakeServer()
    body = ImageSet(id="set_" + "0" * 32, name="", images=3).model_dump_json().encode()
    server._create_set = lambda _asked: Answer(body=body)
    with pytest.raises(ServerUnreachable, match="a set of 3 images from 1"):
        send(server, pictures(1))
