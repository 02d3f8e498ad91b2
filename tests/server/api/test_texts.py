"""POST /v1/texts/check: the refusals of a purchase, in its words, before anything is paid."""

import asyncio
import json
import threading
from itertools import product

import pytest

from craft_server.api.services import services_of
from craft_server.engine.texts import MOST_REFUSED
from craft_server.models.stub import LENGTH, N_CTX, WIDTH
from craft_shared.errors import PROBLEM_MEDIA_TYPE
from craft_shared.messages import Output, Policy, TextsReply
from tests.support.serving import image_set, text_request, words_of

pytestmark = pytest.mark.slow  # the whole boundary

LONG = "very " * LENGTH + "x"
TEMPLATES = {
    "one": ["a photo of a {}."],
    "several": ["a {}.", "art of the {}, painted by hand", "{}"],
    "the second is too long": ["a {}.", f"{LONG} {{}}"],
    "all are too long": [f"{LONG} {{}}", f"{{}} {LONG}"],
}
NAMES = {
    "short": ["cat", "sea lion"],
    "one is too long": ["cat", LONG[:250], "dog"],
    "at the limit": ["a " * (LENGTH - 6) + "b", "cat"],
    "one more": ["a " * (LENGTH - 4) + "b", "cat"],
    "no words of ours": ["漢字", "😀 😀", "ß\u0301", "&amp;"],
}
SOFT = {"kind": "soft", "context": "a photo of a", "suffix": "."}


def post(client, request, **headers):
    return client.post("/v1/texts/check", json=request, headers=headers)


def buy(client, request, name="one"):
    if request["prompts"]["kind"] == "soft":
        offsets = [[[0.0] * WIDTH] * N_CTX]
        request = request | {"prompts": request["prompts"] | {"offsets": offsets}}
    return client.post("/v1/logits", json=request, headers={"Idempotency-Key": name})


def asked(set_id, **fields):
    return text_request(set_id) | fields


def spent(client):
    return client.get("/v1/key").json()["budgets"], client.get("/v1/usage").json()


def test_what_it_takes_is_sold_and_what_it_refuses_is_refused_in_the_same_words(client):
    set_id = image_set(client, 1)
    prompts = [{"kind": "text", "templates": each} for each in TEMPLATES.values()] + [SOFT]
    for number, (words, names) in enumerate(product(prompts, NAMES.values())):
        request = asked(set_id, prompts=words, class_names=names)
        reply = TextsReply.model_validate_json(post(client, words_of(request)).content)
        sold = buy(client, request, f"n{number}")
        texts = len(words.get("templates", "1")) * len(names)
        assert (reply.most, len(reply.refused) <= texts) == (LENGTH, True)
        assert reply.context == (N_CTX if words is SOFT else None)
        if sold.status_code == 200:
            assert (reply.refused, reply.longest <= LENGTH) == ([], True)
        else:
            first = reply.refused[0]
            problem = sold.json()
            assert (first.code, first.detail) == (problem["code"], problem["detail"])
            assert reply.longest > LENGTH
            text = names[first.class_name].split()[0]
            assert first.prompt < len(words.get("templates", "1"))
            assert text in first.detail or LONG[:9] in first.detail


@pytest.mark.parametrize(
    ("prompts", "classes", "status"),
    [(8, 1024, 200), (9, 1024, 413), (4, 2048, 200), (5, 2048, 413)],
)
def test_so_many_texts_are_checked_at_once(app, client, prompts, classes, status):
    services_of(app).pacing.turn = lambda _: asyncio.sleep(0)
    words = {"kind": "text", "templates": ["{}"] * prompts}
    request = words_of(text_request("x"), class_names=["a"] * classes, prompts=words)
    reply = post(client, request)
    assert reply.status_code == status
    if status == 413:
        texts = f"{prompts} prompts x {classes} classes = {prompts * classes} texts"
        assert reply.json()["detail"].startswith(f"{texts}, at most 8192 in one request")


def test_nothing_is_charged_and_no_budget_is_needed(client, mint_key):
    set_id = image_set(client, 1)
    assert buy(client, asked(set_id)).status_code == 200
    before = spent(client)
    for names in NAMES.values():
        assert post(client, words_of(asked(set_id, class_names=names))).status_code == 200
    assert spent(client) == before
    empty = {"Authorization": f"Bearer {mint_key(0).token}"}
    assert post(client, words_of(asked(set_id)), **empty).status_code == 200


DENIED = {
    "model": (Policy(models=["other::1"]), {}, "model_denied"),
    "unknown model": (Policy(), {"model": "other::1"}, "unknown_model"),
    "kind": (Policy(prompt_kinds=["soft"]), {}, "prompt_kind_denied"),
    "other names": (Policy(class_names=["cat", "owl"]), {}, "class_names_denied"),
    "too few names": (Policy(output=Output(kind="top_k", k=2)), {}, "class_names_denied"),
    "too many names": (Policy(max_classes=1), {}, "too_large"),
    "classes of the server": (Policy(), {"class_names": ["a"] * 100_000}, "too_large"),
    "prompts of the server": (
        Policy(),
        {"prompts": {"kind": "text", "templates": ["{}"] * 1025}},
        "too_large",
    ),
}


