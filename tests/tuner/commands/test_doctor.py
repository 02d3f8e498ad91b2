"""`craft-tuner doctor` finds each planted fault, says what to do, and neither buys nor writes."""

import contextlib
import functools
import json
import os
import socket
import sys
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from PIL import Image
from sqlalchemy import func, select

from craft_server.accounts.keys import Keys
from craft_server.api.services import services_of
from craft_server.app import create_app
from craft_server.db.tables import image_claims, image_sets, images, ledger, requests
from craft_shared.errors import Code, Refusal
from craft_shared.messages import ModelList, Policy
from craft_tuner.cli import main as cli
from craft_tuner.client import transport
from craft_tuner.commands.doctor import here, key, server
from craft_tuner.commands.doctor.diagnose import Asked, diagnose
from craft_tuner.commands.doctor.sheet import Line, Sheet
from craft_tuner.config.fit_config import build
from craft_tuner.data.pictures import encode_png
from craft_tuner.runs.place import hold
from craft_tuner.runs.run import Run
from tests.support.serving import in_thread, settings_in, stub_box
from tests.support.tls import behind_tls, make_authority
from tests.support.tuner_commands import build_zoo
from tests.support.tuner_server import (
    KEY,
    Answer,
    FakeServer,
    an_image,
    listening,
    model_card,
    refused,
    said,
)

FIT = {"method": "template_ensemble", "shots": 2, "budget": 30}
HEIC = b"\0\0\0\x18ftypheic" + b"\0" * 40
HTML = Answer(body=b"<html><h1>Welcome to nginx</h1></html>", media_type="text/html")
VERSION = functools.cache(metadata.version)
"""Reading one takes 10 ms."""
NIGHT = "Sat, 01 Jan 2000 00:00:00 GMT"


@dataclass
class Scene:
    """A user, a dataset and a server; a fault is planted by changing them."""

    server: FakeServer
    folder: Path
    patch: pytest.MonkeyPatch
    environ: dict[str, str]
    data: str
    run: Path
    flags: dict[str, Any] = field(default_factory=dict)
    fit: dict[str, Any] = field(default_factory=lambda: dict(FIT))
    config: Path | None = None
    held: list[int] = field(default_factory=list)

    @property
    def url(self):
        return self.environ["CRAFT_SERVER_URL"]

    def examine(self):
        """The lines of the sheet."""
        sheet = Sheet()
        asked = Asked(
            environ=self.environ,
            flags=self.flags,
            fit_flags=self.fit,
            config=self.config,
            data=self.data,
            run=self.run,
        )
        diagnose(asked, sheet)
        return sheet.lines


