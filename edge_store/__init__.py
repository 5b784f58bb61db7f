"""edge-store: an embedded SQLite edge appliance for LLM results."""

__all__ = ["__version__"]

__version__ = "0.1.0"
