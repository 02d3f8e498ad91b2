"""Who may call what: every route of the application without a key, with bad ones, with poor ones.

A new route fails here until it is in one of the two tables.
"""

from datetime import UTC, datetime, timedelta

import pytest
from starlette.testclient import TestClient

from craft_server.accounts.identity import CLIENT_SCOPES, Scope
from craft_server.accounts.tokens import mint_token
from craft_server.api.services import services_of
from craft_server.app import create_app
from tests.support.serving import image_set, png, settings_in, stub_box, upload

PUBLIC = {"GET /livez", "GET /readyz", "GET /openapi.json", "GET /docs"}
"""Told to anybody."""

NEEDS = {
    "POST /v1/logits": Scope.LOGITS_READ,
    "POST /v1/texts/check": Scope.LOGITS_READ,
    "POST /v1/images": Scope.IMAGES_WRITE,
    "POST /v1/images/missing": Scope.IMAGES_WRITE,
    "POST /v1/image-sets": Scope.IMAGES_WRITE,
    "GET /v1/image-sets/{set_id}": Scope.IMAGES_WRITE,
    "GET /v1/image-sets": Scope.IMAGES_WRITE,
    "DELETE /v1/image-sets/{set_id}": Scope.IMAGES_WRITE,
    "DELETE /v1/images/{image_id}": Scope.IMAGES_WRITE,
    "GET /v1/usage": Scope.USAGE_READ,
    "GET /v1/usage/events": Scope.USAGE_READ,
    "POST /v1/admin/keys": Scope.ADMIN,
    "GET /v1/admin/keys": Scope.ADMIN,
    "GET /v1/admin/keys/{key_id}": Scope.ADMIN,
    "PATCH /v1/admin/keys/{key_id}": Scope.ADMIN,
    "POST /v1/admin/keys/{key_id}/rotate": Scope.ADMIN,
    "POST /v1/admin/keys/{key_id}/revoke": Scope.ADMIN,
    "GET /v1/admin/acts": Scope.ADMIN,
    "GET /v1/admin/audit": Scope.ADMIN,
    "GET /v1/models": None,
    "GET /v1/models/{model_id}": None,
    "GET /v1/key": None,
}
"""The scope of every other route; None: any key that is good."""

BODIES = ["nothing", "a good body", "nonsense"]
"""What is sent along must make no difference to who is let in."""


@pytest.fixture(scope="module")
def app(tmp_path_factory):
    settings = settings_in(tmp_path_factory.mktemp("access"))
    return create_app(settings, stub_box(settings))


@pytest.fixture(scope="module")
def client(app):
    with TestClient(app, raise_server_exceptions=False) as client:
        yield client


@pytest.fixture(scope="module")
def keys(app, client):
    """Tokens by what is wrong with them."""
    made = services_of(app).keys
    revoked = made.create("ann", 10)
    made.revoke(revoked.key.id)
    past = datetime.now(UTC) - timedelta(days=1)
    good = made.create("ann", 10).token
    return {
        "absent": None,
        "empty": "Bearer ",
        "another scheme": "Basic YTpi",
        "malformed": "Bearer craft_short",
        "mistyped": f"Bearer {good[:-1]}{'A' if good[-1] != 'A' else 'B'}",
        "unknown": f"Bearer {mint_token()}",
        "revoked": f"Bearer {revoked.token}",
        "expired": f"Bearer {made.create('ann', 10, expires_at=past).token}",
        "good": f"Bearer {good}",
    }


@pytest.fixture(scope="module")
def known(app, client, keys):
    """Parameters that name what exists, and ones that name nothing."""
    made = image_set(client, Authorization=keys["good"])
    [image] = upload(client, [png(0)], Authorization=keys["good"])
    key_id = services_of(app).keys.create("bob", 1).key.id
    return [
        {"set_id": made, "image_id": image, "model_id": "stub::0", "key_id": key_id},
        {
            "set_id": "set_" + "0" * 32,
            "image_id": "0" * 64,
            "model_id": "no such model",
            "key_id": "no such key",
        },
    ]


