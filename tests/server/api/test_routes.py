"""The HTTP boundary, route by route, in front of a stub black box."""

import csv
import io
import json
import re

import numpy as np
import pytest

from craft_server.accounts.identity import Scope
from craft_server.api.services import services_of
from craft_shared import tensors, wire
from craft_shared.errors import CODES, PROBLEM_MEDIA_TYPE, Code
from craft_shared.tensors import TENSOR_MEDIA_TYPE
from craft_shared.testing import attacks
from tests.support.serving import image_set, png, soft_body, tensor_headers, text_request, upload

pytestmark = pytest.mark.slow  # the whole boundary, some 300 requests


PUBLIC = {"/livez", "/readyz"}


def ask(client, request, key="one", **headers):
    return client.post("/v1/logits", json=request, headers={"Idempotency-Key": key, **headers})


def code_of(reply):
    """The problem's code; the document must be complete and true to the table."""
    assert reply.headers["content-type"] == PROBLEM_MEDIA_TYPE
    problem = reply.json()
    rule = CODES[Code(problem["code"])]
    assert (problem["status"], problem["retryable"]) == (rule.status, rule.retryable)
    assert reply.status_code == rule.status
    assert re.fullmatch(r"req_[0-9a-f]{24}", problem["request_id"])
    return problem["code"]


# --- logits -------------------------------------------------------------------------------------


def test_text_prompts_in_json_cost_one_query_each(client):
    reply = ask(client, text_request(image_set(client, 3), prompts=2))
    assert reply.status_code == 200, reply.text
    body = reply.json()
    assert np.shape(body["logits"]) == (2, 3, 2)
    assert body["cost"] == {
        "queries": 2,
        "calls": 1,
        "logit_vectors": 6,
        "texts": 4,
        "logits": 12,
    }
    assert body["budgets"]["queries"] == {"limit": 100, "used": 2, "held": 0, "remaining": 98}
    assert reply.headers["x-query-cost"] == "2"
    assert reply.headers["x-query-remaining"] == "98"
    assert re.fullmatch(r"queue;dur=[\d.]+, model;dur=[\d.]+", reply.headers["server-timing"])


def test_soft_prompts_in_tensors_equal_soft_prompts_in_json(client):
    offsets = np.random.default_rng(0).normal(size=(2, 4, 16)).astype(np.float32)
    set_id = image_set(client)
    reply = client.post(
        "/v1/logits", content=soft_body(set_id, offsets), headers=tensor_headers("one")
    )
    assert reply.headers["content-type"] == TENSOR_MEDIA_TYPE
    message, logits = wire.decode_reply(reply.content)
    assert (message.replayed, logits.shape, logits.dtype) == (False, (2, 3, 2), np.float32)
    prompts = {"kind": "soft", "context": "a photo of a", "offsets": offsets.tolist()}
    again = ask(client, text_request(set_id) | {"prompts": prompts}, "two")
    assert np.array_equal(np.array(again.json()["logits"], np.float32), logits)


def test_a_zero_offset_scores_like_the_text_it_is_an_offset_to(client):
    set_id = image_set(client)
    soft = client.post(
        "/v1/logits",
        content=soft_body(set_id, np.zeros((1, 4, 16), np.float32)),
        headers=tensor_headers("one"),
    )
    prompts = {"kind": "text", "templates": ["a photo of a {}."]}
    text = ask(client, text_request(set_id) | {"prompts": prompts}, "two")
    assert np.allclose(wire.decode_reply(soft.content)[1], text.json()["logits"])


def test_float16_halves_the_reply_and_costs_the_same(client):
    offsets = np.zeros((1, 4, 16), np.float32)
    set_id = image_set(client)
    replies = [
        client.post(
            "/v1/logits",
            content=soft_body(set_id, offsets, dtype=dtype),
            headers=tensor_headers(dtype),
        )
        for dtype in ("float32", "float16")
    ]
    single, half = (wire.decode_reply(reply.content)[1] for reply in replies)
    assert half.dtype == np.float16
    assert np.abs(single - half).max() < 0.05
    assert client.get("/v1/key").json()["budgets"]["queries"]["used"] == 2


