"""The black-box claim: nothing but logits, cards and usage can leave the server.

Two proofs. The OpenAPI document: every number that any reply may hold is on the list below, and
those that depend on weights are the logits and the logit scale. Real replies: every byte that every
route sends is searched for any two neighbouring values of features, embeddings or weights.
"""

import json

import numpy as np
import pytest
from starlette.testclient import TestClient

from craft_server.accounts.identity import Scope
from craft_server.api.services import services_of
from craft_server.app import create_app
from craft_server.models.stub import StubBlackBox
from tests.support.serving import (
    image_set,
    png,
    settings_in,
    soft_body,
    stub_box,
    tensor_headers,
    text_request,
    upload,
    words_of,
)

FLOATS = {
    "LogitsReply.logits": "what is sold",
    "ModelCard.logit_scale": "one number, needed to read logits as probabilities",
    "Output.step": "what logits are rounded to, chosen by the owner",
    "UsageEvent.seconds": "device time",
}
"""Every field of a reply that may hold a number which is not an integer."""

REPLIES = {
    "Act",
    "Acts",
    "Audit",
    "Budget",
    "Budgets",
    "CardLimits",
    "Counters",
    "Discrepancy",
    "FieldChange",
    "Health",
    "ImageSet",
    "ImageSets",
    "KeyInfo",
    "KeyRecord",
    "KeyRecords",
    "LogitsReply",
    "ManifestReply",
    "MintedKey",
    "ModelCard",
    "ModelList",
    "Output",
    "Policy",
    "Problem",
    "RefusedText",
    "StoredImage",
    "TextsReply",
    "UploadReply",
    "UsageBucket",
    "UsageEvent",
    "UsageEvents",
    "UsageReply",
}
"""Every message that a reply may be made of."""


class OpenStub(StubBlackBox):
    """The stub, remembering every secret that passes through it."""

    def __init__(self, settings):
        super().__init__(stub_box(settings).card.limits)
        self.secrets = [self._mixing, self._eye]

    def preprocess(self, image):
        pixels = super().preprocess(image)
        self.secrets.append(pixels)
        return pixels

    def encode_images(self, pixels):
        records = super().encode_images(pixels)
        self.secrets += [np.frombuffer(record, np.float32) for record in records]
        return records

    def encode_texts(self, pieces):
        for prompts, _ in pieces:
            self.secrets += [self._word(text) for row in prompts.plan[0] for text in row]
        encoded = super().encode_texts(pieces)
        self.secrets += [np.asarray(texts) for texts in encoded]
        return encoded

    @staticmethod
    def _word(text):
        from craft_server.models.stub import EMBED, _noise

        return _noise(text, (EMBED,))


def reply_schemas(document):
    """The component schemas that any reply of any route can contain, transitively."""
    found, todo = {}, []
    for methods in document["paths"].values():
        for operation in methods.values():
            todo += refs(operation["responses"])
    while todo:
        name = todo.pop()
        if name not in found:
            found[name] = document["components"]["schemas"][name]
            todo += refs(found[name])
    return found


def refs(node):
    if isinstance(node, dict):
        own = [node["$ref"].rsplit("/", 1)[1]] if "$ref" in node else []
        return own + [name for value in node.values() for name in refs(value)]
    if isinstance(node, list):
        return [name for value in node for name in refs(value)]
    return []


def holds_floats(schema):
    return '"number"' in json.dumps(schema) or schema == {}


@pytest.fixture
def settings(tmp_path):
    return settings_in(tmp_path)


def test_replies_are_made_of_known_messages_and_known_numbers(settings):
    schemas = reply_schemas(create_app(settings, stub_box(settings)).openapi())
    assert schemas.keys() == REPLIES
    floats = {
        f"{name}.{field}"
        for name, schema in schemas.items()
        for field, described in schema["properties"].items()
        if holds_floats(described)
    }
    assert floats == set(FLOATS)


def test_every_reply_is_closed(settings):
    """No reply declares free-form fields, and every JSON body is a declared message."""
    document = create_app(settings, stub_box(settings)).openapi()
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            done = min(operation["responses"])
            if done == "204":  # nothing is sent
                continue
            for media, content in operation["responses"][done]["content"].items():
                if media == "application/json":
                    assert refs(content), f"{method} {path} answers with an undeclared body"
    for name, schema in reply_schemas(document).items():
        assert schema["type"] == "object", name
        assert schema.get("additionalProperties", False) is False, name


