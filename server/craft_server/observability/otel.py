"""Spans for an OpenTelemetry collector: the tracer of a server that is given `otel_endpoint`.

Needs the extra `otel`. Owns the SDK; every other module knows `tracing` alone. An error is noted
by its kind, since its message may quote what a client sent. Sampling is the SDK's, by
OTEL_TRACES_SAMPLER: by default a caller's `traceparent` decides, and without one all is kept.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import metadata

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from craft_server.observability.tracing import Span, Tracer
from craft_shared.errors import Refusal

_NAMES = {
    "method": "http.request.method",
    "route": "http.route",
    "status": "http.response.status_code",
}
"""What OpenTelemetry calls these; every other attribute is `craft.` and its name."""

_PROPAGATOR = TraceContextTextMapPropagator()


def connect(endpoint: str, *, instance: str = "") -> "OtelTracer":
    """A tracer that sends spans to the OTLP/HTTP receiver of a collector, in batches."""
    exporter = OTLPSpanExporter(endpoint=f"{endpoint.rstrip('/')}/v1/traces")
    return OtelTracer(BatchSpanProcessor(exporter), instance=instance)


class OtelTracer(Tracer):
    """Makes spans and hands them to a processor."""

    def __init__(self, processor: SpanProcessor, *, instance: str = "") -> None:
        """Name the program, its version and, if it has one, the replica in every span."""
        attributes = {
            "service.name": "craft-server",
            "service.version": metadata.version("craft-blackbox"),
        }
        if instance:
            attributes["service.instance.id"] = instance
        self._provider = TracerProvider(
            resource=Resource.create(attributes), shutdown_on_exit=False
        )
        self._provider.add_span_processor(processor)
        self._tracer = self._provider.get_tracer("craft_server")

    @contextmanager
    def request(self, traceparent: str) -> Iterator[Span]:
        """The span of an HTTP request."""
        parent = _PROPAGATOR.extract({"traceparent": traceparent}) if traceparent else None
        with self._current("request", trace.SpanKind.SERVER, parent=parent or Context()) as span:
            yield _OtelSpan(span)

    @contextmanager
    def span(self, name: str, **attributes: str | int) -> Iterator[Span]:
        """The span of a block of code."""
        with self._current(name, trace.SpanKind.INTERNAL) as span:
            mine = _OtelSpan(span)
            mine.set(**attributes)
            yield mine

    def past(self, name: str, *, began: float, ended: float) -> None:
        """A span that is over."""
        zero = time.time_ns() - time.monotonic_ns()
        start, end = (zero + round(moment * 1e9) for moment in (began, ended))
        self._tracer.start_span(name, start_time=start).end(end)

    def close(self) -> None:
        """Send what is left and end the thread that sends."""
        self._provider.shutdown()

    @contextmanager
    def _current(
        self, name: str, kind: trace.SpanKind, *, parent: Context | None = None
    ) -> Iterator[trace.Span]:
        with self._tracer.start_as_current_span(
            name, context=parent, kind=kind, record_exception=False, set_status_on_exception=False
        ) as span:
            try:
                yield span
            except BaseException as error:
                kind_of_error = error.code if isinstance(error, Refusal) else type(error).__name__
                span.set_attribute("error.type", kind_of_error)
                span.set_status(trace.StatusCode.ERROR)
                raise


class _OtelSpan(Span):
    def __init__(self, span: trace.Span) -> None:
        self._span = span

    def set(self, **attributes: str | int) -> None:
        for name, value in attributes.items():
            self._span.set_attribute(_NAMES.get(name, f"craft.{name}"), value)

    def rename(self, name: str) -> None:
        self._span.update_name(name)
