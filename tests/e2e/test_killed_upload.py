"""A tuner killed in the middle of its uploads goes on where it was: both programs, a slow line."""

import signal
import subprocess

import pytest

from tests.support.serving import SCRIPTS, png, running
from tests.support.slow_line import SlowLine

pytestmark = pytest.mark.long

FLAGS = {"population": 4, "validation_folds": 2, "views": 1, "head_hidden": 8, "shots": 2}


@pytest.fixture
def photos(tmp_path):
    """Two classes: 2 shots and 25 test images each, of 12 kB: more than two pieces."""
    for split, count in (("train", 2), ("test", 25)):
        for label, name in enumerate(("cat", "dog")):
            folder = tmp_path / "photos" / split / name
            folder.mkdir(parents=True)
            for number in range(count):
                seed = 1000 * label + number + (100 if split == "test" else 0)
                (folder / f"{number}.png").write_bytes(png(seed, (64, 64)))
    return tmp_path / "photos"


def start(server, key, line, *arguments):
    environment = server.env | {"CRAFT_SERVER_URL": line.url, "CRAFT_API_KEY": key}
    return subprocess.Popen(
        [SCRIPTS / "craft-tuner", "fit", *map(str, arguments)],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def test_what_arrived_before_a_kill_is_not_sent_again(photos, tmp_path):
    flags = [f"--set={name}={value}" for name, value in FLAGS.items()]
    run = tmp_path / "run"
    with running(tmp_path) as server:
        key = server.mint(100)
        with SlowLine(server.url, bytes_per_s=250_000) as line:
            fit = start(server, key, line, "--data", photos, "--run", run, "--budget", 30, *flags)
            assert line.answered.wait(60), fit.communicate()[0]
            fit.send_signal(signal.SIGKILL)
            fit.communicate()
        before = [each for one in line.uploads if one.status == 200 for each in one.ids]
        with SlowLine(server.url) as line:
            fit = start(server, key, line, "--resume", run)
            output, _ = fit.communicate(timeout=120)
            assert fit.returncode == 0, output
        after = [each for one in line.uploads for each in one.ids]
    assert 0 < len(before) < 50
    assert len(after) == len(set(after))
    assert not set(before) & set(after)
