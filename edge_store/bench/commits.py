"""What a daemon says of its COMMITs so far: a disk that stands still stands in every latency."""

import urllib.request

from prometheus_client.parser import text_string_to_metric_families

from edge_store.bench.figures import Figure

__all__ = ["commit_figures"]

NAME = "edge_store_commit_seconds"
SLOW_S = (0.1, 1.0)  # buckets of the daemon's own histogram
TIMEOUT_S = 10.0


def commit_figures(port: int) -> list[Figure]:
    """Their number, the mean, and how many were slow. No bounds: they are the disk's.

    Raises:
        OSError: the daemon on ``port`` does not answer.
    """
    address = f"http://127.0.0.1:{port}/metrics"
    with urllib.request.urlopen(address, timeout=TIMEOUT_S) as answer:
        text = answer.read().decode()
    found = {
        (sample.name, float(sample.labels.get("le", "0"))): sample.value
        for family in text_string_to_metric_families(text)
        if family.name == NAME
        for sample in family.samples
    }
    count, seconds = found[f"{NAME}_count", 0.0], found[f"{NAME}_sum", 0.0]
    slow = [
        Figure(
            name=f"of these over {bound:g} s",
            value=count - found[f"{NAME}_bucket", bound],
            unit="COMMITs",
        )
        for bound in SLOW_S
    ]
    mean = Figure(name="COMMIT, mean", value=seconds / max(count, 1) * 1e3, unit="ms")
    return [Figure(name="COMMITs", value=count, unit="COMMITs"), *slow, mean]
