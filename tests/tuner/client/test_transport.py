"""A call is sent again only where that is safe and useful, and waits as it is asked to."""

import gc
import re
import weakref
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import httpx
import pytest

from craft_shared.errors import PROBLEM_MEDIA_TYPE, Code, Refusal
from craft_shared.messages import KeyInfo, ModelList
from craft_tuner.client.account import fetch_key
from craft_tuner.client.responses import message
from craft_tuner.client.transport import Call, Patience, Transport
from craft_tuner.config.connection import Connection, check_key, clean_url
from craft_tuner.errors import (
    AccessDenied,
    CraftTunerError,
    NoAnswer,
    ServerUnreachable,
    UsageError,
)
from tests.support.tuner_server import KEY, URL, Answer, FakeServer, Waits, model_card, transport_to

MODELS = Call("GET", "/v1/models")


class Script:
    """Answers one request after the other from a list; the last answer repeats."""

    def __init__(self, *steps):
        self.steps = list(steps)
        self.requests = []

    def __call__(self, request):
        self.requests.append(request)
        step = self.steps.pop(0) if len(self.steps) > 1 else self.steps[0]
        if isinstance(step, Exception):
            raise step
        return httpx.Response(
            step.status,
            content=step.body,
            headers={"content-type": step.media_type, **step.headers},
        )


def a_transport(script, *, waits=None, **options):
    defaults = {"sleep": waits or Waits(), "uniform": lambda: 1.0}
    mock = httpx.MockTransport(script)
    return Transport(Connection(URL, KEY), mock=mock, **(defaults | options))


def good():
    body = ModelList(models=[model_card()]).model_dump_json().encode()
    return Answer(body=body)


def problem(code=Code.OVERLOADED, **headers):
    reply = Refusal(code, "too much at once").problem().model_dump_json().encode()
    return Answer(Refusal(code, "").status, reply, PROBLEM_MEDIA_TYPE, headers)


def ask(script, **options):
    with a_transport(script, **options) as transport:
        return transport.send(MODELS, message(ModelList))


@pytest.mark.parametrize(
    "trouble",
    [
        httpx.ConnectError("refused"),
        httpx.ConnectTimeout("slow"),
        httpx.ReadTimeout("slow"),
        httpx.ReadError("reset"),
        httpx.RemoteProtocolError("peer closed connection"),
        problem(Code.OVERLOADED),
        problem(Code.RATE_LIMITED),
        problem(Code.BUDGET_HELD),
        problem(Code.REQUEST_IN_PROGRESS),
        problem(Code.DRAINING),
        problem(Code.NOT_READY),
        problem(Code.DEADLINE_EXCEEDED),
        Answer(429, b"<html>slow down", "text/html"),
        Answer(500, b"oops", "text/plain"),
        Answer(502, b"<html>bad gateway", "text/html"),
        Answer(503, b"{}"),
        Answer(504, b""),
        Answer(body=good().body[:30]),
    ],
)
def test_troubles_that_pass_are_tried_again(trouble):
    script = Script(trouble, good())
    assert ask(script).models[0].id == "fake::1"
    assert len(script.requests) == 2


@pytest.mark.parametrize(
    "final",
    [
        problem(Code.INVALID_REQUEST),
        problem(Code.INVALID_KEY),
        problem(Code.BUDGET_EXHAUSTED),
        problem(Code.INTERNAL),
        Answer(404, b'{"detail":"Not Found"}'),
        Answer(501, b"oops", "text/plain"),
        Answer(200, b"<html>welcome to nginx", "text/html"),
        Answer(200, b'{"models": "none"}'),
    ],
)
def test_answers_that_will_not_change_are_not_asked_for_again(final):
    script = Script(final, good())
    with pytest.raises(CraftTunerError):
        ask(script)
    assert len(script.requests) == 1


def test_a_retry_is_the_same_request_to_the_byte():
    script = Script(problem(), httpx.ReadTimeout("slow"), good())
    call = Call("POST", "/v1/models", headers={"Idempotency-Key": "abc"}, content=b"body")
    with a_transport(script) as transport:
        transport.send(call, message(ModelList))
    sent = [(request.content, sorted(request.headers.items())) for request in script.requests]
    assert sent[0] == sent[1] == sent[2]
    assert script.requests[2].headers["idempotency-key"] == "abc"


def test_waits_double_up_to_a_cap_and_jitter_spreads_them_down_to_nothing():
    waits, low = Waits(), Waits()
    ask(Script(*[problem()] * 8, good()), waits=waits, patience=Patience(cap_s=8.0))
    ask(Script(*[problem()] * 3, good()), waits=low, uniform=lambda: 0.0)
    assert waits.seconds == [0.5, 1.0, 2.0, 4.0, 8.0, 8.0, 8.0, 8.0]
    assert low.seconds == [0.0, 0.0, 0.0]


NOW = "Sun, 01 Nov 2026 12:00:00 GMT"