def test_no_reply_holds_a_piece_of_the_model(settings):
    box = OpenStub(settings)
    app = create_app(settings, box)
    with TestClient(app) as client:
        sent = b"".join(everything(app, client))
    pairs = {
        flat[index : index + 2].tobytes()
        for secret in box.secrets
        for flat in [np.ravel(np.asarray(secret, np.float32))]
        for index in range(len(flat) - 1)
    }
    assert len(pairs) > 1000
    assert box.image_key.encode() not in sent
    windows = {sent[start : start + 8] for start in range(len(sent))}
    assert not windows & pairs
    texts = {f"{value:.6g}" for pair in pairs for value in np.frombuffer(pair, np.float32)[:1]}
    assert not [text for text in texts if len(text) > 6 and text.encode() in sent]


def test_the_search_would_find_a_leak(settings):
    """The proof above can fail: features put where logits belong are found."""
    box = OpenStub(settings)
    app = create_app(settings, box)
    with TestClient(app) as client:
        set_id = prepared(app, client)
        leaky = np.zeros((1, 3, 2), np.float32)

        def leak(texts, features, **where):
            leaky[0] = features[:, :2]
            return lambda: leaky

        box.logits = leak
        reply = client.post(
            "/v1/logits",
            content=soft_body(set_id, np.zeros((1, 4, 16), np.float32)),
            headers=tensor_headers("leak"),
        )
    assert any(
        np.ravel(np.asarray(secret, np.float32))[:2].tobytes() in reply.content
        for secret in box.secrets
    )


def prepared(app, client):
    token = services_of(app).keys.create("ann", 100).token
    client.headers["Authorization"] = f"Bearer {token}"
    return image_set(client, 3)


def administration(app, client):
    """A reply of every call that an administrator makes."""
    key = services_of(app).keys.create("root", 0, scopes=[Scope.ADMIN])
    admin = {"headers": {"Authorization": f"Bearer {key.token}"}}
    made = client.post("/v1/admin/keys", json={"owner": "bob", "queries_limit": 1}, **admin)
    path = f"/v1/admin/keys/{made.json()['id']}"
    return [
        made,
        client.get("/v1/admin/keys", **admin),
        client.get(path, **admin),
        client.patch(path, json={"queries_limit": 2}, **admin),
        client.post(f"{path}/rotate", json={}, **admin),
        client.post(f"{path}/revoke", **admin),
        client.get("/v1/admin/acts", **admin),
        client.get("/v1/admin/audit", **admin),
    ]


def everything(app, client):
    """The bytes of a good and a bad reply of every route, headers included."""
    set_id = prepared(app, client)
    soft = soft_body(set_id, np.ones((2, 4, 16), np.float32))
    replies = [
        client.post("/v1/logits", content=soft, headers=tensor_headers("one")),
        client.post("/v1/logits", content=soft, headers=tensor_headers("one")),
        client.post("/v1/logits", content=soft[:-1], headers=tensor_headers("two")),
        client.post("/v1/logits", json=text_request(set_id), headers={"Idempotency-Key": "three"}),
        client.post("/v1/texts/check", json=words_of(text_request(set_id))),
        client.post("/v1/texts/check", json={}),
        client.post("/v1/images", files=[("files", b"junk")]),
        client.post("/v1/images", files=[("files", png(9))]),
        client.post("/v1/images/missing", json={"ids": upload(client, [png(8)])}),
        client.post("/v1/image-sets", json={"images": ["0" * 64]}),
        client.get(f"/v1/image-sets/{set_id}"),
        client.get("/v1/models"),
        client.get("/v1/models/stub::0"),
        client.get("/v1/models/other"),
        client.get("/v1/key"),
        client.get("/v1/usage"),
        client.get("/v1/usage/events"),
        client.get("/v1/usage/events", headers={"Accept": "text/csv"}),
        *administration(app, client),
        client.get("/livez"),
        client.get("/readyz"),
        client.get("/openapi.json"),
        client.get("/docs"),
        client.get("/nothing"),
    ]
    asked = {reply.request.url.path.split("/")[2] for reply in replies if "/v1/" in str(reply.url)}
    offered = {path.split("/")[2] for path in app.openapi()["paths"] if path.startswith("/v1/")}
    assert asked == offered
    for reply in replies:
        yield repr(sorted(reply.headers.items())).encode() + reply.content
