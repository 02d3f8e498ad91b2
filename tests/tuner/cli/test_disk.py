"""Places that cannot be read or written: a sentence that names them, the exit code of its kind."""

import errno
import os
from pathlib import Path

import pytest

from craft_tuner.errors import RunError, UsageError, disk_errors_as
from tests.support.tuner_commands import build_zoo

pytestmark = pytest.mark.slow

FIT = ("--shots", "2", "--method", "template_ensemble", "--budget", "30")
LONG = "x" * 300


@pytest.fixture
def tuner(tuner):
    """Run `craft-tuner ARGUMENTS` in this process, in a folder with a file called `file`."""
    Path("file").write_text("")
    return tuner


@pytest.fixture
def zoo(tmp_path):
    return build_zoo(tmp_path / "zoo")


def sentence(error):
    """The last line, which is the refusal."""
    last = error.splitlines()[-1]
    assert last.startswith("craft-tuner: ")
    assert "Errno" not in error
    return last


# --- runs ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("where", "words"),
    [
        ("file", "Not a directory (file); a file stands where"),
        ("file/run", "a file stands where a folder is needed"),
        ("/dev/null/run", "a file stands where a folder is needed"),
        ("/proc/run", "No such file or directory"),
        (LONG, "File name too long"),
        ("zoo", "zoo holds other files"),
    ],
)
def test_a_run_in_no_place_for_one_is_refused_and_spends_nothing(tuner, zoo, server, where, words):
    code, out, error = tuner("fit", "--data", zoo, "--run", where, *FIT)
    assert (code, out) == (7, "")
    assert words in sentence(error)
    assert server.spent.queries == 0


@pytest.mark.parametrize("where", ["file", "file/run", "/dev/null/run", "nowhere", LONG])
@pytest.mark.parametrize("command", [("fit", "--resume"), ("report",), ("export", "--out", "o")])
def test_what_is_no_run_is_not_gone_on_with(tuner, where, command):
    code, _, error = tuner(*command, where)
    assert code == 7
    assert where[:60] in sentence(error)


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (errno.ENOSPC, "No space left on device; make room"),
        (errno.EDQUOT, "Disk quota exceeded; make room"),
        (errno.EROFS, "Read-only file system; choose a place that can be written"),
        (errno.EACCES, "Permission denied; choose a place that this user may use"),
        (errno.EIO, "Input/output error"),
    ],
)
@pytest.mark.parametrize("writes", [0, 4])
def test_a_disk_that_fails_ends_a_run_in_a_sentence(tuner, zoo, monkeypatch, number, words, writes):
    fsync, done = os.fsync, []

    def failing(descriptor):
        done.append(descriptor)
        if len(done) > writes:
            raise OSError(number, os.strerror(number))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", failing)
    code, _, error = tuner("fit", "--data", zoo, "--run", "run", *FIT)
    assert code == 7
    assert words in sentence(error)
    monkeypatch.undo()


def test_a_run_goes_on_once_its_disk_has_room(tuner, zoo, server, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr("craft_tuner.files.append", lambda *_: full())
        code, _, error = tuner("fit", "--data", zoo, "--run", "run", *FIT)
    assert (code, "go on with: craft-tuner fit --resume run" in error) == (7, True)
    spent = server.spent
    assert tuner("fit", "--resume", "run")[0] == 0
    assert server.spent.queries >= spent.queries


def full():
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


# --- data ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("", "the dataset is ''"),
        ("  ", "the dataset is '  '"),
        ("nowhere", "there is no dataset at"),
        ("file", "lists no images"),
        ("file/train", "there is no dataset"),
        ("/dev/null", "there is no dataset"),
        (LONG, "File name too long"),
        ("coop:dtd@file", "file/dtd/images"),
        ("coop:@", "no dataset is called"),
        ("empty", "no class folders"),
    ],
)
@pytest.mark.parametrize("command", [("data", "check"), ("fit", "--data")])
def test_what_is_no_dataset_is_refused(tuner, source, words, command):
    Path("empty").mkdir()
    code, _, error = tuner(*command, source)
    assert code == (1 if command[0] == "data" else 2)
    assert words in sentence(error)


def test_a_folder_that_may_not_be_listed_is_named(tuner, zoo, monkeypatch):
    def denied(path):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))

    monkeypatch.setattr("craft_tuner.data.folders.class_folders", denied)
    code, _, error = tuner("data", "check", zoo)
    assert code == 1
    assert "Permission denied" in sentence(error)
    assert str(zoo) in sentence(error)


@pytest.mark.parametrize("path", ["nowhere", ".", "file/names", LONG])
def test_class_names_that_cannot_be_read_are_named(tuner, zoo, path):
    code, _, error = tuner("data", "check", zoo, "--class-names", path)
    assert code == 1
    assert "cannot read" in sentence(error)


# --- what commands write ------------------------------------------------------------------------


@pytest.fixture
def run(tuner, zoo):
    assert tuner("fit", "--data", zoo, "--run", "run", *FIT)[0] == 0
    return "run"


def test_output_in_no_place_for_it_is_refused(tuner, run, zoo, server):
    picture = zoo / "test" / "cat" / "0.png"
    spent = server.spent
    for command in (("report", run), ("export", run), ("predict", run, picture)):
        for out in ("file/out", "/dev/null/out", "/proc/out", LONG):
            code, _, error = tuner(*command, "--out", out)
            assert code == 2, (command, out, error)
            assert out[:60] in sentence(error)
    code, _, error = tuner("export", run, "--out", "file")
    assert (code, "cannot write to file" in sentence(error)) == (2, True)
    assert server.spent == spent


@pytest.mark.parametrize("out", ["file", "file/out", "/proc/out", LONG])
@pytest.mark.parametrize("command", [("bench", "--data", "digits", "--start-server"), ("demo",)])
def test_no_server_is_started_where_it_has_no_place(tuner, command, out):
    code, _, error = tuner(*command, "--out", out)
    assert code in {1, 2}
    assert out[:60] in sentence(error)


# --- the sentence -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (OSError(errno.ENOSPC, "No space"), "it failed: No space; make room"),
        (OSError(errno.EIO, "Bad", "a.bin"), "it failed: Bad (a.bin)"),
        (PermissionError(), "it failed: PermissionError"),
        (OSError("words alone"), "it failed: words alone"),
    ],
)
@pytest.mark.parametrize("kind", [RunError, UsageError])
def test_what_the_system_refuses_is_said_in_words(error, words, kind):
    with pytest.raises(kind) as refusal, disk_errors_as(kind, "it failed"):
        raise error
    assert str(refusal.value) == words
