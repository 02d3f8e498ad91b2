"""`craft-tuner predict`: priced first, written batch by batch, damage named, nothing paid twice."""

import csv
import io
import json
import sys
from pathlib import Path

import pytest
from PIL import Image

from craft_shared.errors import Code
from craft_shared.messages import Output
from craft_tuner.adapter.adapter import Adapter
from craft_tuner.client.client import Client
from craft_tuner.commands import predict as classify
from craft_tuner.commands.predict import price_sentence
from craft_tuner.data.pictures import FilePicture
from craft_tuner.errors import BudgetExhausted, PictureError
from craft_tuner.inference.predict import ask, batches, price
from tests.support.tuner_adapters import ZOO, an_adapter, photos, saved
from tests.support.tuner_commands import typing_to
from tests.support.tuner_fakes import some_budgets
from tests.support.tuner_server import limits, model_card, refuses, transport_to

pytestmark = pytest.mark.slow  # whole commands

SEVEN = tuple(f"{number}.png" for number in range(7))


@pytest.fixture
def tuner(server, monkeypatch, tmp_path):
    """Run `craft-tuner ARGUMENTS` in a folder with an adapter and seven photos."""
    monkeypatch.chdir(tmp_path)
    saved(an_adapter(), tmp_path / "run")
    photos(tmp_path / "photos", *SEVEN)
    with typing_to(server) as run:
        yield run


def rows_of(text):
    return [json.loads(line) for line in text.splitlines()]


def names_of(text):
    return [row["name"] for row in rows_of(text)]


def test_it_says_its_price_and_writes_one_line_per_image(tuner, server):
    code, out, error = tuner("predict", "run", "photos/0.png", "photos", "photos/0.png")
    rows = rows_of(out)
    assert code == 0, error
    assert "7 images in 1 image set(s) cost 1 queries, 7 logit vectors, 3 texts, 21 logits" in error
    assert "nothing if asked before" in error
    assert "to send: about " in error
    assert "the key has 10,000 queries left" in error
    assert server.spent.queries == 1
    assert [row["name"] for row in rows] == [f"photos/{name}" for name in SEVEN]
    assert {row["label"] for row in rows} <= set(ZOO)
    assert all(1 / 3 <= row["probability"] <= 1 for row in rows)


def test_what_it_says_is_what_the_adapter_says(tuner, server, tmp_path):
    _, out, _ = tuner("predict", "run", "photos", "--top", "9")
    adapter = Adapter.load(tmp_path / "run")
    with transport_to(server) as transport:
        client = Client(transport, server.cards[0], run_id="another")
        pictures = [FilePicture(tmp_path / "photos" / name, name) for name in SEVEN]
        logits = ask(client, adapter, tuple(pictures)).logits
    for row, scores in zip(rows_of(out), logits, strict=True):
        assert row["top"][0] == {"label": row["label"], "probability": row["probability"]}
        assert [each["label"] for each in row["top"]] == [ZOO[k] for k in (-scores).argsort()]
        assert sum(each["probability"] for each in row["top"]) == pytest.approx(1, abs=1e-6)


def test_each_batch_costs_a_query_for_each_prompt(tuner, server, tmp_path):
    saved(an_adapter(prompts=3), tmp_path / "run")
    code, out, error = tuner("predict", "run", "photos", "--batch", "3")
    assert code == 0, error
    assert "7 images in 3 image set(s) cost 9 queries, 21 logit vectors, 27 texts" in error
    assert (server.spent.queries, server.spent.logit_vectors) == (9, 21)
    assert len(rows_of(out)) == 7


def test_asked_again_it_costs_nothing_and_says_the_same(tuner, server):
    first = tuner("predict", "run", "photos", "--batch", "3")[1]
    spent = server.spent
    assert tuner("predict", "run", "photos", "--batch", "3")[1] == first
    assert server.spent == spent


