"""A dataset cannot make the tuner read, or send, what is not its own or no picture."""

import io
import json
import os
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from PIL import Image

from craft_tuner.client.uploads import upload
from craft_tuner.commands import fit as commands
from craft_tuner.data.arrays import pictures_from
from craft_tuner.data.formats import KNOWN_ENDINGS
from craft_tuner.data.named import find_pictures
from craft_tuner.data.pictures import (
    BytesPicture,
    FilePicture,
    encode_png,
    recognise,
)
from craft_tuner.data.places import Places
from craft_tuner.data.sources import read_dataset
from craft_tuner.errors import DataError, PictureError
from tests.support.coop_layouts import build, paint
from tests.support.tuner_commands import build_zoo, typing_to
from tests.support.tuner_server import FakeServer, files_of, model_card, transport_to
from tests.tuner.data.test_hugging_face import a_table, hub

pytestmark = pytest.mark.slow  # whole commands

__all__ = ["hub"]  # a fixture

SECRET = b"-----BEGIN OPENSSH PRIVATE KEY-----\nb3BlbnNzaC1rZXktdjEAAAAA\n"
ROWS = "path,label\nphotos/0.png,a\nphotos/1.png,a\nphotos/2.png,b\n"


@pytest.fixture
def secret(tmp_path):
    """Beside the dataset: a text, and a picture that is nobody's business."""
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "id_rsa").write_bytes(SECRET)
    paint(tmp_path / "home" / "passport.png")
    return tmp_path / "home"


@pytest.fixture
def photos(tmp_path):
    for index in range(3):
        paint(tmp_path / "set" / "photos" / f"{index}.png")
    return tmp_path / "set"


def manifest(folder, *rows):
    (folder / "data.csv").write_text(ROWS + "".join(f"{row},b\n" for row in rows))
    return str(folder / "data.csv")


@pytest.mark.parametrize(
    "row",
    [
        "../home/id_rsa",
        "{home}/passport.png",
        "photos/../../home/passport.png",
        "/proc/version",
    ],
)
def test_a_row_that_leaves_the_manifests_folder_is_refused_by_name(photos, secret, row):
    row = row.format(home=secret)
    with pytest.raises(DataError) as caught:
        read_dataset(manifest(photos, row))
    assert f"data.csv line 5: {row}" in str(caught.value)
    assert f"outside the dataset's folder {photos}" in str(caught.value)
    where = (photos / row).resolve().parent
    assert str(caught.value).endswith(f"allow its folder by name: --allow-outside {where}")


def test_a_folder_that_is_allowed_by_name_may_hold_rows(photos, secret):
    source = manifest(photos, f"{secret}/passport.png")
    [picture] = [
        item.picture
        for item in read_dataset(source, outside=[secret]).train
        if item.picture.name.endswith("passport.png")
    ]
    recognise(picture)
    with pytest.raises(DataError, match="--allow-outside"):
        read_dataset(source, outside=[secret / "other"])


def test_a_jsonl_row_is_judged_as_a_csv_row_is(photos, secret):
    rows = [{"path": "photos/0.png", "label": "a"}, {"path": "../home/id_rsa", "label": "b"}]
    (photos / "data.jsonl").write_text("\n".join(map(json.dumps, rows)))
    with pytest.raises(DataError, match=r"line 2: \.\./home/id_rsa is .*outside the dataset"):
        read_dataset(str(photos / "data.jsonl"))


@pytest.mark.parametrize(
    ("link", "target"),
    [
        ("train/cat/9.png", "home/passport.png"),
        ("train/cat/9.png", "home/id_rsa"),
        ("test/dog", "home"),
        ("test", "home"),
    ],
)
def test_a_link_out_of_class_folders_is_refused_by_name(tmp_path, secret, link, target):
    zoo = build_zoo(tmp_path / "zoo")
    path = zoo / link
    if path.is_dir():
        path.rename(tmp_path / "away")
    path.symlink_to(tmp_path / target)
    with pytest.raises(DataError) as caught:
        read_dataset(str(zoo))
    assert f"{link} is {tmp_path / target}, outside the dataset's folder {zoo}" in str(caught.value)


def test_links_within_a_dataset_and_to_it_are_followed(tmp_path):
    zoo = build_zoo(tmp_path / "zoo")
    (zoo / "train/cat/9.png").symlink_to("../../train/cat/0.png")
    (tmp_path / "link").symlink_to(zoo)
    dataset = read_dataset(str(tmp_path / "link"))
    assert len(dataset.train) == 16
    for item in dataset.train:
        recognise(item.picture)


