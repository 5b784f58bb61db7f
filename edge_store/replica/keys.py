"""The keys that the pinned Litestream knows, of its configuration.

It accepts a misspelt key and does without what it should have said, so what we generate is checked
against this list. A test binds the list to the program: a key that it knows is one whose value it
refuses when it is of another kind.
"""

from collections.abc import Iterator, Mapping
from typing import Any

__all__ = ["KNOWN", "unknown_keys"]

Keys = Mapping[str, Any]  # a key: None for a value, its keys for a table, [its keys] for a list


def _values(names: str) -> dict[str, Any]:
    return dict.fromkeys(names.split())


KNOWN: Keys = {
    **_values("addr heartbeat-url heartbeat-interval exec mcp-addr l0-retention"),
    **_values("l0-retention-check-interval verify-compaction shutdown-sync-timeout"),
    **_values("shutdown-sync-interval"),
    "socket": _values("enabled path permissions"),
    "logging": _values("level type stderr"),
    "levels": [_values("interval")],
    "snapshot": _values("interval retention"),
    "validation": _values("interval"),
    "dbs": [
        {
            **_values("path meta-path monitor-interval checkpoint-interval busy-timeout"),
            **_values("min-checkpoint-page-count truncate-page-n restore-if-db-not-exists"),
            "replica": {
                **_values("type path url sync-interval validation-interval"),
                # S3, and what speaks it
                **_values("access-key-id secret-access-key region bucket endpoint"),
                **_values("force-path-style sign-payload require-content-md5 skip-verify"),
                **_values("part-size concurrency storage-class sse-customer-algorithm"),
                **_values("sse-customer-key sse-customer-key-path sse-kms-key-id"),
                # Azure; SFTP
                **_values("account-name account-key sas-token"),
                **_values("host user password key-path host-key concurrent-writes"),
            },
        }
    ],
}


def unknown_keys(config: Mapping[str, Any], known: Keys = KNOWN, at: str = "") -> Iterator[str]:
    """Each key of ``config`` that is none of Litestream's, with the path to it."""
    for name, value in config.items():
        if name not in known:
            yield f"{at}{name}"
        elif isinstance(value, Mapping):
            yield from unknown_keys(value, known[name] or {}, f"{at}{name}.")
        elif isinstance(value, list):
            for each in value:
                yield from unknown_keys(each, known[name][0], f"{at}{name}[].")
