"""What a policy allows, over HTTP: the card shows it, the rest is refused uncharged."""

import numpy as np
import pytest

from craft_server.api.services import services_of
from craft_shared import wire
from craft_shared.messages import Output, Policy
from tests.support.serving import image_set, soft_body, tensor_headers, text_request

pytestmark = pytest.mark.slow  # the whole boundary


@pytest.fixture
def as_key(anonymous, mint_key):
    """Make the client a key with a policy and return the key."""

    def become(**policy):
        minted = mint_key(100, policy=Policy(**policy))
        anonymous.headers["Authorization"] = f"Bearer {minted.token}"
        return minted

    return become


def ask(client, set_id, name="one", **fields):
    body = text_request(set_id) | fields
    return client.post("/v1/logits", json=body, headers={"Idempotency-Key": name})


def test_a_key_sees_its_policy(anonymous, as_key):
    as_key(max_classes=3, output=Output(kind="label"))
    policy = anonymous.get("/v1/key").json()["policy"]
    assert policy["max_classes"] == 3
    assert policy["output"]["kind"] == "label"


def test_the_card_is_what_the_key_may_do(anonymous, as_key):
    as_key()
    whole = anonymous.get("/v1/models/stub::0").json()
    as_key(max_classes=3, max_images=10**9, prompt_kinds=["text"], output=Output(kind="label"))
    card = anonymous.get("/v1/models/stub::0").json()
    assert (card["prompt_kinds"], card["output"]) == (["text"], "label")
    assert card["limits"]["classes"] == 3
    assert card["limits"]["images"] == whole["limits"]["images"]
    assert anonymous.get("/v1/models").json()["models"] == [card]


def test_a_model_that_the_key_may_not_use_is_neither_listed_nor_sold(anonymous, as_key):
    as_key(models=["other"])
    assert anonymous.get("/v1/models").json()["models"] == []
    assert anonymous.get("/v1/models/stub::0").json()["code"] == "unknown_model"
    reply = ask(anonymous, image_set(anonymous))
    assert (reply.status_code, reply.json()["code"]) == (403, "model_denied")
    assert "'other'" in reply.json()["detail"]


@pytest.mark.parametrize(
    ("policy", "status", "code", "param"),
    [
        ({"prompt_kinds": ["soft"]}, 403, "prompt_kind_denied", "prompts.kind"),
        ({"prompt_kinds": []}, 403, "prompt_kind_denied", "prompts.kind"),
        ({"max_classes": 1}, 413, "too_large", "class_names"),
        ({"max_images": 2}, 413, "too_large", "image_set"),
    ],
)
def test_what_the_policy_forbids_is_refused_and_costs_nothing(
    anonymous, as_key, policy, status, code, param
):
    as_key(**policy)
    reply = ask(anonymous, image_set(anonymous, count=3))
    found = reply.json()
    assert (reply.status_code, found["code"], found["param"]) == (status, code, param)
    budget = anonymous.get("/v1/key").json()["budgets"]["queries"]
    assert (budget["used"], budget["held"]) == (0, 0)


@pytest.mark.parametrize("dtype", ["float32", "float16", "int16"])
@pytest.mark.parametrize("large", [False, True])
@pytest.mark.parametrize(
    "output",
    [
        Output(kind="rounded", step=0.5),
        Output(kind="log_probabilities"),
        Output(kind="top_k", k=1),
        Output(kind="label"),
    ],
    ids=lambda output: output.kind,
)
def test_an_output_policy_holds_in_tensors_and_json_whole_and_in_blocks(
    anonymous, as_key, monkeypatch, output, large, dtype
):
    if large:
        monkeypatch.setattr("craft_server.logits.scoring.BLOCK_LOGITS", 4)
    offsets = np.random.default_rng(0).normal(size=(3, 4, 16)).astype(np.float32)
    as_key()
    body = soft_body(image_set(anonymous), offsets, dtype=dtype)
    plain = anonymous.post("/v1/logits", content=body, headers=tensor_headers("plain"))
    _, logits = wire.decode_reply(plain.content)
    as_key(output=output)
    disclosed = anonymous.post("/v1/logits", content=body, headers=tensor_headers("disclosed"))
    _, seen = wire.decode_reply(disclosed.content)
    assert seen.shape == logits.shape
    assert seen.dtype == np.dtype("float16" if dtype == "float16" else "float32")
    assert not np.array_equal(seen, logits)
    if output.kind != "rounded":
        assert (seen.argmax(axis=-1) == logits.argmax(axis=-1)).all()
    again = anonymous.post("/v1/logits", content=body, headers=tensor_headers("disclosed"))
    assert again.headers["idempotent-replayed"] == "true"
    np.testing.assert_array_equal(wire.decode_reply(again.content)[1], seen)
    headers = tensor_headers("json", Accept="application/json")
    as_json = anonymous.post("/v1/logits", content=body, headers=headers).json()["logits"]
    listed = np.array(as_json, dtype=object)
    assert [value is None for value in listed.flat] == list(np.isneginf(seen).flat)
    wire.parse(type(wire.decode_reply(disclosed.content)[0]), anonymous_reply(as_json, disclosed))


