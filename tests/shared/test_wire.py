"""The two bodies of POST /v1/logits, and what a server must refuse of them."""

import json
import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from craft_shared import tensors, wire
from craft_shared.errors import CODES, Code, Problem, Refusal
from craft_shared.limits import MAX_COLONS
from craft_shared.messages import (
    Budget,
    Budgets,
    Counters,
    ImageSetRequest,
    LogitsReply,
    LogitsRequest,
    Manifest,
    ModelCard,
    SoftPrompts,
    TextPrompts,
    UsageEvent,
)
from craft_shared.tensors import MalformedTensors
from craft_shared.testing import attacks, valid_request

SET = "set_" + "0" * 32


def soft_request(**fields):
    return LogitsRequest.model_validate(valid_request(**fields))


def reply(**fields):
    budget = Budget(limit=10, used=2, held=0, remaining=8)
    values = {
        "model": "stub::0",
        "digest": "d",
        "image_set": SET,
        "cost": Counters(queries=2, calls=1, logit_vectors=6, texts=4),
        "budgets": Budgets(queries=budget),
        "replayed": False,
    }
    return LogitsReply(**(values | fields))


@pytest.mark.parametrize("attack", list(attacks()), ids=lambda attack: attack.name)
def test_each_attack_is_refused_with_its_code_and_a_reason(attack):
    with pytest.raises(Refusal) as caught:
        wire.decode_request(attack.body)
    assert caught.value.code is attack.code
    assert attack.says in caught.value.detail


@given(
    hnp.arrays(
        np.float32,
        hnp.array_shapes(min_dims=3, max_dims=3, max_side=5),
        elements=st.floats(width=32, allow_nan=False, allow_infinity=False),
    ),
    st.lists(st.text(min_size=1, max_size=20), min_size=1, max_size=5),
)
def test_a_soft_request_survives_the_wire(offsets, names):
    request = soft_request(class_names=names)
    found, found_offsets = wire.decode_request(wire.encode_request(request, offsets))
    assert found == request
    assert found_offsets.tobytes() == offsets.tobytes()


def test_a_text_request_survives_the_wire():
    request = soft_request(prompts={"kind": "text", "templates": ["a {}", "{}."]})
    assert wire.decode_request(wire.encode_request(request)) == (request, None)


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_a_reply_survives_the_wire(dtype):
    logits = np.arange(12, dtype=dtype).reshape(2, 3, 2)
    found, found_logits = wire.decode_reply(wire.encode_reply(reply(), logits))
    assert found == reply()
    assert found_logits.dtype == dtype
    assert (found_logits == logits).all()


def test_a_truncated_reply_is_malformed():
    body = wire.encode_reply(reply(), np.zeros((1, 1, 1), np.float32))
    with pytest.raises(MalformedTensors, match="ends at byte"):
        wire.decode_reply(body[:-1])


@pytest.mark.parametrize(
    ("arrays", "metadata", "says"),
    [
        ({}, {}, "one tensor"),
        ({"logits": np.zeros((1, 1), np.float32)}, {}, "one tensor"),
        ({"logits": np.zeros((1, 1, 1), np.float32)}, {"reply": "{}"}, "reply metadata"),
    ],
)
def test_what_is_not_a_reply_is_malformed(arrays, metadata, says):
    with pytest.raises(MalformedTensors, match=says):
        wire.decode_reply(tensors.encode(arrays, metadata))


def test_json_offsets_become_float32():
    request = soft_request(prompts=SoftPrompts(context="a", offsets=[[[1, 2.5]]]).model_dump())
    offsets = wire.offsets_from_json(request)
    assert offsets.dtype == np.float32
    assert offsets.tolist() == [[[1.0, 2.5]]]


def test_text_prompts_have_no_offsets():
    request = soft_request(prompts=TextPrompts(templates=["{}"]).model_dump())
    assert wire.offsets_from_json(request) is None


@pytest.mark.parametrize(
    ("offsets", "code", "says"),
    [
        (None, Code.INVALID_REQUEST, "need prompts.offsets"),
        ([[[1.0], [1.0, 2.0]]], Code.INVALID_REQUEST, "different lengths"),
        ([], Code.INVALID_REQUEST, "shape"),
        ([[[1e39]]], Code.NON_FINITE_OFFSETS, "offsets[0, 0, 0] is inf"),
    ],
)
def test_bad_json_offsets_are_refused(offsets, code, says):
    request = soft_request(prompts={"kind": "soft", "context": "a", "offsets": offsets})
    with pytest.raises(Refusal) as caught:
        wire.offsets_from_json(request)
    assert caught.value.code is code
    assert says in caught.value.detail


def test_a_refusal_names_field_value_rule_and_how_many_more():
    with pytest.raises(Refusal) as caught:
        wire.parse(Manifest, json.dumps({"ids": ["x" * 100, 3], "more": 1}))
    assert caught.value.param == "ids[0]"
    assert "pattern" in caught.value.detail
    assert "x..." in caught.value.detail
    assert caught.value.detail.endswith("(1 more)")


def test_of_a_million_faults_in_a_list_one_is_described():
    """Describing each took 33 seconds and 5 gigabytes for 8 megabytes of JSON."""
    names = json.dumps(valid_request(class_names=[0] * 1_000_000))
    with pytest.raises(Refusal) as caught:
        wire.parse(LogitsRequest, names)
    assert caught.value.param == "class_names[0]"
    assert "more)" not in caught.value.detail


