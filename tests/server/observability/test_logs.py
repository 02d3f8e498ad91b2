"""The log: lines that machines read, ids that lead from a reply to its lines, and no payloads."""

import asyncio
import json
import logging
import sys
import threading
from collections.abc import Iterator

import numpy as np
import pytest
from starlette.testclient import TestClient

from craft_server.api.services import services_of
from craft_server.app import create_app
from craft_server.observability import logs
from craft_shared.tensors import TENSOR_MEDIA_TYPE
from tests.support.serving import (
    image_set,
    png,
    running,
    settings_in,
    soft_body,
    stub_box,
    tensor_headers,
    text_request,
)

SECRET = "hunter2"
"""Planted in everything that a client can send but names of purchases."""


def record(message="said", *, error=None, **values):
    exc_info = None if error is None else (type(error), error, error.__traceback__)
    made = logging.LogRecord("craft_server.x", logging.INFO, "", 0, message, (), exc_info)
    made.__dict__.update(logs.fields(**values))
    return made


def raised():
    """An error with a cause, both quoting what a client sent."""
    try:
        try:
            {}[SECRET]
        except KeyError as cause:
            raise ValueError(SECRET) from cause
    except ValueError as error:
        return error


def test_a_line_of_json_has_the_documented_fields():
    token = logs.REQUEST_ID.set("req_1")
    line = json.loads(logs.JsonLines().format(record("two\nlines", error=raised(), status=200)))
    logs.REQUEST_ID.reset(token)
    assert line["at"].endswith("Z")
    assert (line["level"], line["logger"]) == ("info", "craft_server.x")
    assert (line["message"], line["request_id"], line["status"]) == ("two\nlines", "req_1", 200)
    assert line["error"] == "ValueError from KeyError"
    assert line["stack"][-1].endswith(" raised")
    assert SECRET not in json.dumps(line)


def test_a_line_of_text_cannot_be_forged_by_a_line_feed():
    token = logs.REQUEST_ID.set("req_1")
    text = logs.TextLines().format(record("two\nlines", status=200, key=None))
    logs.REQUEST_ID.reset(token)
    assert text.split(" ", 1)[1] == r"INFO craft_server.x req_1 two\nlines status=200"
    failed = logs.TextLines().format(record(error=raised()))
    assert SECRET not in failed
    assert "error=ValueError from KeyError\n  at " in failed


@pytest.fixture
def restored() -> Iterator[None]:
    """Logging as it was, afterwards."""
    root = logging.getLogger()
    before = root.handlers[:], root.level, threading.excepthook
    levels = {name: logging.getLogger(name).level for name in logs.OURS}
    yield
    root.handlers[:], level, threading.excepthook = before
    root.setLevel(level)
    for name, was in levels.items():
        logging.getLogger(name).setLevel(was)
    logging.captureWarnings(capture=False)


def test_ours_are_heard_as_asked_and_libraries_from_warning_on(restored, capsys):
    logs.configure("json", "debug")
    logging.getLogger("craft_server.x").debug("ours")
    logging.getLogger("PIL").info("theirs")
    logging.getLogger("PIL").warning("their warning")
    lines = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert [line["message"] for line in lines] == ["ours", "their warning"]


def test_errors_in_a_ring_are_named_once():
    error = raised()
    error.__cause__.__context__ = error
    assert [type(one) for one in logs.chain(error)] == [ValueError, KeyError]


def test_errors_that_nobody_waits_for_are_reported_without_their_message(restored, capsys):
    logs.configure("text", "info")

    def fail():
        raise raised()

    thread = threading.Thread(target=fail)
    thread.start()
    thread.join()

    async def forget():
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(logs.on_loop_error)
        loop.call_soon(fail)
        await asyncio.sleep(0)

    asyncio.run(forget())
    err = capsys.readouterr().err
    assert err.count("error=ValueError from KeyError") == 2
    assert SECRET not in err


# --- requests -----------------------------------------------------------------------------------


def request_lines(caplog):
    return [one.fields for one in caplog.records if one.name == "craft_server.api.access_log"]


