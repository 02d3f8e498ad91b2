"""`craft-tuner ARGUMENTS` in the test's process, against a server on a socket; and a dataset."""

import contextlib
import io
import sys

import pytest
from PIL import Image

from craft_tuner.cli import main as cli
from craft_tuner.data.pictures import encode_png
from tests.support.tuner_server import KEY, listening


@contextlib.contextmanager
def typing_to(server):
    """The command line with the server's address and key in its environment."""
    with listening(server) as url, pytest.MonkeyPatch.context() as patch:
        patch.setenv("CRAFT_SERVER_URL", url)
        patch.setenv("CRAFT_API_KEY", KEY)

        def run(*arguments):
            patch.setattr(sys, "argv", ["craft-tuner", *map(str, arguments)])
            out, error = io.StringIO(), io.StringIO()
            with (
                contextlib.redirect_stdout(out),
                contextlib.redirect_stderr(error),
                pytest.raises(SystemExit) as exit_,
            ):
                cli.main()
            return exit_.value.code, out.getvalue(), error.getvalue()

        yield run


def build_zoo(folder):
    """Three classes, five training and two test images each, all different."""
    shade = 0
    for split, count in (("train", 5), ("test", 2)):
        for label in ("cat", "sea_lion", "ox"):
            for index in range(count):
                path = folder / split / label / f"{index}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(encode_png(Image.new("RGB", (9, 7), (shade, 2 * shade, 7))))
                shade += 1
    return folder
