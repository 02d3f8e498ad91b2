"""What the CUDA path asks of torch, shown by fakes: no test machine has a GPU."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from craft_server.api.services import services_of
from craft_server.app import card_limits, create_app
from craft_server.models.clip import device as transfer
from craft_server.models.clip.load import _placed, create_model, find_source, load_clip, pick_device
from craft_server.models.clip.model import ClipBlackBox
from craft_server.settings import ModelError
from tests.support.serving import png, settings_in, text_request

SECOND = torch.device("cuda:1")


def full(*_, **__):
    """Fail as torch does where a card has no memory left."""
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nMore advice.")


@pytest.fixture
def two_cards(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)


def test_a_card_is_picked_by_its_number(two_cards):
    assert pick_device("cuda") == torch.device("cuda")
    assert pick_device("cuda:1") == SECOND
    assert pick_device("auto") == torch.device("cuda")


@pytest.mark.parametrize("name", ["cuda:2", "cuda:x", "cuda:", "rocm"])
def test_a_card_that_is_not_here_is_refused_in_words(two_cards, name):
    with pytest.raises(ModelError, match=r"is not here; available: auto, cuda, .*cuda:0, cuda:1"):
        pick_device(name)


def test_a_driver_that_shows_no_card_is_no_cuda(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    assert pick_device("auto").type != "cuda"
    with pytest.raises(ModelError, match="'cuda' is not here"):
        pick_device("cuda")


def test_float32_is_not_rounded_to_tf32(tmp_path):
    torch.backends.cudnn.allow_tf32 = True
    settings = settings_in(tmp_path, model="embedded", device="cpu")
    load_clip(settings, card_limits(settings))
    assert not torch.backends.cudnn.allow_tf32
    assert not torch.backends.cuda.matmul.allow_tf32


def box_on(device):
    """A box whose text tower says that it is on a device."""
    return ClipBlackBox(None, SimpleNamespace(device=device), None)


def test_the_devices_thread_computes_on_the_models_card(monkeypatch):
    """Else events and pinned memory belong to card 0, whatever card the model is on."""
    asked = []
    monkeypatch.setattr(torch.cuda, "set_device", asked.append)
    threads = torch.get_num_threads()
    box_on(torch.device("cpu")).start()
    assert asked == []
    box_on(SECOND).start()
    assert asked == [SECOND]
    torch.set_num_threads(threads)


def test_after_a_failure_torchs_cache_is_emptied(monkeypatch):
    asked = []
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: asked.append("emptied"))
    box_on(torch.device("cpu")).recover()
    assert asked == []
    box_on(SECOND).recover()
    assert asked == ["emptied"]


def test_a_copy_to_the_host_is_waited_for_on_the_stream_that_makes_it(monkeypatch):
    events = []
    event = SimpleNamespace(
        record=lambda stream: events.append(f"record on {stream}"),
        synchronize=lambda: events.append("wait"),
    )
    host = SimpleNamespace(
        copy_=lambda tensor, *, non_blocking: events.append("copy"), numpy=lambda: "numbers"
    )
    monkeypatch.setattr(torch.cuda, "Event", lambda: event)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: f"stream of {device}")
    monkeypatch.setattr(transfer.torch, "empty", lambda *_, **options: host)
    wait = transfer.to_host(SimpleNamespace(device=SECOND, shape=(1,), dtype=torch.float32))
    assert events == ["copy", "record on stream of cuda:1"]
    assert wait() == "numbers"
    assert events[-1] == "wait"


# --- too little memory --------------------------------------------------------------------------


def test_a_model_that_does_not_fit_is_refused_in_a_sentence(tmp_path, monkeypatch):
    source = find_source(settings_in(tmp_path, model="embedded"))
    with pytest.raises(ModelError, match=r"embedded::1 does not fit into the memory of cuda:1: "):
        _placed(SimpleNamespace(to=full), SECOND, source)
    monkeypatch.setattr("craft_server.models.clip.load.open_clip.create_model", full)
    with pytest.raises(ModelError, match=r"--precision float16 .*2.00 GiB\.\)$"):
        create_model(source, "float16", SECOND)


@pytest.mark.slow
def test_a_server_whose_device_ran_full_charges_nothing_and_is_ready_again(tmp_path, monkeypatch):
    """The real model in the real application; the error is the one that torch raises on a GPU."""
    from starlette.testclient import TestClient

    settings = settings_in(tmp_path, model="embedded", device="cpu")
    box = load_clip(settings, card_limits(settings))
    recovered, encode = [], box.encode_texts
    monkeypatch.setattr(box, "recover", lambda: recovered.append(1))
    app = create_app(settings, box)
    with TestClient(app, raise_server_exceptions=False) as client:
        services = services_of(app)
        minted = services.keys.create("ann", 10)
        headers = {"Authorization": f"Bearer {minted.token}", "Idempotency-Key": "one"}
        images = services.images.add("ann", [png(1), png(2)])
        made = services.images.create_set("ann", [image.id for image in images], name="")
        body = text_request(made.id) | {"model": box.card.id}
        templates = body["prompts"]["templates"]
        monkeypatch.setattr(box, "encode_texts", full)
        refused = client.post("/v1/logits", json=body, headers=headers)
        assert (refused.status_code, recovered) == (500, [1])
        assert "OutOfMemoryError" in refused.json()["detail"]
        assert client.get("/readyz").status_code == 503
        monkeypatch.setattr(box, "encode_texts", encode)
        assert client.get("/readyz").status_code == 200
        usage = client.get("/v1/usage", headers=headers).json()
        assert [bucket["counters"]["queries"] for bucket in usage["buckets"]] == [0]
        sold = client.post("/v1/logits", json=body, headers=headers)
        assert sold.status_code == 200
        assert sold.json()["budgets"]["queries"]["used"] == len(templates)
        assert np.isfinite(sold.json()["logits"]).all()


def test_images_are_encoded_again_after_the_device_ran_full(tmp_path, monkeypatch):
    settings = settings_in(tmp_path, model="embedded", device="cpu")
    box = load_clip(settings, card_limits(settings))
    pixels = [box.preprocess(Image.new("RGB", (20, 20)))]
    expected = box.encode_images(pixels)
    with monkeypatch.context() as patch:
        patch.setattr(box._images, "_pass", full)
        with pytest.raises(torch.OutOfMemoryError):
            box.encode_images(pixels)
    assert box.encode_images(pixels) == expected
