"""Deleting images and sets over HTTP, and what a deletion means for what was bought."""

import pytest
from starlette.testclient import TestClient

from craft_server.api.services import services_of
from craft_server.app import create_app
from tests.support.serving import image_set, png, settings_in, stub_box, text_request, upload


@pytest.fixture
def app(tmp_path):
    settings = settings_in(tmp_path, owner_sets=2, reply_bytes=0)
    return create_app(settings, stub_box(settings))


@pytest.fixture
def client(app):
    """A key with the budget of one request, and a client that sends it."""
    token = services_of(app).keys.create("ann", 2).token
    with TestClient(app, headers={"Authorization": f"Bearer {token}"}) as client:
        yield client


@pytest.fixture
def bob(app, client):
    return {"Authorization": f"Bearer {services_of(app).keys.create('bob', 2).token}"}


def code_of(reply):
    return reply.status_code, reply.json()["code"]


def ask(client, set_id):
    return client.post("/v1/logits", json=text_request(set_id), headers={"Idempotency-Key": "one"})


def test_a_set_and_then_its_images_can_be_deleted(client):
    ids = upload(client, [png(seed) for seed in range(3)])
    set_id = image_set(client, 3)
    refused = client.delete(f"/v1/images/{ids[0]}")
    assert code_of(refused) == (409, "image_in_use")
    assert set_id in refused.json()["detail"]
    gone = client.delete(f"/v1/image-sets/{set_id}")
    assert (gone.status_code, gone.content) == (204, b"")
    assert code_of(client.get(f"/v1/image-sets/{set_id}")) == (404, "unknown_image_set")
    assert client.delete(f"/v1/images/{ids[0]}").status_code == 204
    assert code_of(client.delete(f"/v1/images/{ids[0]}")) == (404, "unknown_image")
    assert client.post("/v1/images/missing", json={"ids": ids}).json()["missing"] == ids[:1]


@pytest.mark.parametrize("path", ["image-sets/set_%00", "images/%00", "images/x", "image-sets/x"])
def test_what_is_nobodys_is_unknown(client, path):
    assert client.delete(f"/v1/{path}").status_code == 404


def test_what_is_another_owners_is_answered_like_nothing(client, bob):
    [image, *_] = upload(client, [png(seed) for seed in range(3)])
    set_id = image_set(client, 3)
    nobodys = ((f"images/{image}", "0" * 64), (f"image-sets/{set_id}", "set_" + "0" * 32))
    for path, nothing in nobodys:
        kind, _, name = path.partition("/")
        of_ann = client.delete(f"/v1/{path}", headers=bob)
        of_nobody = client.delete(f"/v1/{kind}/{nothing}", headers=bob)
        assert of_ann.status_code == 404
        assert of_ann.json()["detail"] == of_nobody.json()["detail"].replace(nothing, name)
    assert client.get(f"/v1/image-sets/{set_id}").status_code == 200


def test_what_was_bought_is_told_again_once_the_deleted_set_is_made_again(client):
    set_id = image_set(client, 3)
    bought = ask(client, set_id)
    client.delete(f"/v1/image-sets/{set_id}")
    assert code_of(ask(client, set_id)) == (404, "unknown_image_set")
    assert image_set(client, 3) == set_id
    again = ask(client, set_id)
    assert again.headers["Idempotent-Replayed"] == "true"
    assert again.json()["logits"] == bought.json()["logits"]


def test_a_key_without_budget_makes_no_more_sets_than_its_owner_may_keep(app, client):
    poor = {"Authorization": f"Bearer {services_of(app).keys.create('ann', 0).token}"}
    ids = upload(client, [png(seed) for seed in range(3)], **poor)
    made = [client.post("/v1/image-sets", json={"images": [image]}, headers=poor) for image in ids]
    assert [reply.status_code for reply in made] == [200, 200, 413]
    assert code_of(made[2]) == (413, "too_large")
    assert made[2].json()["param"] == "images"


def test_an_owner_pages_through_its_sets_and_no_others(client, bob):
    made = sorted(image_set(client, count) for count in (1, 2))
    image_set(client, 1, **bob)
    first = client.get("/v1/image-sets", params={"limit": 1}).json()
    assert first["next"] == first["sets"][0]["id"] == made[0]
    second = client.get("/v1/image-sets", params={"limit": 1, "after": made[0]}).json()
    assert (second["next"], second["sets"][0]["id"]) == (None, made[1])
    whole = client.get("/v1/image-sets").json()
    assert [one["id"] for one in whole["sets"]] == made
    assert sorted(one["images"] for one in whole["sets"]) == [1, 2]
