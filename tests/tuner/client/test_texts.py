"""Texts asked about before anything is uploaded: what is sent, what is said, what nobody knows."""

import pytest

from craft_shared import wire
from craft_shared.limits import MAX_TEXTS_PER_CHECK
from craft_shared.messages import RefusedText, TextsReply, TextsRequest
from craft_tuner import methods
from craft_tuner.blackbox import Texts, Wording
from craft_tuner.client.texts import TextCheck, judge, requests
from craft_tuner.config.fit_config import build
from craft_tuner.errors import AccessDenied, DataError, UsageError
from craft_tuner.plan import Workload, of_key
from craft_tuner.texts import anchors, imagenet_templates
from tests.support.tuner_server import Answer, FakeServer, model_card, refuses, transport_to

NAMES = ("ox", "sea lion", "cat")
TEXTS = Texts(NAMES)
PLAIN = TEXTS.template


def reply(*refused, longest=90, context=None):
    return TextsReply(model="m", longest=longest, most=77, context=context, refused=refused)


def too_many(class_name, prompt=0, detail="'a photo of a ...' takes 90 tokens, at most 77 fit"):
    code = "too_many_tokens"
    return RefusedText(prompt=prompt, class_name=class_name, code=code, detail=detail)


# --- what is said -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("漢" * 40, f"'{'漢' * 40}'"),
        ("漢" * 41, f"'{'漢' * 37}...'"),
        ("😀" * 90, f"'{'😀' * 37}...'"),
        ("Llanfairpwllgwyngyll", "'Llanfairpwllgwyngyll'"),
    ],
)
def test_a_name_that_is_too_long_is_said_with_count_limit_and_what_to_do(name, shown):
    wording = Wording(Texts(("ox", name)), (PLAIN,))
    with pytest.raises(DataError) as caught:
        judge(reply(too_many(1)), wording)
    assert str(caught.value) == (
        f"class name {shown} is too long for the model: 'a photo of a ...' takes 90 tokens, at "
        "most 77 fit; give a shorter one with --class-names FILE"
    )


def test_others_are_counted_once_each():
    refused = [too_many(0), too_many(0, prompt=1), too_many(2), too_many(2, prompt=1)]
    with pytest.raises(DataError, match=r"'ox' is too long.* \(1 more are too long\)$"):
        judge(reply(*refused), Wording(TEXTS, (PLAIN, "{}")))


def test_what_cannot_be_read_is_said_in_the_servers_words():
    odd = RefusedText(prompt=0, class_name=1, code="invalid_request", detail="20 semicolons")
    with pytest.raises(DataError, match="'sea lion' cannot be asked about: 20 semicolons"):
        judge(reply(odd), Wording(TEXTS, (PLAIN,)))


@pytest.mark.parametrize("found", [1, 3, 5, 64])
def test_a_context_of_other_tokens_than_its_offsets_is_refused(found):
    with pytest.raises(UsageError, match=f"has {found} tokens and offsets for 4; set context_tok"):
        judge(reply(context=found), Wording(TEXTS, context_tokens=4))


@pytest.mark.parametrize("wording", [Wording(TEXTS, context_tokens=4), Wording(TEXTS, (PLAIN,))])
def test_what_fits_is_nothing_to_say(wording):
    judge(reply(longest=77, context=4), wording)


def test_a_server_that_names_a_class_that_is_not_there_is_not_believed():
    judge(reply(too_many(7)), Wording(TEXTS, (PLAIN,)))


# --- what is sent -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("classes", "templates", "limits", "sizes"),
    [
        (1000, 8, {}, [8]),
        (1000, 80, {}, [8] * 10),
        (3, 1, {}, [1]),
        (3, 600, {"prompts": 1000}, [256, 256, 88]),
        (3, 250, {"prompts": 100}, [100, 100, 50]),
        (10, 7, {"texts": 20}, [2, 2, 2, 1]),
        (10_000, 2, {}, [1, 1]),
    ],
)
def test_a_wording_goes_in_few_requests_within_the_limits(classes, templates, limits, sizes):
    names = tuple(f"n{number}" for number in range(classes))
    asked = tuple(f"{number} {{}}" for number in range(templates))
    sent = list(requests(Wording(Texts(names), asked), model_card(**limits)))
    assert [len(each.prompts.templates) for each in sent] == sizes
    assert tuple(text for each in sent for text in each.prompts.templates) == asked
    assert all(tuple(each.class_names) == names for each in sent)
    assert classes > MAX_TEXTS_PER_CHECK or max(sizes) * classes <= MAX_TEXTS_PER_CHECK


