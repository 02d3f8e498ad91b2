"""Administration over HTTP: keys come and go, and every act is on record."""

import pytest

from craft_server.accounts.identity import MAY_BE_UNLIMITED, Scope
from craft_server.api.services import services_of
from craft_server.db.tables import LIMITS
from craft_server.metering.meter import LedgerEntry
from craft_server.settings import Settings
from craft_shared.admin import KeyChange, KeyRequest
from craft_shared.messages import Counters

pytestmark = pytest.mark.slow  # the whole boundary


@pytest.fixture
def admin_key(mint_key):
    return mint_key(0, owner="root", scopes=[Scope.ADMIN])


@pytest.fixture
def admin(anonymous, admin_key):
    """A client with an admin key."""
    anonymous.headers["Authorization"] = f"Bearer {admin_key.token}"
    return anonymous


def create(admin, **fields):
    reply = admin.post("/v1/admin/keys", json={"owner": "bob", "queries_limit": 5} | fields)
    assert reply.status_code == 201, reply.text
    return reply.json()


def use(admin, key):
    """A client's view: the reply to GET /v1/key with this key."""
    return admin.get("/v1/key", headers={"Authorization": f"Bearer {key}"})


def test_a_minted_key_works_and_is_shown_once(admin):
    made = create(
        admin,
        logit_vectors_limit=9,
        texts_limit=10,
        logits_limit=11,
        scopes=["usage:read"],
        expires_at="2999-01-01T00:00:00Z",
        policy={"output": {"kind": "rounded", "step": 0.5}},
    )
    seen = use(admin, made["key"]).json()
    assert (seen["owner"], seen["scopes"]) == ("bob", ["usage:read"])
    limits = {name: budget["limit"] for name, budget in seen["budgets"].items()}
    assert limits == {"queries": 5, "logit_vectors": 9, "texts": 10, "logits": 11}
    assert seen["policy"]["output"] == {"kind": "rounded", "step": 0.5, "k": None}
    record = admin.get(f"/v1/admin/keys/{made['id']}").json()
    assert record == {name: value for name, value in made.items() if name != "key"}
    assert record["state"] == "active"


def test_a_change_holds_at_once(admin):
    made = create(admin)
    path = f"/v1/admin/keys/{made['id']}"
    changed = admin.patch(path, json={"queries_limit": 9, "policy": {"max_classes": 2}}).json()
    assert changed["budgets"]["queries"]["limit"] == 9
    assert use(admin, made["key"]).json()["policy"]["max_classes"] == 2
    past = admin.patch(path, json={"expires_at": "2001-01-01T00:00:00Z"}).json()
    assert past["state"] == "expired"
    assert use(admin, made["key"]).status_code == 401
    assert admin.patch(path, json={"expires_at": "never", "scopes": ["images:write"]}).json()[
        "scopes"
    ] == ["images:write"]
    assert use(admin, made["key"]).status_code == 200


@pytest.mark.parametrize("counter", ["logit_vectors", "texts", "logits"])
def test_a_limit_is_changed_and_taken_away(admin, counter):
    made = create(admin, **{f"{counter}_limit": 9})
    path = f"/v1/admin/keys/{made['id']}"
    others = {name: made["budgets"][name] for name in made["budgets"] if name != counter}
    for limit, now in ((7, 7), ("unlimited", None), (8, 8)):
        budgets = admin.patch(path, json={f"{counter}_limit": limit}).json()["budgets"]
        assert (budgets[counter] and budgets[counter]["limit"]) == now
        assert {name: budgets[name] for name in others} == others
    assert use(admin, made["key"]).json()["budgets"] == budgets


@pytest.mark.parametrize("settings", [{"default_texts_limit": 2000}], indirect=True)
def test_a_key_has_the_operator_s_default_unless_its_maker_says(admin):
    assert create(admin)["budgets"]["texts"]["limit"] == 2000
    assert create(admin, texts_limit=None)["budgets"]["texts"]["limit"] == 2000
    assert create(admin, texts_limit=3)["budgets"]["texts"]["limit"] == 3
    free = create(admin, texts_limit="unlimited")
    assert free["budgets"]["texts"] is free["budgets"]["logits"] is None


def test_every_limit_can_be_given_by_an_owner():
    names = {f"{name}_limit" for name in LIMITS}
    assert names == {*MAY_BE_UNLIMITED, "queries_limit"}
    for message in (KeyRequest, KeyChange):
        assert {name for name in message.model_fields if name.endswith("_limit")} == names
    assert Settings().default_limits.keys() == {*MAY_BE_UNLIMITED}


def test_rotation_and_revocation(admin):
    made = create(admin)
    path = f"/v1/admin/keys/{made['id']}"
    kept = admin.post(f"{path}/rotate", json={"grace_s": 60}).json()
    assert use(admin, made["key"]).status_code == use(admin, kept["key"]).status_code == 200
    last = admin.post(f"{path}/rotate", json={}).json()
    assert use(admin, kept["key"]).status_code == 401
    assert admin.post(f"{path}/revoke").json()["state"] == "revoked"
    assert use(admin, last["key"]).status_code == 401
    again = admin.post(f"{path}/rotate", json={})
    assert (again.status_code, again.json()["param"]) == (400, "key_id")