def served(routes):
    """Methods and paths of routes, those of included routers too."""
    found = set()
    for route in routes:
        if inner := getattr(route, "original_router", None):
            found |= served(inner.routes)
        else:
            found |= {f"{method} {route.path}" for method in route.methods - {"HEAD"}}
    return found


def ask(client, route, authorization, *, names, body="nothing"):
    method, path = route.split(" ")
    headers = {} if authorization is None else {"Authorization": authorization}
    content = {
        "nothing": b"",
        "a good body": b'{"ids": ["' + b"0" * 64 + b'"]}',
        "nonsense": b"\xff",
    }
    headers["Content-Type"] = "application/json"
    return client.request(method, path.format(**names), headers=headers, content=content[body])


def test_every_route_is_in_a_table(app):
    found = served(app.routes)
    assert found == PUBLIC | NEEDS.keys()
    assert len(found) > len(app.openapi()["paths"])


@pytest.mark.parametrize("route", sorted(PUBLIC))
def test_what_is_public_needs_no_key(client, route):
    assert ask(client, route, None, names={}).status_code == 200


@pytest.mark.parametrize("route", NEEDS)
@pytest.mark.parametrize(
    "fault",
    ["absent", "empty", "another scheme", "malformed", "mistyped", "unknown", "revoked", "expired"],
)
def test_without_a_good_key_nothing_is_reported(client, keys, known, route, fault):
    """The same words whatever exists and whatever is sent, so that nothing can be learnt."""
    reported = set()
    for names in known:
        for body in BODIES:
            reply = ask(client, route, keys[fault], names=names, body=body)
            assert reply.status_code == 401
            assert reply.headers["content-type"] == "application/problem+json"
            assert reply.headers["www-authenticate"] == "Bearer"
            problem = reply.json()
            assert problem["code"] == "invalid_key"
            del problem["request_id"]
            reported.add(str(problem))
    assert len(reported) == 1


def test_unknown_revoked_and_expired_keys_are_reported_the_same(client, keys):
    faults = ["mistyped", "malformed", "unknown", "revoked", "expired"]
    replies = [ask(client, "GET /v1/key", keys[fault], names={}).json() for fault in faults]
    assert len({reply["detail"] for reply in replies}) == 1


def others(scope):
    """Scopes that a key can have without this one, and all that it can have with them."""
    clients = [one for one in CLIENT_SCOPES if one != scope]
    return [clients] if scope is Scope.ADMIN else [clients, [Scope.ADMIN]]


@pytest.mark.parametrize(
    ("route", "scopes"),
    [(route, scopes) for route, scope in NEEDS.items() if scope for scopes in others(scope)],
)
def test_a_key_without_the_scope_is_refused_before_anything_is_reported(
    app, client, known, route, scopes
):
    poor = f"Bearer {services_of(app).keys.create('ann', 10, scopes=scopes).token}"
    reported = set()
    for names in known:
        for body in BODIES:
            reply = ask(client, route, poor, names=names, body=body)
            assert reply.status_code == 403
            assert reply.headers["content-type"] == "application/problem+json"
            problem = reply.json()
            assert problem["code"] == "scope_denied"
            assert NEEDS[route] in problem["detail"]
            del problem["request_id"]
            reported.add(str(problem))
    assert len(reported) == 1


@pytest.mark.parametrize("route", NEEDS)
def test_a_good_key_with_the_scope_is_let_in(app, client, known, route):
    scopes = [NEEDS[route]] if NEEDS[route] else [Scope.USAGE_READ]
    good = f"Bearer {services_of(app).keys.create('ann', 10, scopes=scopes).token}"
    assert ask(client, route, good, names=known[0]).status_code not in {401, 403}


@pytest.mark.parametrize(
    "path", ["/", "/v1", "/v1/nothing", "/v1/logits/", "/v2/logits", "/metrics", "/admin"]
)
def test_elsewhere_there_is_nothing(client, path):
    for method in ("GET", "POST", "DELETE"):
        reply = client.request(method, path, follow_redirects=False)
        assert reply.status_code == 404
        assert reply.json()["code"] == "not_found"