def test_int16_rows_cost_the_same_are_replayed_and_leave_json_as_it_is(client):
    offsets = np.random.default_rng(1).normal(size=(2, 4, 16)).astype(np.float32)
    set_id = image_set(client)

    def buy(dtype, name):
        body = soft_body(set_id, offsets, dtype=dtype, class_names=list("abcdefgh"))
        return client.post("/v1/logits", content=body, headers=tensor_headers(name))

    whole, rows, again = buy("float32", "a"), buy("int16", "b"), buy("int16", "b")
    (_, single), (message, found) = (wire.decode_reply(each.content) for each in (whole, rows))
    step = np.ptp(single, axis=-1, keepdims=True) / 65_534
    assert (np.abs(single - found) <= step * 0.51).all()
    assert set(tensors.decode(rows.content)[0]) == {"logits", "offset", "scale"}
    assert (message.cost.queries, message.cost.logits) == (2, single.size)
    assert again.headers["idempotent-replayed"] == "true"
    np.testing.assert_array_equal(wire.decode_reply(again.content)[1], found)
    assert client.get("/v1/key").json()["budgets"]["queries"]["used"] == 4
    refused = buy("float32", "b")
    assert refused.json()["code"] == "idempotency_key_reused"
    plain, asked = (
        ask(client, text_request(set_id) | {"dtype": dtype}, f"json-{dtype}").json()["logits"]
        for dtype in ("float32", "int16")
    )
    assert plain == asked


def test_the_same_idempotency_key_is_served_again_and_charged_once(client):
    request = text_request(image_set(client))
    first, second = ask(client, request), ask(client, request)
    assert first.json()["logits"] == second.json()["logits"]
    assert second.json()["replayed"]
    assert second.headers["idempotent-replayed"] == "true"
    assert second.headers["x-query-cost"] == "0"
    assert client.get("/v1/key").json()["budgets"]["queries"]["used"] == 2


def test_a_reply_too_large_to_store_is_computed_again_free(client, app):
    services_of(app).meter._reply_bytes = 0
    request = text_request(image_set(client))
    first, second = ask(client, request), ask(client, request)
    assert second.json()["replayed"]
    assert first.json()["logits"] == second.json()["logits"]
    assert client.get("/v1/key").json()["budgets"]["queries"]["used"] == 2


def test_a_recomputed_reply_that_drifted_is_served_and_logged(client, app, box, caplog):
    services_of(app).meter._reply_bytes = 0
    request = text_request(image_set(client))
    ask(client, request)
    logits = box.logits
    box.logits = lambda *texts, **where: lambda: logits(*texts, **where)() + 1
    assert ask(client, request).json()["replayed"]
    assert "differs from what was sold" in caplog.text


def test_an_idempotency_key_cannot_be_reused_for_something_else(client):
    set_id = image_set(client)
    ask(client, text_request(set_id, prompts=2))
    assert code_of(ask(client, text_request(set_id, prompts=3))) == "idempotency_key_reused"


def test_the_tag_is_in_the_ledger_and_not_in_the_fingerprint(client):
    request = text_request(image_set(client))
    ask(client, request | {"tag": "fitness"})
    assert ask(client, request | {"tag": "other"}).json()["replayed"]
    assert client.get("/v1/usage/events").json()["events"][0]["tag"] == "fitness"


@pytest.mark.parametrize(
    ("key", "code"),
    [("", "idempotency_key_missing"), ("x" * 129, "invalid_request"), ("a\tb", "invalid_request")],
)
def test_the_idempotency_key_is_needed_and_checked(client, key, code):
    assert code_of(ask(client, text_request(image_set(client)), key)) == code


def test_a_budget_that_does_not_suffice_is_402_and_stays_whole(client, mint_key):
    client.headers["Authorization"] = f"Bearer {mint_key(3).token}"
    set_id = image_set(client)
    reply = ask(client, text_request(set_id, prompts=4))
    assert code_of(reply) == "budget_exhausted"
    assert "retry-after" not in reply.headers
    assert ask(client, text_request(set_id, prompts=3), "two").status_code == 200
    assert code_of(ask(client, text_request(set_id, prompts=1), "three")) == "budget_exhausted"


def test_a_limit_on_logit_vectors_counts_prompts_times_images(client, mint_key):
    client.headers["Authorization"] = f"Bearer {mint_key(100, logit_vectors_limit=6).token}"
    set_id = image_set(client, 3)
    assert ask(client, text_request(set_id, prompts=2)).status_code == 200
    reply = ask(client, text_request(set_id, prompts=1), "two")
    assert code_of(reply) == "budget_exhausted"
    assert reply.json()["param"] == "logit_vectors"


@pytest.mark.parametrize("attack", list(attacks()), ids=lambda attack: attack.name)
def test_hostile_bodies_cost_nothing_and_the_next_request_works(client, attack):
    reply = client.post("/v1/logits", content=attack.body, headers=tensor_headers("one"))
    assert code_of(reply) == attack.code
    assert attack.says in reply.json()["detail"]
    assert ask(client, text_request(image_set(client))).status_code == 200


