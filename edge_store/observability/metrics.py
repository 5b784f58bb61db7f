"""The daemon's Prometheus metrics, in one registry of its own."""

from collections.abc import Callable, Iterator, Mapping

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.core import CounterMetricFamily
from prometheus_client.registry import Collector

__all__ = ["Metrics"]

COMMIT_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0)

LAG_BUCKETS = (0.001, 0.002, 0.005, 0.01, 0.015, 0.02, 0.03, 0.05, 0.1, 0.25, 0.5, 1.0)


class Metrics:
    """Every metric; rooms are handed this object and count on it."""

    def __init__(self) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]  # a second series for each counter that nobody reads
        self.registry = CollectorRegistry()
        registry = self.registry
        self.admitted = Counter(
            "edge_store_admitted", "Requests admitted: each becomes a row", registry=registry
        )
        self.refused = Counter(
            "edge_store_refused", "Requests refused before admission", ["code"], registry=registry
        )
        self.replayed = Counter(
            "edge_store_replayed",
            "Requests answered with the stored answer under their Idempotency-Key",
            registry=registry,
        )
        self.attached = Counter(
            "edge_store_attached",
            "Requests that waited for another with their Idempotency-Key",
            registry=registry,
        )
        self.waited = Counter(
            "edge_store_replica_waits",
            "Answers that were held for the replica, by what became of it",
            ["outcome"],
            registry=registry,
        )
        self.committed = Counter(
            "edge_store_committed", "Results committed, by status", ["status"], registry=registry
        )
        self.lost = Counter(
            "edge_store_lost",
            "Results that could not be stored, by code",
            ["code"],
            registry=registry,
        )
        self.commits = Counter("edge_store_commits", "COMMITs, marks included", registry=registry)
        self.commit_seconds = Histogram(
            "edge_store_commit_seconds",
            "Time of one COMMIT, its inserts included",
            buckets=COMMIT_BUCKETS,
            registry=registry,
        )

        self.loop_lag_seconds = Histogram(
            "edge_store_loop_lag_seconds",
            "How late the event loop is, 20 times a second",
            buckets=LAG_BUCKETS,
            registry=registry,
        )

        self.search_lag_rows = Gauge(
            "edge_store_search_lag_rows",
            "Results that the search index has not got yet",
            registry=registry,
        )
        self.search_lag_seconds = Gauge(
            "edge_store_search_lag_seconds",
            "How long the oldest result that it took in last had waited for it",
            registry=registry,
        )
        self.search_index_bytes = Gauge(
            "edge_store_search_index_bytes", "Size of the search index", registry=registry
        )

        self.alarm = Gauge(
            "edge_store_alarm", "1 while the alarm is raised", ["name"], registry=registry
        )
        self.alarm_since_seconds = Gauge(
            "edge_store_alarm_since_seconds",
            "Unix time at which the alarm was raised; 0 while it is not",
            ["name"],
            registry=registry,
        )
        self.alarm_seen_seconds = Gauge(
            "edge_store_alarm_seen_seconds",
            "Unix time at which what the raised alarm says was last seen; 0 while it is not raised",
            ["name"],
            registry=registry,
        )

        self.sink_delivered = Counter(
            "edge_store_sink_delivered",
            "Results that a sink has taken",
            ["sink"],
            registry=registry,
        )
        self.sink_failures = Counter(
            "edge_store_sink_failures", "Deliveries that failed", ["sink"], registry=registry
        )
        self.sink_results_behind = Gauge(
            "edge_store_sink_results_behind",
            "Results that are committed and a sink was not offered yet",
            ["sink"],
            registry=registry,
        )
        self.sink_lag_seconds = Gauge(
            "edge_store_sink_lag_seconds",
            "Age of the oldest of them",
            ["sink"],
            registry=registry,
        )
        self.sink_letters = Gauge(
            "edge_store_sink_letters",
            "Results that a sink has refused",
            ["sink"],
            registry=registry,
        )

    def lost_count(self) -> int:
        """Results that could not be stored, whatever the code."""
        samples = (each for family in self.lost.collect() for each in family.samples)
        return int(sum(each.value for each in samples if each.name.endswith("_total")))

    def watch(self, name: str, documentation: str, read: Callable[[], float]) -> None:
        """A gauge that is read when it is scraped."""
        Gauge(f"edge_store_{name}", documentation, registry=self.registry).set_function(read)

    def watch_counts(
        self, name: str, documentation: str, label: str, read: Callable[[], Mapping[str, float]]
    ) -> None:
        """A counter with a label that is read when it is scraped."""
        self.registry.register(_Counts(f"edge_store_{name}", documentation, label, read))

    def exposition(self) -> bytes:
        """The text format that Prometheus scrapes."""
        return generate_latest(self.registry)


class _Counts(Collector):
    """A counter that somebody else counts."""

    def __init__(
        self, name: str, documentation: str, label: str, read: Callable[[], Mapping[str, float]]
    ) -> None:
        self._name, self._documentation, self._label = name, documentation, label
        self._read = read

    def describe(self) -> Iterator[CounterMetricFamily]:
        yield CounterMetricFamily(self._name, self._documentation, labels=[self._label])

    def collect(self) -> Iterator[CounterMetricFamily]:
        for family in self.describe():
            for value, count in self._read().items():
                family.add_metric([value], count)
            yield family