@pytest.mark.parametrize("name", ["dtd", "fgvc_aircraft", "imagenet", "imagenetv2", "imagenet_r"])
def test_a_link_out_of_a_benchmark_is_refused(tmp_path, secret, name):
    root = build(tmp_path / "root", name)
    picture = min(path for path in root.rglob("*") if path.suffix.lower() in KNOWN_ENDINGS)
    picture.unlink()
    picture.symlink_to(secret / "passport.png")
    with pytest.raises(DataError, match=r"passport\.png, outside the dataset's folder"):
        read_dataset(f"coop:{name}@{root}")
    assert read_dataset(f"coop:{name}@{root}", outside=[secret])


@pytest.mark.parametrize("name", ["dtd", "fgvc_aircraft", "imagenet"])
def test_an_index_that_is_a_link_gives_no_class_names(tmp_path, secret, name):
    """What an index says is sent as class names."""
    root = build(tmp_path / "root", name)
    index = min(path for path in root.rglob("*") if path.suffix in (".json", ".txt"))
    index.rename(secret / "index")
    index.symlink_to(secret / "index")
    with pytest.raises(DataError, match=r"home/index, outside the dataset's folder"):
        read_dataset(f"coop:{name}@{root}")


@pytest.mark.parametrize("path", ["/etc/passwd", "{home}/passport.png", "passport.png", "../x.png"])
def test_a_row_of_the_hub_that_names_a_local_path_is_not_read(hub, secret, monkeypatch, path):
    monkeypatch.chdir(secret)
    cells = [{"bytes": None, "path": path.format(home=secret)}] * 3
    hub["me/zoo"] = {"train": a_table([0, 1, 2], cells)}
    picture = read_dataset("hf:me/zoo").train[0].picture
    with pytest.raises(PictureError, match=r"^train/0000000 is /.*outside the dataset's folder"):
        picture.read()
    with pytest.raises(PictureError, match="--allow-outside"):
        recognise(picture)


def test_rows_of_the_hub_may_name_what_was_downloaded_of_them(hub, tmp_path, monkeypatch):
    package = sys.modules["datasets"]
    home = tmp_path / "cache"
    package.config = SimpleNamespace(
        HF_CACHE_HOME=str(home), DOWNLOADED_DATASETS_PATH=str(home / "datasets/downloads")
    )
    monkeypatch.delenv("HF_HUB_CACHE", raising=False)
    files = [
        home / "hub/datasets--me--zoo/snapshots/1/a.png",
        home / "datasets/downloads/extracted/2/b.png",
        home / "hub/datasets--you--private/snapshots/1/c.png",
    ]
    cells = [{"bytes": None, "path": str(paint(file))} for file in files]
    (home / "token").write_text("hf_secret")
    hub["me/zoo"] = {"train": a_table([0, 1, 2], cells)}
    mine, packed, other = (item.picture for item in read_dataset("hf:me/zoo").train)
    recognise(mine)
    recognise(packed)
    with pytest.raises(PictureError, match="outside the dataset's folder"):
        recognise(other)


# --- what is opened ------------------------------------------------------------------------------


def test_a_file_that_is_swapped_for_a_link_after_it_was_listed_is_not_followed(tmp_path, secret):
    zoo = build_zoo(tmp_path / "zoo")
    picture = read_dataset(str(zoo)).train[0].picture
    picture.path.unlink()
    picture.path.symlink_to(secret / "passport.png")
    with pytest.raises(PictureError, match="outside the dataset's folder"):
        picture.read()


def test_a_folder_swapped_between_the_look_and_the_opening_is_not_followed(
    tmp_path, secret, monkeypatch
):
    """The path is judged, then its folder becomes a link: the opening must not go through it."""
    zoo = build_zoo(tmp_path / "zoo")
    picture = read_dataset(str(zoo)).train[0].picture
    paint(secret / picture.path.name)
    real, folder = os.path.realpath, picture.path.parent

    def swapped(path):
        judged = real(path)
        if not folder.is_symlink():
            folder.rename(tmp_path / "away")
            folder.symlink_to(secret)
        return judged

    monkeypatch.setattr(os.path, "realpath", swapped)
    with pytest.raises(PictureError, match="cannot read the image"):
        picture.read()