@pytest.mark.parametrize(
    ("fields", "code", "says"),
    [
        ({"model": "RN50::openai"}, "unknown_model", "stub::0"),
        ({"image_set": "set_" + "0" * 32}, "unknown_image_set", "set_0"),
        ({"class_names": ["x"] * 3000}, "too_large", "at most 2048"),
        ({"prompts": {"kind": "text", "templates": ["{}"] * 2000}}, "too_large", "at most 1024"),
        ({"class_names": ["long " * 80]}, "invalid_request", "class_names"),
        (
            {"prompts": {"kind": "text", "templates": ["word " * 76 + "{}"]}},
            "too_many_tokens",
            "at most 77",
        ),
        ({"prompts": {"kind": "soft", "context": "a"}}, "invalid_request", "offsets"),
        (
            {"prompts": {"kind": "soft", "context": "a", "offsets": [[[0.0]]]}},
            "invalid_request",
            "(P, 4, 16)",
        ),
    ],
)
def test_what_does_not_fit_the_model_is_refused_uncharged(client, fields, code, says):
    reply = ask(client, text_request(image_set(client)) | fields)
    assert code_of(reply) == code
    assert says in reply.json()["detail"]
    assert client.get("/v1/key").json()["budgets"]["queries"] == {
        "limit": 100,
        "used": 0,
        "held": 0,
        "remaining": 100,
    }


def test_too_many_logits_in_one_request_are_refused(client, box):
    box.card = box.card.model_copy(
        update={"limits": box.card.limits.model_copy(update={"logits": 11})}
    )
    reply = ask(client, text_request(image_set(client, 3), prompts=2))
    assert code_of(reply) == "too_large"
    assert "2 prompts x 3 images x 2 classes = 12 logits, at most 11" in reply.json()["detail"]


@pytest.mark.parametrize("break_it", ["raise", "shape", "nan"])
def test_a_failing_model_charges_nothing_and_the_worker_lives(client, box, break_it):
    request = text_request(image_set(client))
    good = box.logits
    broken = {
        "raise": lambda *_, **__: 1 / 0,
        "shape": lambda *_, **__: lambda: np.zeros((1, 1, 1), np.float32),
        "nan": lambda *texts, **where: lambda: good(*texts, **where)() * np.float32(np.nan),
    }
    box.logits = broken[break_it]
    reply = ask(client, request)
    assert reply.status_code == 500
    assert reply.json()["code"] == "internal"
    box.logits = good
    assert not ask(client, request).json()["replayed"]
    assert client.get("/v1/key").json()["budgets"]["queries"]["used"] == 2


# --- bodies -------------------------------------------------------------------------------------


@pytest.mark.parametrize("body", [b"", b"[]", b"{", b'{"model": "\xff"}', b"null"])
def test_bad_json_is_named(client, body):
    headers = {"Idempotency-Key": "one", "Content-Type": "application/json"}
    assert code_of(client.post("/v1/logits", content=body, headers=headers)) == "invalid_request"


@pytest.mark.parametrize("kind", ["", "text/plain", "application/x-pickle"])
@pytest.mark.parametrize("path", ["/v1/logits", "/v1/images", "/v1/image-sets"])
def test_other_media_types_are_415(client, kind, path):
    reply = client.post(path, content=b"x", headers={"Content-Type": kind})
    assert code_of(reply) == "media_type"


def test_an_encoded_body_is_415(client):
    reply = ask(client, text_request("set_" + "0" * 32), **{"Content-Encoding": "gzip"})
    assert code_of(reply) == "media_type"


