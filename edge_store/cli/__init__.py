"""The ``edge-store`` command. One file per group; a group's rooms are imported when it runs."""

from edge_store.cli.main import main

__all__ = ["main"]