def test_a_request_is_one_line_by_template(app, client, caplog):
    caplog.set_level(logging.INFO, "craft_server")
    set_id = image_set(client, 1)
    caplog.clear()
    reply = client.get(f"/v1/image-sets/{set_id}?tag={SECRET}")
    client.get("/livez")
    client.get(f"/{SECRET}", headers={"Authorization": ""})
    (key,) = services_of(app).keys.all()
    first, second = request_lines(caplog)
    assert first.pop("ms") >= 0
    assert first == {
        "method": "GET",
        "route": "/v1/image-sets/{set_id}",
        "status": 200,
        "bytes_out": len(reply.content),
        "key": key.id,
    }
    assert (second["route"], second["status"], second["key"]) == ("unmatched", 404, None)


def test_request_lines_can_be_switched_off(tmp_path, caplog):
    caplog.set_level(logging.INFO, "craft_server")
    settings = settings_in(tmp_path, access_log=False)
    with TestClient(create_app(settings, stub_box(settings))) as client:
        client.get("/v1/key")
    assert request_lines(caplog) == []


@pytest.mark.parametrize(
    ("given", "taken"),
    [("abc-1.2", True), ("x" * 64, True), ("x" * 65, False), ("a b", False), ("", False)],
)
def test_a_proxys_request_id_is_taken_only_if_it_is_plain_and_trusted(tmp_path, given, taken):
    for trusted in (True, False):
        settings = settings_in(tmp_path, trust_request_id=trusted)
        with TestClient(create_app(settings, stub_box(settings))) as client:
            reply = client.get("/v1/key", headers={"X-Request-Id": given})
        found = reply.headers["x-request-id"]
        assert found == reply.json()["request_id"]
        assert (found == given) == (taken and trusted)
        assert found == given or found.startswith("req_")


def provoke(client, token, turn=""):
    """Requests of every kind, good and bad, with the secret in all that they carry."""
    set_id = image_set(client)
    words = {"class_names": [SECRET, "dog"]}
    prompts = {"kind": "text", "templates": [f"{SECRET} {{}}"]}
    good = text_request(set_id) | words | {"prompts": prompts}
    other = good | {"class_names": ["a"]}
    soft = soft_body(set_id, np.ones((1, 4, 16), np.float32), class_names=[SECRET])
    tensors = {"Content-Type": TENSOR_MEDIA_TYPE}
    json_type = {"Content-Type": "application/json"}
    wrong = [
        good | {"model": SECRET},
        good | {"image_set": SECRET},
        good | {SECRET: 1},
        good | {"class_names": [SECRET * 100]},
        good | {"prompts": prompts | {"templates": [SECRET]}},
        good | {"prompts": prompts | {"templates": [f"{SECRET} " * 60 + "{}"]}},
        good | {"tag": f"{SECRET}!"},
    ]

    def post(path, **request):
        return client.post(path, **request).status_code

    codes = [
        post("/v1/logits", json=good, headers={"Idempotency-Key": f"1{turn}"}),
        post("/v1/logits", json=good, headers={"Idempotency-Key": f"1{turn}"}),
        post(
            "/v1/logits",
            json=other,
            headers={"Idempotency-Key": f"1{turn}"},
        ),
        post("/v1/logits", content=soft, headers=tensor_headers(f"2{turn}")),
        post("/v1/logits", content=soft[:-3], headers=tensor_headers(f"3{turn}")),
        post("/v1/logits", content=f'{{"{SECRET}'.encode(), headers=json_type),
        post("/v1/logits", content=SECRET.encode(), headers=tensors),
        post("/v1/logits", content=SECRET.encode(), headers={"Content-Type": SECRET}),
        post("/v1/logits", json=good, headers={"Content-Encoding": SECRET}),
        post("/v1/images", files=[("files", (f"{SECRET}.png", png(5) + SECRET.encode()))]),
        post("/v1/images", files=[("files", (f"{SECRET}.png", SECRET.encode()))]),
        post("/v1/images", files=[(SECRET, (f"{SECRET}.png", png(5)))]),
        post("/v1/images/missing", json={"ids": [SECRET]}),
        post("/v1/image-sets", json={"images": ["0" * 64], "name": f"{SECRET}!"}),
        *(
            post("/v1/logits", json=one, headers={"Idempotency-Key": f"w{number}{turn}"})
            for number, one in enumerate(wrong)
        ),
    ]
    paths = [
        f"/v1/models/{SECRET}",
        f"/v1/image-sets/{SECRET}",
        f"/{SECRET}?{SECRET}={SECRET}",
        f"/v1/usage?tag={SECRET}!&bucket={SECRET}",
        "/readyz",
    ]
    codes += [client.get(path).status_code for path in paths]
    for bad in (f"Bearer craft_{SECRET}", SECRET, f"Bearer {token[:-1]}x"):
        codes.append(client.get("/v1/key", headers={"Authorization": bad}).status_code)
    return codes


