"""The benchmarks' black box whose images are rows of a file, through the real application."""

import io

import numpy as np
import pytest
from fastapi.testclient import TestClient
from PIL import Image

from benchmarks.accuracy import feature_box
from benchmarks.accuracy.feature_box import FeatureBox, Part, Table, picture_of
from craft_server.api.services import services_of
from craft_server.app import card_limits, create_app
from craft_shared.errors import Refusal
from tests.support.serving import settings_in

ROWS, WIDTH = 70_000, 6


@pytest.fixture(scope="module")
def table() -> Table:
    draw = np.random.default_rng(3)

    def unit(*shape: int) -> np.ndarray:
        rows = draw.standard_normal(shape, np.float32)
        return rows / np.linalg.norm(rows, axis=-1, keepdims=True)

    texts = dict(zip(["cat", "tin opener"], unit(2, WIDTH), strict=True))
    return Table(unit(ROWS, WIDTH), {}, {}, texts)


@pytest.fixture
def box(tmp_path, table) -> FeatureBox:
    return FeatureBox(table, card_limits(settings_in(tmp_path)))


def ask(client, headers, image_set, name, key="one"):
    question = {
        "model": feature_box.MODEL,
        "image_set": image_set,
        "class_names": [name, "tin opener"],
        "prompts": {"kind": "text", "templates": ["a {}"]},
    }
    return client.post("/v1/logits", json=question, headers=headers | {"Idempotency-Key": key})


def test_logits_over_http_are_those_of_the_rows_and_names(tmp_path, box, table) -> None:
    app = create_app(settings_in(tmp_path), box)
    rows = [3, 65_539]
    with TestClient(app) as client:
        token = services_of(app).keys.create("ann", 10).token
        headers = {"Authorization": f"Bearer {token}"}
        images = services_of(app).images.add("ann", [picture_of(row) for row in rows])
        made = services_of(app).images.create_set("ann", [one.id for one in images], name="")
        reply = ask(client, headers, made.id, "cat")
        unknown = ask(client, headers, made.id, "dog", key="two")
        left = client.get("/v1/key", headers=headers).json()["budgets"]["queries"]
    words = np.stack([table.texts["cat"], table.texts["tin opener"]])
    np.testing.assert_allclose(
        np.array(reply.json()["logits"])[0], 100 * table.images[rows] @ words.T, rtol=1e-4
    )
    assert unknown.status_code == 400
    assert "'a dog' is not among the 3 texts of the table" in unknown.json()["detail"]
    assert left["used"] == 1


@pytest.mark.parametrize("row", [0, 255, 256, ROWS - 1])
def test_a_crop_flipped_and_enlarged_is_the_same_row(box, row) -> None:
    image = Image.open(io.BytesIO(picture_of(row))).crop((1, 2, 6, 7))
    spoilt = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT).resize((32, 32))
    assert box.preprocess(spoilt) == row


def test_pictures_that_stand_for_no_row_are_refused(box) -> None:
    two = Image.new("RGB", (2, 1))
    two.putpixel((0, 0), (0, 0, 1))
    for image in (two, Image.open(io.BytesIO(picture_of(ROWS)))):
        with pytest.raises(Refusal, match="not a picture of one colour below row 70,000"):
            box.preprocess(image)


def test_tables_are_read_from_files(tmp_path) -> None:
    folder = tmp_path / "clip_vit_b32"
    folder.mkdir()
    draw = np.random.default_rng(1)
    splits = ("test", *(f"{shots}shot" for shots in feature_box.SHOTS))
    for dataset in feature_box.DATASETS:
        arrays = {f"X_{s}": draw.standard_normal((2, 4)).astype(np.float16) for s in splits}
        labels = {f"y_{s}": np.array([0, 1], np.int16) for s in splits}
        np.savez(folder / f"{dataset}.npz", **arrays, **labels, classnames=["a", "b"])
    np.savez(folder / "text_names.npz", names=["x", "y", "x"], X=np.eye(3, 4, dtype=np.float16))
    table = Table.load(tmp_path)
    assert table.images.shape == (2 * len(splits) * 2, 4)
    np.testing.assert_allclose(np.linalg.norm(table.images, axis=1), 1, rtol=1e-6)
    part = table.parts["ucf101", "1shot"]
    assert isinstance(part, Part)
    assert part.rows == range(14, 16)
    assert np.array_equal(table.texts["x"], [1, 0, 0, 0])