@pytest.fixture
def scene(tmp_path, monkeypatch):
    """Everything is as it should be."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(metadata, "version", VERSION)
    for name in os.environ:
        if name.lower().endswith("_proxy") or name.startswith(("SSL_CERT_", "CRAFT_")):
            monkeypatch.delenv(name)
    fake = FakeServer(logit_vectors=10**6)
    with listening(fake) as url:
        environ = {"CRAFT_SERVER_URL": url, "CRAFT_API_KEY": KEY}
        zoo = build_zoo(tmp_path / "zoo")
        for number, picture in enumerate(sorted(zoo.rglob("*.png"))):
            picture.write_bytes(of_two_colours(number))
        scene = Scene(fake, tmp_path, monkeypatch, environ, str(zoo), tmp_path / "runs" / "a")
        yield scene
        for descriptor in scene.held:
            os.close(descriptor)


def of_two_colours(number):
    image = Image.new("RGB", (9, 7), (number, 2 * number, 7))
    image.putpixel((0, 0), (255, 255, 255))
    return encode_png(image)


FAULTS = {}


def fault(state, check, words):
    """Register what plants a fault, with the state, the check and the words that are expected."""

    def register(plant):
        FAULTS[plant.__name__] = (plant, state, check, words)
        return plant

    return register


def served(**fields):
    """A card with some fields changed."""
    return [model_card().model_copy(update=fields)]


# --- environment --------------------------------------------------------------------------------


@fault("warn", "address", ("no server is named", "give --server, CRAFT_SERVER_URL"))
def no_url(scene):
    del scene.environ["CRAFT_SERVER_URL"]


@fault("fail", "address", ("'http://[::1' is no address", "needed: a URL such as"))
def malformed_url(scene):
    scene.environ["CRAFT_SERVER_URL"] = "http://[::1"


@fault("fail", "address", ("does not begin with http:// or https://", "needed: a URL"))
def unsupported_scheme(scene):
    scene.flags["server"] = "ftp://craft.test"


@fault("fail", "address", ("nothing stands behind a ? or #", "needed: a URL"))
def url_with_a_query(scene):
    scene.flags["server"] = "http://craft.test?x=1"


@fault("warn", "address", ("is not encrypted", "use https://"))
def url_in_the_clear(scene):
    scene.patch.setenv("HTTP_PROXY", scene.url)
    scene.flags["server"] = "http://craft.test"


@fault("warn", "variables", ("CRAFT_SERVR_URL is no variable", "did you mean CRAFT_SERVER_URL?"))
def misspelt_variable(scene):
    scene.environ["CRAFT_SERVR_URL"] = "http://craft.test"


@fault("fail", "settings", ("no setting is called shotz", "did you mean shots?"))
def misspelt_setting(scene):
    scene.environ["CRAFT_FIT_SHOTZ"] = "3"


@fault("fail", "settings", ("timeout_s = 'soon' of the environment", "set it with --timeout"))
def setting_out_of_bounds(scene):
    scene.environ["CRAFT_TIMEOUT_S"] = "soon"


@fault("fail", "settings", ("is not TOML",))
def configuration_that_is_no_toml(scene):
    scene.config = scene.folder / "craft.toml"
    scene.config.write_text("shots: 8")


@fault("fail", "settings", ("cannot read the configuration",))
def configuration_that_is_missing(scene):
    scene.config = scene.folder / "craft.toml"


@fault("fail", "settings", ("no such tracker", "allowed: tensorboard"))
def unknown_tracker(scene):
    scene.flags["track"] = "wandb"


@fault("fail", "way", ("HTTP_PROXY='socks://a:1' is no proxy", "allowed: http://"))
def malformed_proxy(scene):
    scene.patch.setenv("HTTP_PROXY", "socks://a:1")
    scene.flags["server"] = "http://craft.test"


@fault("fail", "way", ("needs the package socksio", "pip install 'httpx[socks]'"))
def proxy_that_needs_a_package(scene):
    scene.patch.setattr("craft_tuner.client.surroundings.find_spec", lambda _: None)
    scene.patch.setenv("ALL_PROXY", "socks5://me:secret@a.test:1080")
    scene.flags["server"] = "https://craft.test"


@fault("fail", "connection", ("Connection refused", "through the proxy HTTP_PROXY='http://127.0."))
def proxy_that_is_not_there(scene):
    scene.patch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    scene.flags["server"] = "http://craft.test"


@fault("fail", "way", ("SSL_CERT_FILE=", "No such file", "needed: a PEM file"))
def missing_certificates(scene):
    scene.patch.setenv("SSL_CERT_FILE", str(scene.folder / "ca.pem"))
    scene.flags["server"] = "https://127.0.0.1:1"


@fault("fail", "way", ("SSL_CERT_FILE=", "cannot be used", "needed: a PEM file"))
def certificates_that_are_none(scene):
    (scene.folder / "ca.pem").write_text("hello")
    scene.patch.setenv("SSL_CERT_FILE", str(scene.folder / "ca.pem"))
    scene.flags["server"] = "https://127.0.0.1:1"


@fault("fail", "connection", ("does not answer in TLS", "give --server as http://"))
def tls_to_a_plain_port(scene):
    scene.environ["CRAFT_SERVER_URL"] = scene.url.replace("http:", "https:")


@fault("fail", "connection", ("no address is known for its name", "that --server is right"))
def unknown_name(scene):
    def look_up(host, *_args, **_options):
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    scene.patch.setattr(socket, "getaddrinfo", look_up)
    scene.flags["server"] = "https://nobody.invalid"


@fault("fail", "connection", ("Connection refused", "check that the server runs"))
def closed_port(scene):
    scene.environ["CRAFT_SERVER_URL"] = "http://127.0.0.1:1"


@fault("fail", "connection", ("with text/html to GET /v1/models", "the address of a craft-server"))
def server_of_pages(scene):
    scene.server.instead["/v1/models"] = HTML


@fault("fail", "connection", ("not protocol v1", "both programs have the same version"))
def server_of_something_else(scene):
    scene.server.instead["/v1/models"] = Answer(body=b'{"hello": 1}')


@fault("fail", "connection", ("There is nothing at this address", "compare their versions"))
def other_protocol(scene):
    scene.server.instead["/v1/models"] = refused(Refusal(Code.NOT_FOUND, "this is v2"))


@fault("fail", "connection", ("a gateway answers 502 (Bad gateway)", "check that the server runs"))
def gateway_without_a_server(scene):
    page = Answer(502, b"<h1>Bad gateway</h1>", "text/html")
    scene.server.instead["/v1/models"] = page


@fault("fail", "connection", ("sends /v1/models on to https://", "the server's own address"))
def server_that_has_moved(scene):
    moved = Answer(301, headers={"Location": "https://craft.test"})
    scene.server.instead["/v1/models"] = moved


@fault("fail", "ready", ("the device does not answer", "try again later"))
def server_that_is_not_ready(scene):
    unready = refused(Refusal(Code.NOT_READY, "the device does not answer"))
    scene.server.instead["/readyz"] = unready


@fault("warn", "clock", ("s ahead of the server", "set its clock (NTP)"))
def clock_that_is_wrong(scene):
    scene.patch.setattr(BaseHTTPRequestHandler, "date_time_string", lambda *_: NIGHT)


@fault("warn", "line", ("the line is slow: ", "--dtype int16"))
def slow_line(scene):
    scene.patch.setattr(key, "SLOW_BYTES_PER_S", 10**12)


@fault("fail", "model", ("has no model 'other'", "it has: fake::1"))
def unknown_model(scene):
    scene.environ["CRAFT_MODEL"] = "other"


@fault("fail", "model", ("has 2 models: a, b", "choose with --model"))
def several_models(scene):
    scene.server.cards = [model_card("a"), model_card("b")]


@fault("fail", "model", ("no model that this key may use", "ask the server's owner"))
def no_model(scene):
    scene.server.instead["/v1/models"] = said(ModelList(models=[]))


# --- key ----------------------------------------------------------------------------------------


@fault("fail", "key", ("no API key for http://", "--key or CRAFT_API_KEY"))
def no_key(scene):
    del scene.environ["CRAFT_API_KEY"]


@fault("fail", "key", ("the API key of 7 characters", "give it with --key or CRAFT_API_KEY"))
def malformed_key(scene):
    scene.environ["CRAFT_API_KEY"] = "craft_\n"


@fault("fail", "key", ("unknown, revoked or expired", "give a valid key", "given with --key"))
def key_of_another_server(scene):
    scene.flags["key"] = "craft_other"


@fault("warn", "expiry", ("in 48 hours", "ask the server's owner for longer"))
def key_that_ends_soon(scene):
    scene.server.expires_at = datetime.now(UTC) + timedelta(days=2)


@fault("fail", "scopes", ("a fit needs images:write", "use another key"))
def key_that_may_not_upload(scene):
    scene.server.scopes = ["logits:read", "usage:read"]


@fault("fail", "scopes", ("a fit needs logits:read", "ask the server's owner"))
def key_that_may_not_ask(scene):
    scene.server.scopes = ["images:write"]


@fault("warn", "scopes", ("without usage:read", "ask the server's owner if you need it"))
def key_that_may_not_see_its_usage(scene):
    scene.server.scopes = ["logits:read", "images:write"]


@fault("fail", "plan", ("text prompts", "--method"))
def key_without_the_methods_prompts(scene):
    scene.server.cards = served(prompt_kinds=["soft"])


@fault("fail", "plan", ("its own list of 2 class names", "'ox' is not on it", "another key"))
def key_for_other_names(scene):
    scene.server.cards = served(class_names=["cat", "sea lion"])


@fault("fail", "plan", ("at least 5 class names", "add classes"))
def key_for_more_names(scene):
    scene.server.cards = [model_card(min_classes=5)]


@fault("fail", "plan", ("has 3 classes, the server takes 2", "raise the limit"))
def key_for_fewer_classes(scene):
    scene.server.cards = [model_card(classes=2)]


@fault("fail", "plan", ("the key has 1 left", "ask the server's owner"))
def too_few_queries(scene):
    scene.server.queries = 1
    del scene.fit["budget"]


@fault("fail", "plan", ("logit vectors (prompts x images)", "the key has 7 left"))
def too_few_logit_vectors(scene):
    scene.server.limits["logit_vectors"] = 7


@fault("fail", "plan", ("texts (prompts x names)", "the key has 2 left"))
def too_few_texts(scene):
    scene.server.limits["texts"] = 2


@fault("fail", "plan", ("logits (numbers told)", "the key has 5 left"))
def too_few_logits(scene):
    scene.server.limits["logits"] = 5


@fault("fail", "plan", ("queries", "--budget"))
def sets_of_one_image(scene):
    scene.server.cards = [model_card(images=1)]


@fault("fail", "budget", ("no queries left", "craft-server keys set-budget"))
def no_queries(scene):
    scene.server.queries = 0


@fault("fail", "plan", ("--budget 30 is more than the key has left", "lower --budget"))
def budget_beyond_the_key(scene):
    scene.server.queries = 29


@fault("fail", "quota", ("may keep 10 bytes of images", "fewer --shots"))
def too_small_a_quota(scene):
    scene.server.policy = Policy(image_bytes=10)


@fault("warn", "rate", ("may make 1 calls a minute", "ask the server's owner"))
def too_few_calls_a_minute(scene):
    scene.server.policy = Policy(requests_per_minute=1)
    scene.server.cards = [model_card(images=1)]
    scene.fit["budget"] = 1000


# --- data ---------------------------------------------------------------------------------------


@fault("fail", "data", ("there is no dataset at 'nowhere'", "give a folder of class folders"))
def no_dataset(scene):
    scene.data = "nowhere"


@fault("fail", "data", ("damaged or not an image (1): ", "replace them"))
def damaged_picture(scene):
    (scene.folder / "zoo/train/ox/0.png").write_bytes(b"\x89PNG\r\n")


@fault("warn", "data", ("of one colour (1): ",))
def picture_of_one_colour(scene):
    (scene.folder / "zoo/train/ox/0.png").write_bytes(encode_png(Image.new("RGB", (9, 7), 9)))


@fault("fail", "data", ("HEIC, which needs pillow-heif (1)", "install that"))
def picture_that_needs_a_package(scene):
    scene.patch.setattr("craft_tuner.data.formats._convertible", lambda: ("BMP",))
    (scene.folder / "zoo/train/ox/7.heic").write_bytes(HEIC)


@fault("fail", "data", ("needs the package `datasets`", "pip install 'craft-blackbox[hf]'"))
def dataset_that_needs_a_package(scene):
    scene.patch.setitem(sys.modules, "datasets", None)
    scene.data = "hf:some/zoo"


@fault("fail", "data", ("the same image in train and test (1)", "remove one of each pair"))
def picture_in_both_splits(scene):
    zoo = scene.folder / "zoo"
    (zoo / "test/ox/9.png").write_bytes((zoo / "train/ox/0.png").read_bytes())


@fault("fail", "data", ("the same image under two classes (1)", "keep the one that is right"))
def picture_of_two_classes(scene):
    zoo = scene.folder / "zoo"
    (zoo / "train/cat/9.png").write_bytes((zoo / "train/ox/0.png").read_bytes())


@fault("fail", "data", ("class without test images (1): yak", "give it some"))
def class_of_one_split(scene):
    folder = scene.folder / "zoo/train/yak"
    folder.mkdir()
    for shade in range(5):
        (folder / f"{shade}.png").write_bytes(an_image(f"yak {shade}"))


@fault("fail", "data", ("are the same to CLIP's tokenizer", "--class-names"))
def names_that_are_the_same(scene):
    for split in ("train", "test"):
        (scene.folder / "zoo" / split / "ox").rename(scene.folder / "zoo" / split / "CAT")


@fault("warn", "data", ("class name that is a WordNet id", "--class-names"))
def names_that_are_no_words(scene):
    for split in ("train", "test"):
        (scene.folder / "zoo" / split / "ox").rename(scene.folder / "zoo" / split / "n02084071")


@fault("fail", "data", ("file outside the dataset (1)", "with --allow-outside"))
def picture_that_lies_elsewhere(scene):
    elsewhere = scene.folder / "elsewhere.png"
    elsewhere.write_bytes(an_image("elsewhere"))
    (scene.folder / "zoo/train/ox/7.png").symlink_to(elsewhere)


@fault("fail", "plan", ("at least 85 tokens, at most 77", "a shorter one with --class-names"))
def name_that_is_too_long(scene):
    for split in ("train", "test"):
        name = " ".join("abcdefghijklmnopqrstuvwxyz" * 3)
        (scene.folder / "zoo" / split / "ox").rename(scene.folder / "zoo" / split / name)


@fault("fail", "plan", ("tokens, at most 77 fit", "give a shorter one with --class-names FILE"))
def name_that_only_the_server_knows_to_be_too_long(scene):
    for split in ("train", "test"):
        (scene.folder / "zoo" / split / "ox").rename(scene.folder / "zoo" / split / ("鹤" * 60))


@fault("fail", "plan", ("has 5 training image(s)", "up to"))
def class_with_too_few_pictures(scene):
    scene.fit["shots"] = 8


@fault("fail", "settings", ("preset 'cifar' does not exist",))
def unknown_preset(scene):
    scene.fit["preset"] = "cifar"


# --- place --------------------------------------------------------------------------------------


@fault("fail", "run", ("Not a directory", "a file stands where a folder is needed"))
def run_on_a_file(scene):
    scene.run = scene.folder / "file"
    scene.run.write_text("")


@fault("fail", "run", ("Not a directory", "a file stands where a folder is needed"))
def run_below_a_file(scene):
    scene.run = scene.folder / "file" / "below"
    (scene.folder / "file").write_text("")


@fault("fail", "run", ("Permission denied", "choose a place that this user may use"))
def run_that_may_not_be_written(scene):
    scene.patch.setattr(os, "access", lambda *_: False)


@fault("fail", "run", ("File name too long", "choose a shorter name"))
def run_of_a_long_name(scene):
    scene.run = scene.folder / ("x" * 300)


@fault("fail", "run", ("holds other files (notes)", "choose a new directory"))
def run_among_other_files(scene):
    scene.run.mkdir(parents=True)
    (scene.run / "notes").write_text("")


@fault("fail", "run", ("already holds a run", "--resume"))
def run_that_is_there(scene):
    Run.create(scene.run, build(scene.fit)).close()


@fault("fail", "run", ("other settings (shots 1 -> 2)", "start a new run"))
def run_of_other_settings(scene):
    Run.create(scene.run, build(scene.fit | {"shots": 1})).close()


@fault("fail", "run", (f"is in use by process {os.getpid()}", "wait for it"))
def run_that_is_worked_on(scene):
    scene.run.mkdir(parents=True)
    scene.held.append(hold(scene.run))


@fault("fail", "disk", ("1.0 kB free", "make room, or choose another place"))
def full_disk(scene):
    scene.patch.setattr(here.shutil, "disk_usage", lambda _: SimpleNamespace(free=1000))


# --- packages -----------------------------------------------------------------------------------


@fault("fail", "packages", ("cma is not installed, 4.4 or later", "pip install -U"))
def missing_package(scene):
    versions(scene, "cma", None)


@fault("fail", "packages", ("torch 2.4.1+cpu is too old, 2.5 or later", "pip install -U"))
def old_package(scene):
    versions(scene, "torch", "2.4.1+cpu")


@fault("warn", "threads", ("OMP_NUM_THREADS='many'", "give 1 or more, or unset it"))
def threads_that_are_no_number(scene):
    scene.environ["OMP_NUM_THREADS"] = "many"


def versions(scene, package, version):
    """Let a package have another version, or none."""

    def look_up(name):
        if name != package:
            return VERSION(name)
        if version is None:
            raise metadata.PackageNotFoundError(name)
        return version

    scene.patch.setattr(metadata, "version", look_up)


# --- what is said -------------------------------------------------------------------------------


def matches(line, state, check, words):
    return (line.state, line.check) == (state, check) and all(word in line.says for word in words)


def test_there_are_many_faults():
    assert len(FAULTS) >= 60


def test_without_a_fault_all_is_well_and_no_words_of_a_fault_are_said(scene):
    lines = scene.examine()
    assert {line.state for line in lines} == {"ok"}, [line.text() for line in lines]
    for name, (_, state, check, words) in FAULTS.items():
        assert not any(matches(line, state, check, words) for line in lines), name


@pytest.mark.parametrize("name", FAULTS)
def test_a_planted_fault_is_found_with_what_to_do(scene, name):
    plant, state, check, words = FAULTS[name]
    plant(scene)
    lines = scene.examine()
    found = [line.text() for line in lines]
    assert any(matches(line, state, check, words) for line in lines), "\n".join(found)
    assert not any("secret" in text or KEY in text for text in found)
    assert scene.server.spent.queries == 0
    assert {asked.path for asked in scene.server.asked if asked.method == "POST"} <= {
        "/v1/images/missing",
        "/v1/texts/check",
    }


def test_nothing_is_written(scene):
    before = sorted(scene.folder.rglob("*"))
    scene.examine()
    assert sorted(scene.folder.rglob("*")) == before
    assert not scene.server.images
    assert not scene.server.sets


def test_what_needs_a_failed_check_is_skipped_and_the_rest_is_tried(scene):
    scene.environ["CRAFT_SERVER_URL"] = "http://127.0.0.1:1"
    states = {line.check: line.state for line in scene.examine()}
    assert states["connection"] == "fail"
    assert {states[check] for check in ("ready", "clock", "key")} == {"skip"}
    assert {states[check] for check in ("packages", "data", "plan", "run", "disk")} == {"ok"}


@pytest.mark.parametrize("text", ["shots: 8", "timeout_s = 'soon'", "shotz = 8"])
def test_a_wrong_file_does_not_hide_the_server_that_a_variable_names(scene, text):
    scene.config = scene.folder / "craft.toml"
    scene.config.write_text(text)
    states = {line.check: line.state for line in scene.examine()}
    assert {states[check] for check in ("connection", "key", "data")} == {"ok"}
    assert (states["settings"], states["plan"]) == ("fail", "skip")


@pytest.mark.parametrize("status", [404, 200, 403])
def test_a_gateway_that_hides_readiness_is_no_failure(scene, status):
    scene.server.instead["/readyz"] = Answer(status, b"<h1>no</h1>", "text/html")
    (line,) = (line for line in scene.examine() if line.check == "ready")
    assert (line.state, "what stands in between hides" in line.says) == ("skip", True)


@pytest.mark.parametrize(
    ("flags", "environ", "file", "origin"),
    [
        ({}, {}, "", "CRAFT_SERVER_URL"),
        ({"server": True}, {}, "", "--server"),
        ({}, {"CRAFT_SERVER_URL": ""}, "server = '{url}'", "the file"),
    ],
)
def test_where_the_address_was_given_is_said(scene, flags, environ, file, origin):
    url = scene.url
    scene.flags |= dict.fromkeys(flags, url)
    scene.environ |= environ
    if file:
        scene.config = scene.folder / "craft.toml"
        scene.config.write_text(file.format(url=url))
    (line,) = (line for line in scene.examine() if line.check == "address")
    assert line.found.startswith(f"the server is {url} of {origin}")


# --- TLS, and hosts that say nothing ------------------------------------------------------------


@pytest.fixture(scope="module")
def authority(tmp_path_factory):
    return make_authority(tmp_path_factory.mktemp("authority"))


@pytest.mark.parametrize("trusted", [True, False])
def test_a_certificate_that_nobody_vouches_for_is_told(scene, authority, trusted):
    if trusted:
        scene.patch.setenv("SSL_CERT_FILE", str(authority / "ca.pem"))
    with behind_tls(authority) as scene.flags["server"]:
        (line,) = (line for line in scene.examine() if line.check == "connection")
    assert line.state == ("ok" if trusted else "fail")
    assert ("shows a certificate that is not trusted" in line.says) != trusted
    assert ("with SSL_CERT_FILE" in line.says) != trusted


def test_a_server_of_tls_that_is_asked_in_the_clear_is_told(scene, authority):
    with behind_tls(authority) as url:
        scene.flags["server"] = url.replace("https:", "http:")
        (line,) = (line for line in scene.examine() if line.check == "connection")
    assert line.says.endswith(f"answers in TLS alone; give --server as {url}")


def test_a_host_that_swallows_packets_ends_in_time_with_a_line_of_progress(scene, capsys):
    scene.patch.setattr(transport, "CONNECT_TIMEOUT_S", 0.3)
    scene.patch.setattr(server, "_TICK_S", 0.05)
    scene.patch.setattr(server, "_TLS_S", 0.05)
    with full_queue() as scene.flags["server"]:
        (line,) = (line for line in scene.examine() if line.check == "connection")
        assert (line.state, "no connection within" in line.says) == ("fail", True)
        assert f"waiting for {scene.flags['server']} since" in capsys.readouterr().err


@contextlib.contextmanager
def full_queue():
    """The address of a socket whose queue is full: the system drops what comes."""
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.socket())
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for _ in range(4):
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(listener.getsockname())
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"


# --- the command --------------------------------------------------------------------------------


@pytest.fixture
def type_it(scene, capsys):
    """Run `craft-tuner doctor OPTIONS` in this process: (exit code, standard output, error)."""

    def run(*options):
        for name, value in scene.environ.items():
            scene.patch.setenv(name, value)
        scene.patch.setattr(sys, "argv", ["craft-tuner", "doctor", *map(str, options)])
        with pytest.raises(SystemExit) as exit_:
            cli.main()
        return exit_.value.code, *capsys.readouterr()

    return run


FLAGS = ("--method", "template_ensemble", "--shots", "2", "--budget", "30")


def test_the_command_takes_the_options_of_a_fit_and_ends_with_0(scene, type_it):
    code, out, error = type_it("--data", scene.data, "--run", "new", *FLAGS, "--seed", 4)
    assert code == 0, out
    assert "template_ensemble, 2 shots, seed 4" in out
    assert {line.split()[0] for line in out.splitlines()} == {"ok"}
    assert error == f"{len(out.splitlines())} findings: 0 fail, 0 warn\n"


def test_a_failure_is_exit_code_1_and_a_setting_may_be_any_flag(scene, type_it):
    flags = (*FLAGS, "--sigma", "0.5", "--key", "craft_other")
    code, out, error = type_it("--data", scene.data, *flags)
    assert (code, error.partition(": ")[2]) == (1, "1 fail, 0 warn\n")
    assert "sigma 0.5 instead of 1.0 (by flag)" in out


def test_a_flag_that_is_none_is_exit_code_2(type_it):
    code, out, error = type_it("zoo")
    assert (code, out) == (2, "")
    assert "see `craft-tuner doctor --help`" in error


def test_json_has_the_same_lines(scene, type_it):
    scene.environ["CRAFT_MODEL"] = "other"
    code, out, _ = type_it("--json", "--quick", "--data", scene.data)
    found = json.loads(out)
    assert (code, {tuple(line) for line in found}) == (1, {("check", "state", "found", "do")})
    failed = [line["check"] for line in found if line["state"] == "fail"]
    assert failed == ["model", "plan"]  # 16 shots of five


@pytest.mark.parametrize("width", [20, 60, 80])
def test_a_narrow_terminal_gets_whole_words_and_indented_lines(width):
    line = Line(
        state="fail",
        check="connection",
        found="no answer from http://127.0.0.1:8000 to GET /v1/models",
        do="check that the server runs (`craft-server serve`)",
    )
    first, *rest = line.text(width).splitlines()
    assert first.startswith("fail  no answer")
    assert all(each.startswith("      ") for each in rest)
    assert " ".join([first, *rest]).split() == ["fail", *line.says.split()]
    assert width < 60 or max(map(len, [first, *rest])) <= width


@pytest.mark.slow
def test_a_real_server_has_nothing_in_its_books_afterwards(scene, type_it):
    settings = settings_in(scene.folder / "server")
    app = create_app(settings, stub_box(settings))
    store = services_of(app).store
    with in_thread(app) as port:
        scene.environ["CRAFT_API_KEY"] = Keys(store).create("ann", 100).token
        scene.environ["CRAFT_SERVER_URL"] = f"http://127.0.0.1:{port}"
        code, out, _ = type_it("--data", scene.data, *FLAGS)
        with store.read() as connection:
            rows = {
                table.name: connection.execute(select(func.count()).select_from(table)).scalar()
                for table in (ledger, requests, images, image_sets, image_claims)
            }
    assert (code, {line.split()[0] for line in out.splitlines()}) == (0, {"ok"}), out
    assert set(rows.values()) == {0}
