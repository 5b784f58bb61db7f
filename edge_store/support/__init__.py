"""A support bundle: how a box is, in one file that may be given away."""

from edge_store.support.bundle import Part, write_bundle

__all__ = ["Part", "write_bundle"]
