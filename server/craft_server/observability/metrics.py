"""What a server did and its load now, for Prometheus, on a port of its own.

Owns names, labels and buckets (docs/operations.md explains each) and the listener. No label
separates keys, owners, runs or tags, and none has values that a client can choose. What can be read
at any time is read when Prometheus asks.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from importlib import metadata

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector
from prometheus_client import start_http_server as listen
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from craft_server.observability.telemetry import ServerStats, Telemetry, UnitState
from craft_shared.errors import Code
from craft_shared.messages import Budgets

_REQUEST_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300)
_TASKS = (1, 2, 4, 8, 16, 32, 64, 128)
_LAG_S = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 5)
_DISTRIBUTION = "craft-blackbox"


class Metrics(Telemetry):
    """The metrics of one server, in a registry of their own."""

    def __init__(self, model: str) -> None:
        """Count for a server of the model with this id."""
        self.registry = own = CollectorRegistry()
        build = Gauge("craft_build_info", "Always 1", ["version", "model"], registry=own)
        build.labels(metadata.version(_DISTRIBUTION), model).set(1)
        requests = Counter(
            "craft_http_requests", "HTTP requests", ["method", "route", "status"], registry=own
        )
        request_s = Histogram(
            "craft_http_request_seconds",
            "Time to the end of the reply",
            ["route"],
            buckets=_REQUEST_S,
            registry=own,
        )
        self._refusals = Counter("craft_refusals", "Requests refused", ["code"], registry=own)
        self._outages = Counter("craft_store_outages", "The store did not answer", registry=own)
        units = {
            name: Counter(f"craft_{name}", _by_outcome(name), ["state"], registry=own)
            for name in Budgets.model_fields  # whatever can be a limit
        }
        # the counters of labels: few of each, and the library takes longer over one than all else
        self._requests_of = cache(requests.labels)
        self._request_s_of = cache(request_s.labels)
        self._units_of = {name: cache(counter.labels) for name, counter in units.items()}
        self._waits = Histogram(
            "craft_queue_seconds", "Wait for the device", buckets=_REQUEST_S, registry=own
        )
        self._tasks = Histogram(
            "craft_batch_works", "Tasks in a batch", buckets=_TASKS, registry=own
        )
        self._device = Histogram(
            "craft_device_seconds", "Time of a batch", buckets=_REQUEST_S, registry=own
        )
        self._holds = Gauge("craft_holds", "Open holds in the store", registry=own)
        self._oldest = Gauge("craft_oldest_hold_seconds", "Age of the oldest hold", registry=own)
        self._drift = Gauge(
            "craft_ledger_discrepancies", "Counters that are not the ledger's sum", registry=own
        )
        self._drift.set(float("nan"))
        self._audits = Counter("craft_ledger_audits", "Audits of the ledger", registry=own)
        self._lag = Histogram(
            "craft_event_loop_lag_seconds", "How late the loop is", buckets=_LAG_S, registry=own
        )
        ProcessCollector(registry=own)

    def show(self, stats: Callable[[], ServerStats]) -> None:
        """Show what `stats` gives, called anew at each scrape."""
        self.registry.register(_StatsCollector(stats))

    @contextmanager
    def listening(self, host: str, port: int) -> Iterator[int]:
        """Answer Prometheus on a thread for the body of the `with`; gives the port.

        Raises:
            OSError: the address cannot be had.
        """
        server, thread = listen(port, host, self.registry)
        try:
            yield server.server_port
        finally:
            server.shutdown()
            server.server_close()
            thread.join()

    def request(self, method: str, route: str, status: int, seconds: float) -> None:
        """An HTTP request has ended."""
        self._requests_of(method, route, status).inc()
        self._request_s_of(route).observe(seconds)

    def refused(self, code: Code) -> None:
        """A request was refused."""
        self._refusals.labels(code).inc()

    def outage(self) -> None:
        """The store did not answer."""
        self._outages.inc()

    def units(self, state: UnitState, price: Mapping[str, int]) -> None:
        """The price of a request was settled or given back."""
        for name, of in self._units_of.items():
            of(state).inc(price[name])

    def launched(self, waited_s: Sequence[float]) -> None:
        """A batch went to the device."""
        self._tasks.observe(len(waited_s))
        for seconds in waited_s:
            self._waits.observe(seconds)

    def finished(self, seconds: float) -> None:
        """A batch came back from the device."""
        self._device.observe(seconds)

    def held(self, holds: int, oldest_s: float) -> None:
        """So many holds are open in the store."""
        self._holds.set(holds)
        self._oldest.set(oldest_s)

    def audited(self, discrepancies: int) -> None:
        """The ledger was held against the counters of the keys."""
        self._drift.set(discrepancies)
        self._audits.inc()

    def loop_lag(self, seconds: float) -> None:
        """The event loop came so much later than it was asked to."""
        self._lag.observe(seconds)


class _StatsCollector(Collector):
    """What is read when it is asked for."""

    def __init__(self, stats: Callable[[], ServerStats]) -> None:
        self._stats = stats

    def collect(self) -> Iterable[Metric]:
        now = self._stats()
        gauges = {
            "craft_admitted_requests": ("Requests in work", now.requests),
            "craft_admitted_texts": ("Texts of requests in work", now.texts),
            "craft_queue_works": ("Device tasks that wait", now.queue),
            "craft_device_busy_seconds": ("Age of the batch that runs", now.busy_s),
        }
        for name, (what, value) in gauges.items():
            yield GaugeMetricFamily(name, what, value)
        lookups = CounterMetricFamily(
            "craft_feature_lookups", "Images looked for in a cache", labels=["tier", "result"]
        )
        size = GaugeMetricFamily("craft_feature_cache_bytes", "Size of a cache", labels=["tier"])
        for tier in now.tiers:
            lookups.add_metric([tier.name, "hit"], tier.hits)
            lookups.add_metric([tier.name, "miss"], tier.misses)
            size.add_metric([tier.name], tier.bytes)
        yield lookups
        yield size


def _by_outcome(name: str) -> str:
    return f"{name.replace('_', ' ').capitalize()} by outcome"