@pytest.mark.parametrize("places", [True, False])
def test_a_pipe_is_refused_without_waiting_for_its_writer(tmp_path, places):
    os.mkfifo(tmp_path / "a.png")
    picture = FilePicture(tmp_path / "a.png", "a", Places.of(tmp_path) if places else None)
    started = time.monotonic()
    with pytest.raises(PictureError, match=r"is no regular file \(a folder, pipe or device\)"):
        picture.read()
    assert time.monotonic() - started < 5


@pytest.mark.parametrize("path", ["/dev/zero", "/dev/null", "/proc/version", "/"])
def test_devices_and_files_of_the_kernel_are_no_pictures(path):
    [picture] = pictures_from([path])
    with pytest.raises(PictureError, match=r"no regular file|is empty"):
        picture.read()


def test_a_file_without_end_does_not_fill_the_memory(tmp_path):
    with (tmp_path / "a.png").open("wb") as file:
        file.truncate(2**40)
    with pytest.raises(PictureError, match="has more than 268,435,456 bytes"):
        FilePicture(tmp_path / "a.png", "a").read()


def test_a_folder_to_classify_keeps_its_links_inside(tmp_path, secret):
    paint(tmp_path / "in" / "a.png")
    (tmp_path / "in" / "b.png").symlink_to(secret / "passport.png")
    (tmp_path / "in" / "c").symlink_to(secret)
    found = find_pictures([tmp_path / "in"], io.BytesIO())
    assert [picture.path.name for picture in found.pictures] == ["a.png"]
    assert [fault.kind for fault in found.faults] == ["file outside the dataset"] * 2
    allowed = find_pictures([tmp_path / "in"], io.BytesIO(), outside=[secret])
    assert len(allowed.pictures) == 3


# --- nothing leaves ------------------------------------------------------------------------------


def whole(kind):
    buffer = io.BytesIO()
    Image.effect_noise((64, 64), 90).convert("RGB").save(buffer, kind)
    return buffer.getvalue()


@pytest.mark.parametrize(
    "data",
    [
        SECRET,
        whole("BMP")[:-500],
        whole("TIFF")[:-500],
        whole("GIF")[:-500],
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n",
        whole("PNG")[:60],
        whole("PNG")[:-500],
        whole("JPEG")[:-500],
        whole("WEBP")[:-500],
    ],
    ids=[
        "text",
        "cut bmp",
        "cut tiff",
        "cut gif",
        "eps",
        "head alone",
        "cut png",
        "cut jpeg",
        "cut webp",
    ],
)
def test_what_is_no_whole_picture_never_leaves(data):
    server = FakeServer()
    limits = server.cards[0].limits
    good = BytesPicture(encode_png(Image.new("RGB", (5, 5))), "good.png")
    with (
        transport_to(server) as transport,
        pytest.raises(PictureError, match=r"cannot decode the image bad\.png"),
    ):
        upload(transport, [good, BytesPicture(data, "bad.png")], limits=limits, set_size=9, name="")
    assert not server.calls("/v1/images")
    assert not any(data[:50] in asked.body for asked in server.asked)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_whole_pictures_of_the_servers_formats_leave(kind):
    server = FakeServer()
    with transport_to(server) as transport:
        pictures = [BytesPicture(whole(kind), "a")]
        upload(transport, pictures, limits=server.cards[0].limits, set_size=9, name="")
    assert files_of(server.calls("/v1/images")[0]) == [pictures[0].data]


def test_a_picture_of_more_pixels_than_the_server_takes_is_refused_before_it_is_decoded():
    server = FakeServer(cards=[model_card(image_pixels=100)])
    pictures = [BytesPicture(whole("PNG"), "a")]
    with (
        transport_to(server) as transport,
        pytest.raises(PictureError, match="has 64 x 64 pixels, the server takes 100"),
    ):
        upload(transport, pictures, limits=server.cards[0].limits, set_size=9, name="")
    assert not server.asked