@pytest.mark.parametrize("case", DENIED)
def test_a_key_may_check_what_it_may_ask_and_no_more(client, mint_key, case):
    policy, fields, code = DENIED[case]
    request = asked(image_set(client, 1), **fields)
    client.headers["Authorization"] = f"Bearer {mint_key(10**7, policy=policy).token}"
    problem, sold = post(client, words_of(request)).json(), buy(client, request).json()
    assert problem["code"] == code
    assert [problem[name] for name in ("code", "detail")] == [sold["code"], sold["detail"]]


BROKEN = {
    "no names": ({"class_names": []}, 400, "invalid_request"),
    "an empty name": ({"class_names": [""]}, 400, "invalid_request"),
    "a name of 257 letters": ({"class_names": ["x" * 257]}, 400, "invalid_request"),
    "a name of 10 MB": ({"class_names": ["x" * 10**7]}, 413, "too_large"),
    "a template without a gap": (
        {"prompts": {"kind": "text", "templates": ["a"]}},
        400,
        "invalid_request",
    ),
    "a million names": ({"class_names": ["x"] * 10**6}, 400, "invalid_request"),
    "offsets": ({"prompts": SOFT | {"offsets": [[[0.0]]]}}, 400, "invalid_request"),
    "images": ({"image_set": "set_" + "0" * 32}, 400, "invalid_request"),
    "no prompts": ({"prompts": {"kind": "text", "templates": []}}, 400, "invalid_request"),
    "a long context": ({"prompts": SOFT | {"context": "x" * 1025}}, 400, "invalid_request"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_request_is_refused_in_a_sentence(client, case):
    fields, status, code = BROKEN[case]
    reply = post(client, words_of(text_request("set_" + "0" * 32), **fields))
    problem = reply.json()
    assert reply.headers["content-type"] == PROBLEM_MEDIA_TYPE
    assert (reply.status_code, problem["code"]) == (status, code)
    assert len(problem["detail"]) < 400


def test_refused_texts_are_told_up_to_a_number(client):
    names = [f"{LONG[:240]} {number}" for number in range(1000)]
    request = words_of(text_request("set_" + "0" * 32), class_names=names)
    reply = post(client, request | {"prompts": {"kind": "text", "templates": [LONG + "{}"]}})
    assert len(reply.json()["refused"]) == MOST_REFUSED
    assert len(reply.content) < 40_000


def test_texts_are_read_at_the_desk_after_as_many_turns_as_they_are_worth(app, client, box):
    threads, owners = set(), []
    count = box.count_in_steps

    def watched(prompts, names):
        threads.add(threading.current_thread().name)
        return (yield from count(prompts, names))

    async def turn(owner):
        owners.append(owner)
        await asyncio.sleep(0)

    box.count_in_steps = watched
    services_of(app).pacing.turn = turn

    def turns(templates, names):
        owners.clear()
        request = words_of(text_request("set_" + "0" * 32), class_names=names)
        request["prompts"] = {"kind": "text", "templates": templates}
        assert post(client, request).status_code == 200
        return len(owners) - 1  # one is every request's

    assert turns(["a {}."], ["cat"]) == 0
    assert turns(["a {}."] * 8, ["cat"] * 1000) == 8000 // 256
    assert turns(["{} " + "x" * 1000] * 16, ["cat"] * 16) == 16 * 16 * 1006 // 2**14
    assert set(owners) == {"ann"}
    assert threads == {"desk"}


@pytest.mark.parametrize("settings", [{"key_connections": 2}], indirect=True)
def test_who_asks_much_at_a_time_is_told_to_come_again_and_others_are_served(
    app, client, box, mint_key
):
    """Two of a key are in work; the third is refused at once, and another owner is served."""
    come, go = threading.Semaphore(0), threading.Event()
    count = box.count_in_steps

    def held(prompts, names):
        if names[0] == "held":
            come.release()
            while not go.is_set():
                yield
        return (yield from count(prompts, names))

    box.count_in_steps = held
    request = words_of(text_request("set_" + "0" * 32))
    slow = request | {"class_names": ["held", "dog"]}
    waiting = [threading.Thread(target=post, args=(client, slow)) for _ in range(2)]
    for thread in waiting:
        thread.start()
    for _ in waiting:
        assert come.acquire(timeout=30)
    refused = post(client, request)
    bob = f"Bearer {mint_key(1, owner='bob').token}"
    served = post(client, request, Authorization=bob)
    go.set()
    for thread in waiting:
        thread.join(30)
    assert (refused.status_code, refused.json()["code"]) == (429, "rate_limited")
    assert refused.headers["retry-after"] == "1"
    assert served.status_code == 200


def test_the_reply_is_small_and_says_what_a_client_needs(client):
    request = words_of(text_request("set_" + "0" * 32), prompts=SOFT, class_names=["sea lion"])
    assert json.loads(post(client, request).content) == {
        "model": "stub::0",
        "longest": 8,
        "most": LENGTH,
        "context": N_CTX,
        "refused": [],
    }
