"""Replication by Litestream: where replicas lie, the supervised child, restores."""