@pytest.fixture
def tuner(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(commands, "write_report", lambda run: run.path / "report.html")
    server = FakeServer()
    with typing_to(server) as run:
        yield server, run


FIT = (
    "--shots",
    "1",
    "--population",
    "4",
    "--views",
    "1",
    "--intrinsic-dim",
    "8",
    "--budget",
    "60",
)


@pytest.mark.parametrize("where", ["test/ox/1.png", "train/ox/0.png", "train/ox/4.png"])
def test_of_a_fit_with_a_text_called_png_nothing_leaves(tuner, tmp_path, where):
    """Test images go first, so a bad shot must be found before any of them."""
    server, run = tuner
    zoo = build_zoo(tmp_path / "zoo")
    for path in (zoo / where).parent.glob("*.png") if "train" in where else [zoo / where]:
        path.write_bytes(SECRET)
    code, _, error = run("fit", "--data", "zoo", "--run", "run", *FIT)
    assert code == 2
    assert "cannot decode the image" in error
    posted = {asked.path for asked in server.asked if asked.method == "POST"}
    assert posted == {"/v1/texts/check"}  # words; no picture, and no digest of one


@pytest.mark.parametrize("where", ["test/ox/1.png", "train/ox/0.png"])
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "TIFF", "BMP", "GIF"])
def test_of_a_fit_with_a_truncated_picture_nothing_is_uploaded(tuner, tmp_path, where, kind):
    server, run = tuner
    zoo = build_zoo(tmp_path / "zoo")
    damaged = whole(kind)[:-500]
    for path in (zoo / where).parent.glob("*.png") if "train" in where else [zoo / where]:
        path.write_bytes(damaged)
    code, _, error = run("fit", "--data", "zoo", "--run", "run", *FIT)
    assert code == 2
    assert f"cannot decode the image {where.split('/')[0]}/ox/" in error
    assert not server.calls("/v1/images")


def test_a_fit_says_what_it_leaves_out_and_what_it_converts(tuner, tmp_path):
    _, run = tuner
    ox = build_zoo(tmp_path / "zoo") / "train" / "ox"
    (ox / "notes.txt").write_text("ox")
    paint(ox / ".cache" / "0.png")
    for path in sorted(ox.glob("*.png")):
        Image.open(path).save(path, "TIFF")
    code, _, error = run("fit", "--data", "zoo", "--run", "run", *FIT)
    assert code == 0
    assert f"hidden, passed over (1): '{ox / '.cache'}'" in error
    assert f"no picture, passed over (1): '{ox / 'notes.txt'}'" in error
    assert "converted to PNG before the upload: 1 TIFF ('train/ox/" in error


@pytest.mark.parametrize("command", ["fit", "evaluate", "predict", "data check"])
def test_every_command_takes_the_option_and_refuses_without_it(tuner, tmp_path, secret, command):
    server, run = tuner
    zoo = build_zoo(tmp_path / "zoo")
    (zoo / "test/ox/9.png").symlink_to(secret / "passport.png")
    allowed = ("--allow-outside", secret)
    if command == "data check":
        code, out, _ = run("data", "check", "zoo")
        assert (code, "file outside the dataset (1): zoo/test/ox/9.png" in out) == (1, True)
        assert run("data", "check", "zoo", "--shots", 1, *allowed)[0] == 0
        return
    code, _, error = run("fit", "--data", "zoo", "--run", "run", *FIT)
    assert (code, "--allow-outside" in error) == (2, True)
    assert server.images == {}
    code, _, error = run("fit", "--data", "zoo", "--run", "run", *FIT, *allowed)
    assert code == 0, error
    if command == "evaluate":
        assert run("evaluate", "run", "--data", "zoo")[0] == 2
        assert run("evaluate", "run", "--data", "zoo", *allowed)[0] == 0
    if command == "predict":
        code, out, error = run("predict", "run", "zoo/test")
        assert (code, len(out.splitlines()), "left out: " in error) == (2, 6, True)
        code, out, error = run("predict", "run", "zoo/test", *allowed)
        assert (code, len(out.splitlines())) == (0, 7), error


def test_a_run_that_goes_on_keeps_what_was_allowed_and_an_old_one_can_be_allowed_it(
    tuner, tmp_path, secret, monkeypatch
):
    _, run = tuner
    zoo = build_zoo(tmp_path / "zoo")
    (zoo / "test/ox/9.png").symlink_to(secret / "passport.png")
    monkeypatch.setenv("CRAFT_ALLOW_OUTSIDE", f"{tmp_path}/nowhere{os.pathsep}home")
    assert run("fit", "--data", "zoo", "--run", "run", *FIT)[0] == 0
    monkeypatch.delenv("CRAFT_ALLOW_OUTSIDE")
    result = Path("run/result.json")
    result.unlink()
    assert run("fit", "--resume", "run")[0] == 0
    result.unlink()
    config = json.loads(Path("run/config.json").read_text())
    assert config["setup"].pop("allow_outside") == [f"{tmp_path}/nowhere", str(secret)]
    Path("run/config.json").write_text(json.dumps(config))
    code, _, error = run("fit", "--resume", "run")
    assert (code, "--allow-outside" in error) == (2, True)
    assert run("fit", "--resume", "run", "--allow-outside", "home")[0] == 0