def test_soft_prompts_are_asked_about_by_their_words():
    [sent] = requests(Wording(Texts(NAMES, "one of", "!"), context_tokens=2), model_card())
    said = sent.model_dump(exclude_none=True)
    assert said["prompts"] == {"kind": "soft", "context": "one of", "suffix": "!"}


def test_the_same_words_are_asked_about_once():
    server = FakeServer()
    check = TextCheck(transport_to(server), model_card())
    for _ in range(3):
        check.check([Wording(TEXTS, (PLAIN,)), Wording(TEXTS, context_tokens=4)])
    assert [wire.parse(TextsRequest, each.body).prompts.kind for each in server.asked] == [
        "text",
        "soft",
    ]
    assert server.spent.queries == 0


@pytest.mark.parametrize("status", [404, 405])
@pytest.mark.parametrize("form", ["problem", "gateway"])
def test_an_older_server_is_asked_once_and_nothing_is_known(status, form, monkeypatch):
    server = FakeServer()
    code = {404: "not_found", 405: "method_not_allowed"}[status]
    answer = refuses(code)(server, None)
    if form == "gateway":
        answer = Answer(status, b"<h1>nothing here</h1>", "text/html")
    monkeypatch.setattr(server, "honest", lambda _: answer)
    check = TextCheck(transport_to(server), model_card())
    for _ in range(2):
        check.check([Wording(TEXTS, (PLAIN,)), Wording(Texts(("漢" * 900,)), (PLAIN,))])
    assert len(server.asked) == 1


def test_what_the_key_may_not_ask_is_refused_as_a_purchase_is(monkeypatch):
    server = FakeServer()
    answer = refuses("prompt_kind_denied")(server, None)
    monkeypatch.setattr(server, "honest", lambda _: answer)
    with pytest.raises(AccessDenied):
        TextCheck(transport_to(server), model_card()).check([Wording(TEXTS, (PLAIN,))])


# --- what a method will send --------------------------------------------------------------------


def wordings(method, *, kinds=("soft", "text"), **settings):
    card = model_card(classes=2000).model_copy(update={"prompt_kinds": list(kinds)})
    config = build({"method": method, **settings})
    work = Workload(classes=3, shots=48, test_images=30, test_sets=1, bundle=96, **of_key(card))
    chosen = methods.get(method)
    return chosen.wordings(config, chosen.plan(config, work), TEXTS, card)


@pytest.mark.parametrize("method", ["craft", "bbt", "spsa", "zip"])
def test_a_search_of_offsets_sends_its_context(method):
    assert wordings(method) == (Wording(TEXTS, context_tokens=4),)
    [words] = wordings(method, context_tokens=7)
    assert words.context_tokens == 7


@pytest.mark.parametrize("method", ["zero_shot", "head_only"])
def test_the_plain_prompt_is_text(method):
    assert wordings(method) == (Wording(TEXTS, (PLAIN,)),)


def test_an_ensemble_sends_its_templates_beside_the_plain_one():
    [words] = wordings("template_ensemble", ensemble_size=3)
    assert words == Wording(TEXTS, (PLAIN, *imagenet_templates()[:3]))


def test_a_text_search_sends_its_first_generation_beside_the_plain_one():
    [words] = wordings("text_search", population=6)
    assert (words.texts, words.templates[0]) == (TEXTS, PLAIN)
    assert 6 <= len(words.templates) <= 7


@pytest.mark.parametrize("method", ["bank", "auto"])
@pytest.mark.parametrize("kinds", [("soft", "text"), ("soft",), ("text",)])
def test_a_bank_sends_its_names_with_soft_prompts_or_templates(method, kinds):
    [words] = wordings(method, kinds=kinds, bank_prompts=4, bank_names=20)
    known = [name for name in anchors() if name not in NAMES][:20]
    assert words.texts.class_names == (*NAMES, *known)
    if "soft" in kinds:
        assert (words.templates, words.context_tokens) == ((), 4)
    else:
        others = [text for text in imagenet_templates() if text != PLAIN][:3]
        assert words.templates == (PLAIN, *others)


def test_a_plan_of_auto_that_asks_nothing_about_shots_sends_the_plain_prompt():
    assert wordings("auto", budget=1) == (Wording(TEXTS, (PLAIN,)),)
