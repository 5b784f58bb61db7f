"""``python -m edge_store`` is the ``edge-store`` command."""

from edge_store.cli import main

if __name__ == "__main__":
    main()