def secrets_of(token, *, owner):
    return [SECRET, token, token[-20:], owner, repr(png(0)[30:60])[2:-1]]


def assert_none_told(text, secrets):
    assert [secret for secret in secrets if secret in text] == []


def test_no_request_brings_its_content_into_the_log(app, anonymous, box, mint_key, caplog, capfd):
    caplog.set_level(logging.DEBUG)
    token = mint_key(10**6, owner="owner-of-all").token
    anonymous.headers["Authorization"] = f"Bearer {token}"
    codes = provoke(anonymous, token)
    assert set(codes) == {200, 400, 401, 404, 415, 422}

    def fail(pieces):
        raise ValueError(f"cannot encode {SECRET}")

    box.encode_texts = fail
    assert 500 in provoke(anonymous, token, "again")
    for form in (logs.JsonLines(), logs.TextLines()):
        written = "\n".join(
            form.format(one)
            for one in caplog.records
            if one.name.split(".")[0] in logs.OURS or one.levelno >= logging.WARNING
        )
        assert "request" in written
        assert_none_told(written, secrets_of(token, owner="owner-of-all"))
    out, err = capfd.readouterr()
    assert_none_told(out + err, secrets_of(token, owner="owner-of-all"))


FAILING = """
import sys
from craft_server.cli import main as cli
from craft_server.models.stub import StubBlackBox

encode = StubBlackBox.encode_texts

def fail(self, pieces):
    for prompts, _ in pieces:
        for row in prompts.plan[0]:
            if "broken" in str(row):
                raise ValueError(f"cannot encode {row}")
    return encode(self, pieces)

StubBlackBox.encode_texts = fail
sys.argv = ["craft-server", "serve"]
cli.main()
"""


@pytest.mark.slow
@pytest.mark.parametrize("form", ["json", "text"])
def test_nor_into_what_the_real_program_writes(tmp_path, form, monkeypatch):
    """A server whose model fails at some words and quotes them, at the finest level."""
    script = tmp_path / "craft-server"
    script.write_text(f"#!{sys.executable}\n{FAILING}")
    script.chmod(0o755)
    real = running(tmp_path, log_format=form, log_level="debug")
    with real as server:
        token = server.mint(10**6, "--owner", "owner-of-all")
        server.stop()
        monkeypatch.setattr("tests.support.serving.SCRIPTS", tmp_path)
        server.start()
        with server.client(token) as client:
            provoke(client, token)
            broken = text_request(image_set(client)) | {"class_names": [f"broken {SECRET}"]}
            reply = client.post("/v1/logits", json=broken, headers={"Idempotency-Key": "b"})
            assert reply.status_code == 500
            request_id = reply.json()["request_id"]
        server.stop()
    written = server.log()
    assert_none_told(written, secrets_of(token, owner="owner-of-all"))
    mine = [line for line in written.splitlines() if request_id in line]
    assert any("ValueError" in line for line in mine)
    assert any("/v1/logits" in line and "500" in line for line in mine)
    if form == "json":
        lines = [json.loads(line) for line in written.splitlines()]
        assert {"at", "level", "logger", "message"} <= set.intersection(*map(set, lines))