def test_keys_are_listed_in_pages_and_by_owner(admin, admin_key):
    ids = [create(admin, owner=owner)["id"] for owner in ("ann", "bob", "ann")]
    everything = admin.get("/v1/admin/keys").json()
    assert {key["id"] for key in everything["keys"]} == {admin_key.key.id, *ids}
    assert everything["next"] is None
    of_ann = admin.get("/v1/admin/keys", params={"owner": "ann", "limit": 1}).json()
    assert [key["id"] for key in of_ann["keys"]] == [of_ann["next"]] == [ids[0]]
    rest = {"owner": "ann", "after": of_ann["next"]}
    assert [key["id"] for key in admin.get("/v1/admin/keys", params=rest).json()["keys"]] == [
        ids[2]
    ]
    assert admin.get("/v1/admin/keys", params={"after": "key_0"}).status_code == 404


def test_every_act_is_on_record_under_the_administrator_s_name(admin, admin_key):
    made = create(admin)
    admin.post(f"/v1/admin/keys/{made['id']}/revoke")
    page = admin.get("/v1/admin/acts", params={"key_id": made["id"]}).json()
    assert [(act["act"], act["actor"]) for act in page["acts"]] == [
        ("create", admin_key.key.id),
        ("revoke", admin_key.key.id),
    ]
    assert made["key"] not in str(page)
    first = admin.get("/v1/admin/acts", params={"limit": 1}).json()
    assert first["next"] == first["acts"][0]["id"]


def test_the_audit_finds_a_counter_that_is_not_its_ledger(admin, app):
    made = create(admin)
    assert admin.get("/v1/admin/audit").json() == {"discrepancies": []}
    meter, cost = services_of(app).meter, Counters(queries=2, calls=1, logit_vectors=2, texts=2)
    hold = meter.reserve(made["id"], "one", fingerprint="f", cost=cost, hold_s=60)
    meter.settle(hold, b"", entry=LedgerEntry("tiny", "set_1", 1, 1, 1))
    assert admin.get("/v1/admin/audit").json() == {"discrepancies": []}
    with services_of(app).store.write() as tx:
        tx.exec_driver_sql("UPDATE keys SET queries_used = 1 WHERE queries_used = 2")
    assert admin.get("/v1/admin/audit").json()["discrepancies"] == [
        {"key_id": made["id"], "counter": "queries_used", "counted": 1, "summed": 2}
    ]


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"owner": ""}, "owner"),
        ({"owner": "a\nb"}, "owner"),
        ({"queries_limit": -1}, "queries_limit"),
        ({"queries_limit": 10**16}, "queries_limit"),
        ({"scopes": []}, "scopes"),
        ({"scopes": ["admin"]}, "scopes[0]"),
        ({"policy": {"max_clases": 1}}, "policy.max_clases"),
        ({"policy": {"output": {"kind": "top_k"}}}, "policy.output"),
        ({"policy": {"output": {"knd": "label"}}}, "policy.output.knd"),
        ({"policy": {"class_names": []}}, "policy.class_names"),
        ({"policy": {"class_names": ["a"], "output": {"kind": "top_k", "k": 1}}}, "policy"),
        ({"policy": {"class_names": ["a", "A"], "output": {"kind": "top_k", "k": 1}}}, "policy"),
        ({"policy": {"max_classes": 3, "output": {"kind": "top_k", "k": 3}}}, "policy"),
        ({"texts_limit": "unlimitd"}, "texts_limit"),
        ({"logits_limit": -1}, "logits_limit"),
        ({"policy": {"output": {"kind": "rounded", "step": 1e-50}}}, "policy.output.step"),
        ({"extra": 1}, "extra"),
    ],
)
def test_a_key_that_cannot_be_is_refused_by_field(admin, fields, param):
    reply = admin.post("/v1/admin/keys", json={"owner": "bob", "queries_limit": 5} | fields)
    assert (reply.status_code, reply.json()["param"]) == (400, param)


@pytest.mark.parametrize(
    ("method", "path", "json"),
    [
        ("GET", "", None),
        ("PATCH", "", {"queries_limit": 1}),
        ("POST", "/rotate", {}),
        ("POST", "/revoke", None),
    ],
)
def test_an_unknown_key_is_not_found(admin, method, path, json):
    reply = admin.request(method, f"/v1/admin/keys/key_0{path}", json=json)
    assert (reply.status_code, reply.json()["code"]) == (404, "not_found")


def test_an_admin_key_buys_nothing_and_sees_no_images(admin):
    for method, path in (("POST", "/v1/logits"), ("POST", "/v1/images"), ("GET", "/v1/usage")):
        assert admin.request(method, path).json()["code"] == "scope_denied"