@pytest.mark.parametrize("command", ["predict", "evaluate"])
def test_what_is_passed_over_or_converted_is_named_and_counted(tuner, server, tmp_path, command):
    files = [tmp_path / "zoo" / label / name for label in ZOO for name in ("a.png", "b.bmp")]
    for shade, file in enumerate(files):
        file.parent.mkdir(parents=True, exist_ok=True)
        kind = file.suffix[1:].upper()
        Image.new("RGB", (9, 7), (shade, 9, 9)).save(file, kind)
    (tmp_path / "zoo" / ZOO[0] / ".hidden.png").touch()
    (tmp_path / "zoo" / ZOO[1] / "notes.txt").write_text("notes")
    (tmp_path / "zoo" / ZOO[2] / "gone.png").symlink_to("nowhere")
    where = ("zoo",) if command == "predict" else ("--data", "zoo", "--json")
    code, out, error = tuner(command, "run", *where)
    assert code == 0, error
    said = [line.removeprefix("remark: ") for line in error.splitlines() if "remark: " in line]
    kinds = ("hidden, passed over (1)", "no picture, passed over (1)", "link to nothing, passed")
    assert {each for each in kinds for line in said if line.startswith(each)} == set(kinds)
    assert any(line.startswith("converted to PNG before the upload: 3 BMP (") for line in said)
    assert error.index("remark: ") < error.index("cost ")
    if command == "evaluate":
        assert json.loads(out)["remarks"] == said
    else:
        assert len(rows_of(out)) == len(files)


@pytest.mark.parametrize(
    ("training", "said"),
    [
        ({"generations": 3, "generations_planned": 195, "stopped": "not finished"}, "3 of 195"),
        ({"stopped": "not finished"}, "None of None"),
        ({"generations": 195, "generations_planned": 195, "stopped": "done"}, None),
    ],
)
def test_an_adapter_of_an_unfinished_fit_answers_and_is_said_to_be_one(
    tuner, tmp_path, training, said
):
    made = an_adapter()
    card = made.card.model_copy(update={"training": training})
    saved(Adapter(card, made.offsets, made.head), tmp_path / "run")
    code, out, error = tuner("predict", "run", "photos")
    assert (code, len(rows_of(out))) == (0, 7)
    words = f"remark: the adapter is of generation {said}: its fit was not finished"
    assert (words in error) == bool(said)
    assert ("not finished" in error) == bool(said)


def test_csv_has_columns_for_the_classes_asked_for(tuner, tmp_path):
    code, out, _ = tuner(
        *("predict", "run", "photos", "--format", "csv", "--out", "labels.csv", "--top", "2")
    )
    [head, *rows] = list(csv.reader(io.StringIO((tmp_path / "labels.csv").read_text())))
    assert (code, out) == (0, "")
    assert head == ["name", "label", "probability", "label_2", "probability_2"]
    assert len(rows) == 7
    assert all(float(row[2]) >= float(row[4]) and row[1] != row[3] for row in rows)


def test_standard_input_names_files_and_folders(tuner, tmp_path, monkeypatch):
    names = ("Übung/süß ï.png", "Übung/한국어.png")
    photos(tmp_path, *names)
    listed = "photos/3.png\r\n\nÜbung\nnone.png\n".encode()
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(listed)))
    code, out, error = tuner("predict", "run", "-", "photos/1.png")
    assert code == 2
    assert names_of(out) == ["photos/3.png", *names, "photos/1.png"]
    assert "left out: there is no image or folder at none.png" in error
    assert "1 of 5 could not be used, see above; the others are done" in error


def test_a_name_that_is_no_text_is_shown_by_its_bytes(tuner, tmp_path):
    try:
        (tmp_path / "caf\udce9.png").write_bytes((tmp_path / "photos" / "0.png").read_bytes())
    except OSError:
        pytest.skip("this file system has names of text alone")
    assert names_of(tuner("predict", "run", tmp_path / "caf\udce9.png")[1]) == [
        f"{tmp_path}/caf\\xe9.png"
    ]