def test_a_body_over_the_cap_is_413_by_its_header_and_while_it_arrives(client, settings):
    size = settings.max_body_bytes + 1
    headers = {"Content-Type": "application/json", "Idempotency-Key": "one"}
    claimed = client.post("/v1/logits", content=bytes(size), headers=headers)
    assert code_of(claimed) == "too_large"

    def pieces():
        for _ in range(size // 2**20 + 1):
            yield bytes(2**20)

    streamed = client.post("/v1/logits", content=pieces(), headers=headers)
    assert code_of(streamed) == "too_large"


# --- images -------------------------------------------------------------------------------------


def test_a_manifest_says_what_is_missing(client):
    [here] = upload(client, [png(1)])
    absent = "0" * 64
    reply = client.post("/v1/images/missing", json={"ids": [absent, here]})
    assert reply.json() == {"missing": [absent]}


def test_a_set_is_described_and_found_again(client):
    set_id = image_set(client, 2)
    described = client.get(f"/v1/image-sets/{set_id}").json()
    assert described == {"id": set_id, "name": "", "images": 2}
    assert code_of(client.get("/v1/image-sets/set_0")) == "unknown_image_set"


def test_an_upload_needs_files_in_the_field_files(client):
    wrong = client.post("/v1/images", files={"pictures": ("a.png", png(1))})
    assert code_of(wrong) == "invalid_request"
    mixed = client.post("/v1/images", files=[("files", png(1)), ("more", png(2))])
    assert code_of(mixed) == "invalid_request"


def test_more_files_than_allowed_are_refused(client, settings):
    files = [("files", b"x")] * (settings.max_files + 1)
    assert code_of(client.post("/v1/images", files=files)) == "invalid_request"


def test_a_bad_image_is_named(client):
    reply = client.post("/v1/images", files=[("files", png(1)), ("files", b"junk")])
    assert code_of(reply) == "undecodable_image"
    assert reply.json()["param"] == "files[1]"


def test_images_of_another_owner_do_not_exist(client, mint_key):
    set_id = image_set(client)
    bob = {"Authorization": f"Bearer {mint_key(10, owner='bob').token}"}
    assert code_of(client.get(f"/v1/image-sets/{set_id}", headers=bob)) == "unknown_image_set"
    assert code_of(ask(client, text_request(set_id), **bob)) == "unknown_image_set"


# --- cards, keys, usage -------------------------------------------------------------------------


def test_the_card_is_listed_and_found(client, box):
    card = box.card.model_copy(update={"reply_dtypes": ["float32", "float16", "int16"]})
    assert client.get("/v1/models").json()["models"] == [card.model_dump()]
    assert client.get("/v1/models/stub::0").json() == card.model_dump()
    assert code_of(client.get("/v1/models/other")) == "unknown_model"


def test_usage_adds_up_the_four_counters(client):
    set_id = image_set(client, 3)
    ask(client, text_request(set_id, prompts=2) | {"tag": "a"}, "one")
    ask(client, text_request(set_id, prompts=1) | {"tag": "b"}, "two")
    total = client.get("/v1/usage").json()["buckets"]
    assert total == [
        {
            "start": None,
            "tag": None,
            "run": None,
            "image_set": None,
            "counters": {
                "queries": 3,
                "calls": 2,
                "logit_vectors": 9,
                "texts": 6,
                "logits": 18,
            },
        }
    ]
    tagged = client.get("/v1/usage", params={"tag": "b", "bucket": "day"}).json()["buckets"]
    assert tagged[0]["counters"]["queries"] == 1


def test_the_ledger_can_be_asked_by_tag_by_run_and_by_time(client):
    set_id = image_set(client, 3)
    for number, (tag, run) in enumerate([("fitness", "r1"), ("head", "r1"), ("fitness", "r2")]):
        ask(client, text_request(set_id) | {"tag": tag, "run": run}, f"key {number}")

    def usage(**params):
        reply = client.get("/v1/usage", params=params).json()
        return [(one["tag"], one["run"], one["counters"]["queries"]) for one in reply["buckets"]]

    assert usage(by="tag") == [("fitness", None, 4), ("head", None, 2)]
    assert usage(by="run", tag="fitness") == [(None, "r1", 2), (None, "r2", 2)]
    assert usage(run="r1", tag="head") == [(None, None, 2)]
    assert usage(until="2020-01-01") == [(None, None, 0)]

    def events(**params):
        return client.get("/v1/usage/events", params=params)

    assert [event["tag"] for event in events(run="r1").json()["events"]] == ["fitness", "head"]
    assert events(since="2100-01-01T00:00:00Z").json()["events"] == []
    link = events(run="r1", limit=1).links["next"]["url"]
    following = client.get("/v1/usage/events" + link).json()["events"]
    assert [(event["tag"], event["run"]) for event in following] == [("head", "r1")]
    assert code_of(events(tag="\0")) == "invalid_request"


def test_the_ledger_comes_in_pages_and_formats(client):
    set_id = image_set(client)
    for number in range(3):
        ask(client, text_request(set_id, prompts=1), f"key {number}")
    first = client.get("/v1/usage/events", params={"limit": 2}).json()
    rest = client.get("/v1/usage/events", params={"after": first["next"]}).json()
    assert [len(first["events"]), len(rest["events"]), rest["next"]] == [2, 1, None]
    table = client.get("/v1/usage/events", headers={"Accept": "text/csv"}).text
    rows = list(csv.DictReader(io.StringIO(table)))
    assert [row["queries"] for row in rows] == ["1", "1", "1"]
    lines = client.get("/v1/usage/events", headers={"Accept": "application/x-ndjson"}).text
    assert [json.loads(line)["prompts"] for line in lines.splitlines()] == [1, 1, 1]
    paged = client.get(
        "/v1/usage/events", params={"limit": 1}, headers={"Accept": "application/x-ndjson"}
    )
    assert paged.headers["link"].endswith('rel="next"')


def test_bad_parameters_are_refused_by_name(client):
    reply = client.get("/v1/usage", params={"bucket": "week"})
    assert code_of(reply) == "invalid_request"
    assert "bucket" in reply.json()["detail"]


# --- access -------------------------------------------------------------------------------------


def operations(app):
    """Every operation of the OpenAPI document that needs a key: (method, path)."""
    paths = app.openapi()["paths"]
    return [
        (method, re.sub(r"{\w+}", "x", path))
        for path, methods in paths.items()
        for method in methods
        if path not in PUBLIC
    ]


def test_no_route_answers_without_a_good_key(app, anonymous, mint_key):
    revoked = mint_key(10)
    services_of(app).keys.revoke(revoked.key.id)
    for method, path in operations(app):
        for value in (None, "Bearer", "Bearer nonsense", f"Bearer {revoked.token}", "Basic eDp5"):
            headers = {} if value is None else {"Authorization": value}
            reply = anonymous.request(method, path, headers=headers)
            assert code_of(reply) == "invalid_key", (method, path, value)
            assert reply.headers["www-authenticate"] == "Bearer"


@pytest.mark.parametrize("scope", list(Scope))
def test_each_scope_opens_its_own_routes_only(app, anonymous, mint_key, scope):
    routes = {
        Scope.LOGITS_READ: {"/v1/logits", "/v1/texts/check"},
        Scope.IMAGES_WRITE: {
            "/v1/images",
            "/v1/images/x",
            "/v1/images/missing",
            "/v1/image-sets",
            "/v1/image-sets/x",
        },
        Scope.USAGE_READ: {"/v1/usage", "/v1/usage/events"},
        Scope.ADMIN: {
            "/v1/admin/keys",
            "/v1/admin/keys/x",
            "/v1/admin/keys/x/rotate",
            "/v1/admin/keys/x/revoke",
            "/v1/admin/acts",
            "/v1/admin/audit",
        },
    }
    free = {"/v1/models", "/v1/models/x", "/v1/key"}
    headers = {"Authorization": f"Bearer {mint_key(1, scopes=[scope]).token}"}
    opened = {
        path
        for method, path in operations(app)
        if anonymous.request(method, path, headers=headers).status_code != 403
    }
    assert opened == routes[scope] | free


def test_the_probes_need_no_key_and_tell_nothing(anonymous):
    for path in PUBLIC:
        reply = anonymous.get(path)
        assert (reply.status_code, reply.json()) == (200, {"status": "ok"})


def test_unknown_addresses_and_methods_are_problem_documents(anonymous):
    assert code_of(anonymous.get("/v1/weights")) == "not_found"
    refused = anonymous.get("/v1/logits")
    assert (code_of(refused), refused.headers["allow"]) == ("method_not_allowed", "POST")


def test_more_texts_than_the_card_allows_are_refused(client, box):
    box.card = box.card.model_copy(
        update={"limits": box.card.limits.model_copy(update={"texts": 3})}
    )
    reply = ask(client, text_request(image_set(client, 1), prompts=2))
    assert code_of(reply) == "too_large"
    assert "2 prompts x 2 classes = 4 texts, at most 3" in reply.json()["detail"]


def test_many_logits_in_json_are_the_tensors(client):
    set_id = image_set(client, 60)
    offsets = np.random.default_rng(0).normal(size=(40, 4, 16)).astype(np.float32)
    headers = tensor_headers("one")
    tensors = client.post("/v1/logits", content=soft_body(set_id, offsets), headers=headers)
    _, logits = wire.decode_reply(tensors.content)
    headers = tensor_headers("two") | {"Accept": "application/json"}
    reply = client.post("/v1/logits", content=soft_body(set_id, offsets), headers=headers)
    np.testing.assert_array_equal(np.array(reply.json()["logits"], np.float32), logits)


@pytest.mark.parametrize("name", ["new", "bought"])
def test_a_key_revoked_a_moment_ago_buys_nothing_and_gets_no_replay(app, client, name):
    request = text_request(image_set(client))
    assert ask(client, request, "bought").status_code == 200
    key_id = client.get("/v1/key").json()["id"]
    services_of(app).keys.revoke(key_id)
    assert services_of(app).key_cache.known(client.headers["Authorization"].split()[1])
    reply = ask(client, request, name)
    assert code_of(reply) == "invalid_key"
    assert services_of(app).meter.budgets(key_id).queries.used == 2
