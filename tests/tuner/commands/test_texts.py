"""A class name that is too long for the model is found by every command before anything leaves."""

import pytest
from PIL import Image

from craft_tuner.adapter.adapter import TENSORS_FILE, Adapter
from craft_tuner.blackbox import Texts
from craft_tuner.data.pictures import encode_png
from tests.support.tuner_server import model_card

pytestmark = pytest.mark.slow  # whole commands

LONG = "漢" * 40
"""By its bytes at least 6 tokens, by the server's count over 77."""
SAID = f"class name '{LONG}' is too long for the model"

COMMANDS = {
    "data check": (("data", "check", "zoo", "--shots", "2"), 1),
    "fit": (("fit", "--data", "zoo", "--run", "run", "--shots", "2"), 2),
    "fit by templates": (
        (
            *("fit", "--data", "zoo", "--run", "run", "--shots", "2"),
            "--method",
            "template_ensemble",
        ),
        2,
    ),
    "a dry run": (("fit", "--data", "zoo", "--shots", "2", "--dry-run"), 2),
    "evaluate": (("evaluate", "adapter", "--data", "zoo"), 2),
    "predict": (("predict", "adapter", "zoo"), 2),
}


@pytest.fixture
def zoo(tmp_path):
    """Three classes, one with a long name; and an adapter for them that never asked."""
    for number, name in enumerate(("ox", "cat", LONG)):
        for index, split in enumerate(("train", "train", "test")):
            path = tmp_path / "zoo" / split / name / f"{index}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(encode_png(Image.new("RGB", (9, 7), (number, index, 7))))
    texts = Texts(tuple(sorted(("ox", "cat", LONG))))
    (tmp_path / "adapter").mkdir()
    adapter = Adapter.identity(texts, model_card(), method="zero_shot", config={})
    (tmp_path / "adapter" / TENSORS_FILE).write_bytes(adapter.to_bytes())


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_refuses_it_before_anything_is_uploaded(zoo, tuner, server, command):
    arguments, status = COMMANDS[command]
    code, out, error = tuner(*arguments)
    assert (code, SAID in (out + error).replace("\n", " ")) == (status, True), out + error
    assert not [each for each in server.asked if "images" in each.path]
    assert server.spent.queries == 0


def test_a_bench_says_it_of_the_cell(zoo, tuner, server):
    _, out, error = tuner(
        *("bench", "--data", "zoo", "--methods", "zero_shot,craft", "--shots", "2"),
        *("--seeds", "1,2", "--out", "bench", "--dry-run"),
    )
    assert SAID in (out + error).replace("\n", " "), out + error
    assert len(server.calls("/v1/texts/check")) == 2  # text and soft, whatever the seed
    assert server.spent.queries == 0


def test_with_an_older_server_the_lower_bound_is_all_that_is_known(zoo, tuner, server):
    server.old = True
    code, out, error = tuner("data", "check", "zoo", "--shots", "2")
    assert (code, "usable" in out) == (0, True), out + error
    assert len(server.calls("/v1/texts/check")) == 1


def test_without_a_server_the_lower_bound_is_all_that_is_known(zoo, tuner, server, monkeypatch):
    monkeypatch.delenv("CRAFT_API_KEY")
    code, out, error = tuner("data", "check", "zoo", "--shots", "2")
    assert (code, server.asked) == (0, []), out + error