def test_one_image_is_enough(tuner, server):
    code, out, error = tuner("predict", "run", "photos/4.png")
    assert (code, names_of(out)) == (0, ["photos/4.png"])
    assert "1 images in 1 image set(s) cost 1 queries" in error


# --- what cannot be used ------------------------------------------------------------------------


def test_damaged_images_are_named_and_counted_and_the_rest_goes_on(tuner, server, tmp_path):
    folder = tmp_path / "photos"
    (folder / "1.png").write_bytes(b"not an image")
    (folder / "2.png").write_bytes(b"")
    whole = (folder / "5.png").read_bytes()
    (folder / "5.png").write_bytes(whole[: len(whole) // 2])
    (folder / "scan.tiff").write_bytes(b"II")
    server.bad_image = b"not an image"
    code, out, error = tuner("predict", "run", "photos")
    assert code == 2
    assert names_of(out) == [f"photos/{number}.png" for number in (0, 3, 4, 6)]
    for name in ("1.png", "2.png", "5.png", "scan.tiff"):
        assert sum(f"photos/{name}" in line for line in error.splitlines()) == 1, error
    assert "4 of 8 could not be used, see above; the others are done" in error
    assert server.spent.queries == 1


def test_a_batch_of_damaged_images_alone_costs_nothing(tuner, server, tmp_path):
    for name in ("0.png", "1.png"):
        (tmp_path / "photos" / name).write_bytes(b"not an image")
    server.bad_image = b"not an image"
    code, out, _ = tuner("predict", "run", "photos", "--batch", "2")
    assert (code, len(rows_of(out)), server.spent.queries) == (2, 5, 3)


def test_images_that_only_the_server_refuses_are_left_out_too(server, tmp_path):
    server.bad_image = photos(tmp_path, *SEVEN)[3].read_bytes()
    (tmp_path / "5.png").write_bytes(server.bad_image)
    pictures = tuple(FilePicture(tmp_path / name, name) for name in SEVEN)
    reported = []
    with transport_to(server) as transport:
        client = Client(transport, server.cards[0], run_id="r")
        answer = ask(client, an_adapter(), pictures, on_uploaded=reported.append)
    assert sorted(error.picture for error in answer.refused) == ["3.png", "5.png"]
    assert isinstance(answer.refused[0], PictureError)
    assert [picture.name for picture in answer.pictures] == [*SEVEN[:3], "4.png", "6.png"]
    assert answer.logits.shape == (5, 3)
    assert sum(reported) <= 7


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("nothing.png",), "no image or folder at nothing.png"),
        (("empty",), "empty has no images"),
        (("-",), "no image is named"),
        (("photos", "--out", "missing/labels.csv"), "cannot write missing/labels.csv"),
        (("photos", "--resume"), "--resume goes on with the file of --out"),
        (("photos", "--batch", "2001"), "a batch of 2,001 images; allowed for 3 classes"),
        (("photos", "--top", "0"), "should be greater than or equal to 1"),
    ],
)
def test_what_it_cannot_do_it_says_before_it_pays(tuner, server, tmp_path, arguments, words):
    (tmp_path / "empty").mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"\n")))
        code, out, error = tuner("predict", "run", *arguments)
    assert (code, out) == (2, "")
    assert words in error
    assert server.spent.queries == 0


def test_an_adapter_for_another_model_is_its_own_code(tuner, server):
    server.cards = [model_card("fake::2")]
    code, _, error = tuner("predict", "run", "photos")
    assert code == 6
    assert "was made for fake::1" in error
    assert not server.calls("/v1/images")


# --- budgets and interruptions ------------------------------------------------------------------


def test_what_the_key_cannot_pay_is_refused_before_anything_is_sent(tuner, server, tmp_path):
    (tmp_path / "labels.jsonl").write_text("kept\n")
    server.queries = 2
    code, out, error = tuner("predict", "run", "photos", "--batch", "3", "--out", "labels.jsonl")
    assert (code, out) == (5, "")
    assert "7 images cost 3 queries and the key has 2 left; nothing is spent" in error
    assert (server.spent.queries, server.calls("/v1/images")) == (0, [])
    assert (tmp_path / "labels.jsonl").read_text() == "kept\n"