def anonymous_reply(logits, reply):
    """A reply of the protocol with these logits in JSON."""
    message, _ = wire.decode_reply(reply.content)
    return message.model_copy(update={"logits": logits}).model_dump_json()


def test_a_key_has_no_more_requests_in_work_than_its_policy_says(client, app, mint_key):
    meter = services_of(app).meter
    key = mint_key(100, policy=Policy(max_concurrent=2))
    set_id = image_set(client)
    client.headers["Authorization"] = f"Bearer {key.token}"
    from craft_shared.messages import Counters

    cost = Counters(queries=1, calls=1, logit_vectors=1, texts=1)
    holds = [
        meter.reserve(key.key.id, f"h{n}", fingerprint="f", cost=cost, hold_s=60) for n in range(2)
    ]
    reply = ask(client, set_id, "third")
    assert (reply.status_code, reply.json()["code"]) == (429, "rate_limited")
    assert reply.json()["param"] == "concurrency"
    assert "retry-after" in reply.headers
    budget = client.get("/v1/key").json()["budgets"]["queries"]
    assert (budget["used"], budget["held"]) == (0, 2)
    meter.release(holds[0])
    assert ask(client, set_id, "third").status_code == 200


def test_calls_a_minute_are_limited_and_reported(anonymous, as_key):
    as_key(requests_per_minute=2)
    first, second, third = (anonymous.get("/v1/key") for _ in range(3))
    assert [reply.status_code for reply in (first, second, third)] == [200, 200, 429]
    assert first.headers["ratelimit-policy"] == '"calls";q=2;w=60'
    assert first.headers["ratelimit"].startswith('"calls";r=1;')
    assert third.json()["code"] == "rate_limited"
    assert third.headers["ratelimit"].startswith('"calls";r=0;')
    assert 1 <= int(third.headers["retry-after"]) <= 30


def test_a_recent_identity_counts_as_well(anonymous, as_key):
    set_id = None
    as_key()
    set_id = image_set(anonymous)
    as_key(requests_per_minute=2)
    replies = [ask(anonymous, set_id, f"n{number}").status_code for number in range(3)]
    assert replies == [200, 200, 429]


def test_without_a_limit_no_rate_is_reported(client):
    assert "ratelimit" not in client.get("/v1/key").headers


# --- a change holds from the next request on ----------------------------------------------------


def test_a_tightened_policy_holds_for_the_very_next_purchase(client, app):
    keys = services_of(app).keys
    key_id = client.get("/v1/key").json()["id"]
    set_id = image_set(client)
    assert ask(client, set_id, "before").status_code == 200
    keys.change(key_id, policy=Policy(prompt_kinds=["soft"]))
    refused = ask(client, set_id, "after")
    assert refused.json()["code"] == "prompt_kind_denied"
    keys.change(key_id, policy=Policy(output=Output(kind="label")))
    assert ask(client, set_id, "later").json()["logits"][0][0].count(0.0) == 1


def test_a_rotated_token_buys_nothing_more_and_the_new_one_at_once(client, app):
    keys = services_of(app).keys
    key_id = client.get("/v1/key").json()["id"]
    set_id = image_set(client)
    assert ask(client, set_id, "before").status_code == 200
    minted = keys.rotate(key_id)
    for name in ("before", "after"):
        assert ask(client, set_id, name).json()["code"] == "invalid_key"
    client.headers["Authorization"] = f"Bearer {minted.token}"
    assert ask(client, set_id, "after").status_code == 200
    again = ask(client, set_id, "before")
    assert again.headers["idempotent-replayed"] == "true"


def test_during_a_grace_both_tokens_buy(client, app):
    keys = services_of(app).keys
    key_id = client.get("/v1/key").json()["id"]
    set_id = image_set(client)
    minted = keys.rotate(key_id, grace_s=3600)
    assert ask(client, set_id, "old").status_code == 200
    client.headers["Authorization"] = f"Bearer {minted.token}"
    assert ask(client, set_id, "new").status_code == 200


# --- which names it may ask about ---------------------------------------------------------------


NAMES = ["cat", "dog", "dog"]


def test_a_fixed_list_of_names_is_on_the_card_and_in_the_policy(anonymous, as_key):
    as_key(class_names=NAMES)
    card = anonymous.get("/v1/models/stub::0").json()
    assert card["class_names"] == NAMES
    assert (card["limits"]["min_classes"], card["limits"]["classes"]) == (3, 3)
    assert anonymous.get("/v1/key").json()["policy"]["class_names"] == NAMES
    as_key()
    free = anonymous.get("/v1/models/stub::0").json()
    assert (free["class_names"], free["limits"]["min_classes"]) == (None, 1)


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (["cat", "dog"], "its 3 class names, not 2"),
        (["cat", "dog", "dog", "dog"], "its 3 class names, not 4"),
        (["cat", "dog", "bird"], "'bird' is none of the names"),
        (["cat", "cat", "dog"], "as often as its list does"),
        (["Cat", "dog", "dog"], "'Cat' is none of the names"),
    ],
)
def test_a_key_with_fixed_names_asks_about_no_others(anonymous, as_key, names, said):
    as_key(class_names=NAMES)
    reply = ask(anonymous, image_set(anonymous), class_names=names)
    found = reply.json()
    assert (reply.status_code, found["code"], found["param"]) == (
        403,
        "class_names_denied",
        "class_names",
    )
    assert said in found["detail"]
    assert anonymous.get("/v1/key").json()["budgets"]["queries"]["used"] == 0