@pytest.mark.parametrize(
    ("header", "waited"),
    [
        ("7", 7.0),
        ("100000", 120.0),
        ("0", 0.5),
        ("-3", 0.5),
        ("nan", 0.5),
        ("inf", 0.5),
        ("tomorrow", 0.5),
        ("Sun, 01 Nov 2026 12:00:09 GMT", 9.0),
        ("Sunday, 01-Nov-26 12:00:09 GMT", 9.0),
        ("Sun Nov  1 12:00:09 2026", 0.5),  # no zone: of no clock that is known
        ("Sun, 01 Nov 2026 14:00:09 +0200", 9.0),
        ("Sun, 01 Nov 2026 11:00:00 GMT", 0.5),
        ("Fri, 31 Dec 9999 23:59:59 GMT", 120.0),
        ("Sun, 99 Nov 2026 12:00:09 GMT", 0.5),
    ],
)
@pytest.mark.parametrize(
    "busy", [problem(), Answer(503, b"<html>busy", "text/html"), Answer(429, b"busy", "text/plain")]
)
def test_retry_after_is_a_lower_bound_capped_at_two_minutes(busy, header, waited):
    waits = Waits()
    told = replace(busy, headers={"Retry-After": header, "Date": NOW})
    ask(Script(told, good()), waits=waits)
    assert waits.seconds == [waited]


def test_a_date_counts_from_this_clock_where_the_reply_has_none():
    waits = Waits()
    when = format_datetime(datetime.now(UTC) + timedelta(days=1), usegmt=True)
    ask(Script(problem(**{"Retry-After": when}), good()), waits=waits)
    assert waits.seconds == [120.0]


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504])
@pytest.mark.parametrize(
    ("body", "words"),
    [
        (
            b"<html><head><title>Slow  down</title><style>b{}</style></head>\n<p>Now",
            "Slow down Now",
        ),
        (b"quota &lt;5&gt; used\r\n\x1b[2Jup\x00", "quota <5> used [2Jup"),
        ("\u202ezu viel".encode(), "zu viel"),
        (b"\xff\xfeover", "over"),
        (b"<script>alert('x')</script><!-- no -->stop", "stop"),
        (b"x" * 60_000, "x" * 120 + "..."),
    ],
)
def test_a_gateways_status_and_first_words_are_said(status, body, words):
    with pytest.raises(NoAnswer) as refusal:
        ask(Script(Answer(status, body, "text/html")))
    assert f"after 3 attempts: a gateway answers {status} ({words}); " in str(refusal.value)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("status", "said"), [(503, "503 (Service Unavailable)"), (429, "429 (Too Many Requests)")]
)
def test_a_gateway_without_words_is_said_by_its_status(status, said):
    with pytest.raises(NoAnswer, match=re.escape(f"a gateway answers {said}; ")):
        ask(Script(Answer(status, b"<html><br></html>", "text/html")))


def test_attempts_end_and_say_what_was_last():
    script = Script(problem())
    with pytest.raises(ServerUnreachable, match=r"after 10 attempts: too much at once; try again"):
        ask(script)
    assert len(script.requests) == 10


def test_a_server_that_never_answered_is_given_up_on_early():
    script = Script(httpx.ConnectError("connection refused"))
    with pytest.raises(
        ServerUnreachable, match=r"after 3 attempts: connection refused; check that"
    ):
        ask(script)
    assert len(script.requests) == 3


def test_a_server_that_answered_before_is_waited_for():
    script = Script(good(), *[httpx.ConnectError("restarting")] * 8, good())
    with a_transport(script) as transport:
        transport.send(MODELS, message(ModelList))
        transport.send(MODELS, message(ModelList))
    assert len(script.requests) == 10


def test_each_wait_is_announced_in_a_sentence():
    said = []
    ask(Script(httpx.ReadTimeout("slow"), good()), notice=said.append)
    assert said == [f"{URL}: no reply in time (--timeout); trying again in 0.5 s"]


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (Answer(200, b"<html>", "text/html"), "answers 200 with text/html to GET /v1/models"),
        (Answer(404, b"{}"), "answers 404 with application/json"),
        (Answer(403, b"{}", PROBLEM_MEDIA_TYPE), "answers 403 with application/problem"),
        (Answer(200, b"{}"), "which is not protocol v1; check that --server"),
        (Answer(400, b"", ""), "with no media type"),
        (Answer(302, headers={"Location": "https://else.test/"}), "on to https://else.test/"),
    ],
)
def test_whatever_is_no_craft_server_is_called_so(answer, words):
    with pytest.raises(ServerUnreachable, match=words):
        ask(Script(answer))


def test_every_request_names_the_tuner_its_version_and_the_key():
    script = Script(good())
    ask(script)
    headers = script.requests[0].headers
    assert headers["user-agent"].startswith("craft-tuner/0.")
    assert headers["authorization"] == f"Bearer {KEY}"
    assert headers["accept-encoding"] == "identity"


def test_a_wrong_key_is_said_to_be_wrong():
    transport = transport_to(FakeServer())
    assert isinstance(fetch_key(transport), KeyInfo)
    wrong = Script(problem(Code.INVALID_KEY))
    with pytest.raises(AccessDenied, match="give a valid key with --key or CRAFT_API_KEY"):
        ask(wrong)


