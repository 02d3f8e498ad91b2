"""Spans: where a request's time went, for a collector, and without what was asked."""

import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from starlette.testclient import TestClient

from craft_server import app as application
from craft_server.api.services import services_of
from craft_server.observability.otel import OtelTracer
from craft_server.observability.tracing import Tracer
from craft_server.settings import ModelError
from tests.support.serving import image_set, settings_in, stub_box, text_request

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
TRACEPARENT = {"traceparent": f"00-{TRACE}-{PARENT}-01"}


@pytest.fixture
def exporter():
    return InMemorySpanExporter()


@pytest.fixture
def tracer(exporter):
    return OtelTracer(SimpleSpanProcessor(exporter), instance="replica-1")


@pytest.fixture
def traced(settings, box, tracer, monkeypatch):
    """A client of a server whose spans stay in memory, and that server."""
    monkeypatch.setattr(application, "make_tracer", lambda _: tracer)
    app = application.create_app(settings, box)
    with TestClient(app, raise_server_exceptions=False) as client:
        token = services_of(app).keys.create("ann", 100).token
        client.headers["Authorization"] = f"Bearer {token}"
        yield client


def ask(client, request, key, **headers):
    return client.post("/v1/logits", json=request, headers={"Idempotency-Key": key} | headers)


def test_a_purchase_is_a_trace_from_the_callers_span_to_the_charge(traced, exporter):
    set_id = image_set(traced)
    exporter.clear()
    assert ask(traced, text_request(set_id), "one", **TRACEPARENT).status_code == 200
    *parts, whole = exporter.get_finished_spans()
    assert (whole.name, f"{whole.context.trace_id:032x}") == ("POST /v1/logits", TRACE)
    assert f"{whole.parent.span_id:016x}" == PARENT
    assert dict(whole.attributes) == {
        "http.request.method": "POST",
        "http.route": "/v1/logits",
        "http.response.status_code": 200,
    }
    names = [span.name for span in parts]
    assert set(names) == {"order", "plan", "reserve", "queue", "device", "settle"}
    assert names.count("device") == names.count("queue") == 3  # encode, load, texts
    assert {span.parent.span_id for span in parts} == {whole.context.span_id}
    assert all(whole.start_time <= span.start_time + 10**6 for span in parts)
    assert all(span.start_time <= span.end_time for span in parts)
    assert whole.resource.attributes["service.name"] == "craft-server"
    assert whole.resource.attributes["service.instance.id"] == "replica-1"


def test_without_a_traceparent_each_request_is_a_trace_of_its_own(traced, exporter):
    exporter.clear()
    traced.get("/v1/models")
    traced.get("/nothing", headers={"traceparent": "nonsense"})
    first, second = exporter.get_finished_spans()
    assert [first.name, second.name] == ["GET /v1/models", "GET unmatched"]
    assert first.parent is second.parent is None
    assert first.context.trace_id != second.context.trace_id


def test_no_span_holds_what_was_asked(traced, exporter, box):
    secret = "hunter2"
    words = {"class_names": [secret], "tag": secret, "run": secret}
    request = text_request(image_set(traced)) | words
    ask(traced, request, secret)
    ask(traced, request | {"model": secret}, "two")

    def fail(pieces):
        raise ValueError(secret)

    box.encode_texts = fail
    assert ask(traced, request, "three").status_code == 500
    traced.get(f"/v1/models/{secret}?{secret}")
    spans = exporter.get_finished_spans()
    assert secret not in "".join(span.to_json() for span in spans)
    errors = {span.attributes["error.type"] for span in spans if "error.type" in span.attributes}
    assert errors == {"unknown_model", "ValueError"}


class Collector(BaseHTTPRequestHandler):
    """Takes what an OTLP exporter posts."""

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.got.append((self.path, self.headers["Content-Type"], body))
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_):
        pass


@pytest.fixture
def collector():
    server = HTTPServer(("127.0.0.1", 0), Collector)
    server.got = []
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_real_collector_gets_the_spans_when_the_server_stops_at_the_latest(tmp_path, collector):
    endpoint = f"http://127.0.0.1:{collector.server_port}/"
    settings = settings_in(tmp_path, otel_endpoint=endpoint)
    app = application.create_app(settings, stub_box(settings))
    with TestClient(app) as client:
        client.get("/v1/models", headers=TRACEPARENT)
    [(path, kind, body)] = collector.got
    assert (path, kind) == ("/v1/traces", "application/x-protobuf")
    sent = ExportTraceServiceRequest.FromString(body)
    [span] = [
        span
        for resource in sent.resource_spans
        for scope in resource.scope_spans
        for span in scope.spans
    ]
    assert (span.name, span.trace_id.hex()) == ("GET /v1/models", TRACE)


def test_without_an_endpoint_nothing_is_traced(settings):
    tracer = application.make_tracer(settings)
    assert type(tracer) is Tracer
    with tracer.request("") as span, tracer.span("order", texts=1) as inner:
        span.rename("x")
        assert span is inner


def test_an_endpoint_without_the_extra_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "craft_server.observability.otel", None)
    settings = settings_in(tmp_path, otel_endpoint="http://127.0.0.1:1")
    with pytest.raises(ModelError, match=r"server,otel"):
        application.make_tracer(settings)