@pytest.mark.parametrize("text", ["str", "bytes"])
def test_a_message_of_more_fields_than_any_has_is_refused_unread(text):
    fields = "{" + ",".join(f'"{number}":0' for number in range(MAX_COLONS + 1)) + "}"
    with pytest.raises(Refusal) as caught:
        wire.parse(Manifest, fields if text == "str" else fields.encode())
    assert caught.value.code is Code.INVALID_REQUEST
    assert f"{MAX_COLONS + 1} colons" in caught.value.detail


def test_a_body_that_is_not_an_object_is_refused_as_a_whole():
    with pytest.raises(Refusal) as caught:
        wire.parse(Manifest, b"[]")
    assert caught.value.param == "body"


def test_every_code_has_a_rule_and_retryable_ones_are_those_of_the_protocol_page():
    assert CODES.keys() == set(Code)
    assert {code for code, rule in CODES.items() if rule.retryable} == {
        Code.REQUEST_IN_PROGRESS,
        Code.RATE_LIMITED,
        Code.BUDGET_HELD,
        Code.OVERLOADED,
        Code.DRAINING,
        Code.NOT_READY,
        Code.DEADLINE_EXCEEDED,
    }


def test_a_refusal_becomes_a_problem_document():
    refusal = Refusal(Code.TOO_LARGE, "9 bytes, at most 8", param="body", retry_after_s=3)
    assert refusal.status == 413
    problem = refusal.problem("req_1")
    assert problem == Problem.model_validate_json(problem.model_dump_json())
    assert problem.model_dump() == {
        "type": "urn:craft:error:too_large",
        "title": "The request is larger than this server allows",
        "status": 413,
        "detail": "9 bytes, at most 8",
        "code": "too_large",
        "retryable": False,
        "param": "body",
        "request_id": "req_1",
    }


# --- replies of servers that know less ----------------------------------------------------------

OLD_REPLY = """{"model": "stub::0", "digest": "d", "image_set": "%s", "replayed": false,
    "cost": {"queries": 2, "calls": 1, "logit_vectors": 6, "texts": 4},
    "budgets": {"queries": {"limit": 10, "used": 2, "held": 0, "remaining": 8},
                "logit_vectors": null}}"""
OLD_CARD = """{"id": "m", "digest": "d", "context_width": 8, "context_length": 77, "image_size": 8,
    "logit_scale": 100.0, "prompt_kinds": ["soft"], "dtype": "float32", "text_path": "exact",
    "limits": {"prompts": 1, "classes": 1, "images": 1, "image_bytes": 1, "image_pixels": 1,
               "body_bytes": 1, "texts": 1, "logits": 1}}"""
OLD_EVENT = """{"id": 1, "at": "2026-01-01T00:00:00Z", "request_id": "r", "model": "m",
    "image_set": "s", "prompts": 1, "images": 1, "classes": 1, "queries": 1, "logit_vectors": 1,
    "texts": 1, "tag": "", "seconds": 1.0}"""
"""As servers wrote them before texts and logits were limits."""


def test_a_reply_without_the_newer_counters_and_limits_is_read():
    found = wire.parse(LogitsReply, OLD_REPLY % SET)
    assert (found.cost.texts, found.cost.logits) == (4, 0)
    assert (found.budgets.texts, found.budgets.logits) == (None, None)


def test_a_card_and_an_event_without_the_newer_fields_are_read():
    card = wire.parse(ModelCard, OLD_CARD)
    assert (card.class_names, card.limits.min_classes, card.output) == (None, 1, "logits")
    assert card.reply_dtypes == ["float32", "float16"]
    assert wire.parse(UsageEvent, OLD_EVENT).logits == 0


SOFT = '{"kind":"soft","context":"a","offsets":%s}'
BODY = '{"model":%s,"image_set":"set_%s","class_names":%s,"prompts":%s}'


def many(item, count):
    """A list in JSON."""
    return f"[{','.join([item] * count)}]"


def body_of(*, model='"m"', names='["a"]', prompts='{"kind":"text","templates":["{}"]}'):
    return (BODY % (model, "0" * 32, names, prompts)).encode()


@pytest.mark.parametrize(
    ("body", "detail"),
    [
        (body_of(names=many('"a"', 10**6)), "quotes, at most 262144"),
        (body_of(prompts=SOFT % f"[[{many('0', 4 * 10**6)}]]"), "commas, at most 1048576"),
        (body_of(prompts=SOFT % many("[[0]]", 10**6)), "brackets, at most 131072"),
        (body_of(model=many("0", 10**6)), "got [0, 0, 0"),
        (body_of(model="1" * 8_000_000), "got b'{"),
    ],
)
def test_no_body_holds_the_interpreter_for_long(body, detail):
    """Eight megabytes took 0.1 s (names) to 2.7 s (lists), in one piece."""
    began = time.thread_time()
    with pytest.raises(Refusal) as caught:
        wire.parse(LogitsRequest, body)
    assert time.thread_time() - began < 0.5
    assert caught.value.code is Code.INVALID_REQUEST
    assert detail is None or detail in caught.value.detail


def test_the_largest_messages_within_the_bounds_are_read():
    ids = [f"{number:064x}" for number in range(100_000)]
    body = ImageSetRequest(images=ids).model_dump_json().encode()
    assert wire.parse(ImageSetRequest, body).images == ids
    numbers = many(many(many("0", 12), 75), 1024)
    request = wire.parse(LogitsRequest, body_of(prompts=SOFT % numbers))
    assert wire.offsets_from_json(request).shape == (1024, 75, 12)


def test_a_header_of_many_entries_is_refused_before_it_is_read():
    header = json.dumps({str(number): 0 for number in range(200_000)}).encode()
    with pytest.raises(Refusal, match="header with 199999 commas, allowed: 131072"):
        wire.decode_request(len(header).to_bytes(8, "little") + header)