def test_fixed_names_may_be_asked_in_any_order(anonymous, as_key):
    as_key(class_names=NAMES)
    set_id = image_set(anonymous)
    for number, names in enumerate((NAMES, ["dog", "cat", "dog"])):
        assert ask(anonymous, set_id, f"n{number}", class_names=names).status_code == 200


@pytest.mark.parametrize(
    ("names", "status"),
    [
        (["cat", "dog"], 403),
        (["cat", "dog", "DOG"], 403),
        (["cat", "dog", "  dog "], 403),
        (["cat", "dog", "bird"], 200),
    ],
)
def test_the_k_best_are_told_of_more_than_k_names_alone(anonymous, as_key, names, status):
    as_key(output=Output(kind="top_k", k=2))
    assert anonymous.get("/v1/models/stub::0").json()["limits"]["min_classes"] == 3
    reply = ask(anonymous, image_set(anonymous), class_names=names)
    assert reply.status_code == status
    if status == 403:
        assert "2 different class names, this key needs at least 3" in reply.json()["detail"]
        assert reply.json()["code"] == "class_names_denied"


# --- numbers told are counted -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("output", "told"),
    [
        (Output(), 3),
        (Output(kind="rounded", step=0.5), 3),
        (Output(kind="log_probabilities"), 3),
        (Output(kind="top_k", k=2), 2),
        (Output(kind="label"), 1),
    ],
    ids=lambda value: getattr(value, "kind", ""),
)
def test_the_logits_of_a_price_are_the_numbers_in_the_reply(anonymous, as_key, output, told):
    as_key(output=output)
    reply = ask(anonymous, image_set(anonymous, count=2), class_names=["a", "b", "c"]).json()
    logits = np.array(reply["logits"], dtype=float)
    prompts, images, _ = logits.shape
    assert reply["cost"]["logits"] == prompts * images * told == np.isfinite(logits).sum()
    assert reply["cost"]["texts"] == prompts * 3


def test_a_stored_reply_is_what_was_told_then(client, app, mint_key):
    key = mint_key(100, policy=Policy(output=Output(kind="label")))
    set_id = image_set(client)
    client.headers["Authorization"] = f"Bearer {key.token}"
    bought = ask(client, set_id, "one").json()
    services_of(app).keys.change(key.key.id, policy=Policy())
    again = ask(client, set_id, "one").json()
    assert (again["replayed"], again["logits"]) == (True, bought["logits"])


@pytest.mark.parametrize("settings", [{"reply_bytes": 0}], indirect=True)
def test_a_reply_that_is_computed_again_tells_no_more_than_was_paid_for(client, app, mint_key):
    """A label bought is a label: logits of it, which later the key may have, are bought anew."""
    set_id = image_set(client)
    key = mint_key(100, policy=Policy(output=Output(kind="label")), logits_limit=1000)
    client.headers["Authorization"] = f"Bearer {key.token}"
    bought = ask(client, set_id, "one").json()
    services_of(app).keys.change(key.key.id, policy=Policy())
    again = ask(client, set_id, "one")
    assert (again.status_code, again.json()["code"]) == (422, "idempotency_key_reused")
    assert "told less" in again.json()["detail"]
    dear = ask(client, set_id, "two").json()
    assert dear["cost"]["logits"] == 2 * bought["cost"]["logits"]
    services_of(app).keys.change(key.key.id, policy=Policy(output=Output(kind="label")))
    assert ask(client, set_id, "two").json()["replayed"]


@pytest.mark.parametrize("counter", ["texts", "logits"])
def test_a_limit_on_texts_or_logits_is_a_limit(client, mint_key, counter):
    set_id = image_set(client, count=3)
    client.headers["Authorization"] = f"Bearer {mint_key(100).token}"
    price = ask(client, set_id).json()["cost"][counter]
    limits = {f"{counter}_limit": 2 * price - 1}
    client.headers["Authorization"] = f"Bearer {mint_key(100, **limits).token}"
    first, second = ask(client, set_id, "one"), ask(client, set_id, "two")
    assert first.json()["budgets"][counter]["remaining"] == price - 1
    assert (second.status_code, second.json()["code"]) == (402, "budget_exhausted")
    assert second.json()["param"] == counter
    stands = client.get("/v1/key").json()["budgets"][counter]
    assert (stands["used"], stands["held"]) == (price, 0)
