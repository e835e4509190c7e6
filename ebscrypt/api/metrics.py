"""What `/metrics` tells, in Prometheus's text format: requests, what is in the catalog, KMS's refusals."""

from __future__ import annotations

from collections import Counter as Tally
from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from prometheus_client.registry import Collector

from ebscrypt.model import SnapshotState, VolumeState

if TYPE_CHECKING:
    from prometheus_client.metrics_core import Metric

    from ebscrypt.api.gateway import Served
    from ebscrypt.api.served_site import Shared

_BUCKETS: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)


class Metrics:
    """The counters of one server."""

    CONTENT_TYPE = CONTENT_TYPE_LATEST

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._requests = Counter(
            "ebscrypt_api_requests",
            "Requests answered, by service, action and error code (empty: none).",
            ["service", "action", "code"],
            registry=self._registry,
        )
        self._seconds = Histogram(
            "ebscrypt_api_request_seconds",
            "Time from a whole request to its answer.",
            ["service"],
            buckets=_BUCKETS,
            registry=self._registry,
        )
        self._kms = Counter(
            "ebscrypt_kms_failures",
            "Requests that failed because KMS refused or did not answer.",
            registry=self._registry,
        )

    def observe(self, served: Served) -> None:
        """Count a request that was answered."""
        self._requests.labels(served.service, served.action, served.code).inc()
        self._seconds.labels(served.service).observe(served.seconds)
        if served.kms_failed:
            self.count_kms_failure()

    def count_kms_failure(self) -> None:
        """Count work that failed after its request was answered, as a creation under an unusable key does."""
        self._kms.inc()

    def page(self, shared: Shared) -> bytes:
        """The page as it is scraped. Raises what reading the catalog raises."""
        catalog = CollectorRegistry()
        catalog.register(_InCatalog(shared))
        return generate_latest(self._registry) + generate_latest(catalog)


class _InCatalog(Collector):
    """What the catalog holds, counted when it is asked for."""

    def __init__(self, shared: Shared) -> None:
        self._shared = shared

    def describe(self) -> list[Metric]:
        return []  # or the registry would count once to know the names

    def collect(self) -> Iterator[Metric]:
        catalog = self._shared.site().catalog
        volumes, snapshots = catalog.volumes(), catalog.snapshots.list()
        states = Tally(volume.state for volume in volumes)
        family = GaugeMetricFamily("ebscrypt_volumes", "Volumes, by state.", labels=["state"])
        for state in VolumeState:
            family.add_metric([state.value], states[state])
        yield family
        snapshot_states = Tally(snapshot.state for snapshot in snapshots)
        family = GaugeMetricFamily("ebscrypt_snapshots", "Snapshots, by state.", labels=["state"])
        for snapshot_state in SnapshotState:
            family.add_metric([snapshot_state.value], snapshot_states[snapshot_state])
        yield family
        yield GaugeMetricFamily("ebscrypt_volume_bytes", "Size of all volumes.", value=sum(v.size for v in volumes))