@pytest.mark.parametrize(
    ("given", "clean"),
    [
        ("http://a.test:80/", "http://a.test:80"),
        (" https://a.test/v1/ ", "https://a.test"),
        ("http://a.test/under", "http://a.test/under"),
        ("http://a.test.", "http://a.test."),
        ("HTTP://A.test", "HTTP://A.test"),
        ("http://zürich.test", "http://zürich.test"),
        ("http://[::1]:8000", "http://[::1]:8000"),
        ("http://[fe80::1%eth0]", "http://[fe80::1%eth0]"),
        ("http://10.0.0.1:65535", "http://10.0.0.1:65535"),
    ],
)
def test_addresses_are_taken_as_people_write_them(given, clean):
    assert clean_url(given) == clean


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("", "does not begin with http"),
        ("   ", "does not begin with http"),
        ("a.test:8000", "does not begin with http"),
        ("localhost", "does not begin with http"),
        ("//a.test", "does not begin with http"),
        ("ftp://a.test", "does not begin with http"),
        ("unix:///run/craft.sock", "does not begin with http"),
        ("http://", "no host|does not begin"),
        ("http://:8000", "no host"),
        ("http:///v1", "no host|does not begin"),
        ("http://[::1", "Invalid IPv6 URL"),
        ("http://[zz]", "not appear to be an IPv4 or IPv6 address"),
        ("http://a.test:99999", "Port out of range"),
        ("http://a.test:port", "Port could not be cast"),
        ("http://a.test:-1", "Port"),
        ("http://a.test:0", "no port 0"),
        ("http://a b", "blanks or control characters"),
        ("http://a.test/\x1b[2J", "blanks or control characters"),
        ("http://a..test", "empty or too long"),
        ("http://.a.test", "empty or too long"),
        ("http://a.test..", "empty or too long"),
        (f"http://{'a' * 64}.test", "empty or too long"),
        ("http://999.1.1.1", "999"),
        ("http://1.2.3", "4 octets"),
        ("http://a.test?x=1", "behind a [?] or #"),
        ("http://a.test/#top", "behind a [?] or #"),
    ],
)
def test_addresses_that_are_none_are_refused(url, why):
    with pytest.raises(UsageError, match=f"--server .*({why}).*needed: a URL such as"):
        clean_url(url)


@pytest.mark.parametrize("url", ["http://xn--", "http://xn--a.test", "http://a\ud800.test"])
def test_names_that_no_resolver_can_be_asked_for_are_refused(url):
    with pytest.raises(UsageError, match=r"--server .* is no address"):
        Transport(Connection(url, KEY))


@pytest.mark.parametrize("url", ["http://me:secret@a.test", "https://secret@a.test:1/v1"])
def test_a_password_before_the_host_is_refused_and_not_repeated(url):
    with pytest.raises(UsageError, match="keys go into --key") as refusal:
        clean_url(url)
    assert "secret" not in str(refusal.value)


@pytest.mark.parametrize("key", ["", "craft key", "schlüssel", "a\nb"])
def test_keys_that_no_header_can_carry_are_refused(key):
    with pytest.raises(UsageError, match="API key of"):
        check_key(key)


def test_a_reply_is_freed_once_it_is_read_without_waiting_for_the_collector():
    seen = []

    def read(response):
        seen.append(weakref.ref(response))
        return len(response.content)

    gc.disable()
    try:
        with a_transport(Script(good())) as transport:
            transport.send(MODELS, read)
            assert seen[0]() is None
    finally:
        gc.enable()


def test_a_call_may_be_tried_fewer_times_than_the_patience_allows():
    script = Script(good(), Answer(503, b""))
    with a_transport(script) as transport:
        transport.send(MODELS, message(ModelList))
        with pytest.raises(NoAnswer, match="after 2 attempts"):
            transport.send(replace(MODELS, most_attempts=2), message(ModelList))
    assert len(script.requests) == 3


def test_a_gateway_that_takes_no_such_body_is_not_asked_again():
    script = Script(Answer(413, b"<html>too large", "text/html"))
    call = Call("POST", "/v1/images", content=b"x" * 2000)
    with (
        a_transport(script) as transport,
        pytest.raises(NoAnswer, match=r"a gateway at .* takes no body of 2,000 bytes"),
    ):
        transport.send(call, message(ModelList))
    assert len(script.requests) == 1


def test_a_servers_own_limit_is_no_gateways():
    script = Script(problem(Code.TOO_LARGE))
    with a_transport(script) as transport, pytest.raises(UsageError, match="too much at once"):
        transport.send(MODELS, message(ModelList))


def test_how_long_an_answer_took_is_known_without_the_waiting():
    slept = []
    script = Script(Answer(503, b""), good())
    with a_transport(script, sleep=slept.append) as transport:
        transport.send(MODELS, message(ModelList))
        assert transport.took_s > 0
    assert slept