@pytest.mark.parametrize(
    ("counter", "cost"), [("vectors", 7), ("texts", 3), ("logits", 21), ("logits of labels", 7)]
)
def test_every_limit_of_the_key_is_checked(counter, cost):
    pictures = [FilePicture(Path(name), name) for name in SEVEN]
    output = Output(kind="label" if "labels" in counter else "logits")
    asked = price(batches(pictures, an_adapter(), limits()), an_adapter(), output)
    counter = counter.partition(" ")[0]
    enough, short = (some_budgets(1, **{counter: left}) for left in (cost, cost - 1))
    asked.check(enough)
    assert f"1 queries, {cost}" in price_sentence(asked, enough).split("the key has ")[1]
    with pytest.raises(BudgetExhausted, match=f"cost {cost} .*{counter} .* has {cost - 1} left"):
        asked.check(short)


def test_anyway_buys_what_can_be_paid_and_resume_the_rest(tuner, server, tmp_path):
    server.queries = 2
    arguments = ("predict", "run", "photos", "--batch", "3", "--out", "labels.jsonl")
    code, _, error = tuner(*arguments, "--anyway")
    file = tmp_path / "labels.jsonl"
    assert code == 5
    assert "the budget is used up; what was answered is kept" in error
    assert len(names_of(file.read_text())) == 6
    server.queries = 3
    code, _, error = tuner(*arguments, "--resume")
    assert code == 0, error
    assert "1 images in 1 image set(s) cost 1 queries" in error
    assert names_of(file.read_text()) == [f"photos/{name}" for name in SEVEN]
    assert server.spent.queries == 3
    assert tuner(*arguments, "--resume")[0] == 0
    assert server.spent.queries == 3


@pytest.mark.parametrize("form", ["jsonl", "csv"])
def test_a_file_that_was_cut_short_is_completed_for_nothing(tuner, server, tmp_path, form):
    arguments = ("predict", "run", "photos", "--batch", "4", "--format", form, "--out", "labels")
    tuner(*arguments, "--top", "2")
    file = tmp_path / "labels"
    whole, spent = file.read_bytes(), server.spent
    for length in (len(whole) - 5, len(whole) // 2, 9, 0):
        file.write_bytes(whole[:length])
        assert tuner(*arguments, "--top", "2", "--resume")[0] == 0
        assert file.read_bytes() == whole
    assert server.spent == spent
    code, _, error = tuner(*arguments, "--top", "3", "--resume")
    assert code == 2
    assert "resume with the options it was begun with" in error


def test_a_file_of_something_else_is_not_resumed(tuner, tmp_path):
    (tmp_path / "labels").write_text("[1]\n")
    code, _, error = tuner("predict", "run", "photos", "--out", "labels", "--resume")
    assert (code, "has lines that are not what" in error) == (2, True)
    code, _, error = tuner("predict", "run", "photos", "--out", "photos", "--resume")
    assert (code, "cannot read photos" in error) == (2, True)


def test_ctrl_c_keeps_what_was_answered(tuner, server, tmp_path, monkeypatch):
    honest, asked = classify.ask, []

    def second_time(*arguments, **options):
        asked.append(arguments)
        if len(asked) == 2:
            raise KeyboardInterrupt
        return honest(*arguments, **options)

    monkeypatch.setattr(classify, "ask", second_time)
    code, out, error = tuner("predict", "run", "photos", "--batch", "3")
    assert code == 130
    assert len(rows_of(out)) == 3
    assert "interrupted; what was answered is kept" in error
    assert "Traceback" not in error


def test_a_refusal_of_the_server_keeps_what_was_answered(tuner, server):
    server.mischief = [lambda *_: None, refuses(Code.PROMPT_KIND_DENIED)]
    code, out, error = tuner("predict", "run", "photos", "--batch", "3")
    assert code == 4, error
    assert len(rows_of(out)) == 3
