"""The settings of the HTTP server."""

from typing import Annotated

from msgspec import Meta

from edge_store.config.section import KIB, MIB, Fault, Section

__all__ = ["ServerSection"]


class ServerSection(Section, frozen=True, kw_only=True):
    """The HTTP server."""

    host: Annotated[
        str,
        Meta(
            min_length=1,
            description="Address to listen on. One that other machines reach needs API keys: "
            "`edge-store keys create` makes the first.",
        ),
    ] = "127.0.0.1"
    port: Annotated[
        int, Meta(ge=0, le=65535, description="Port to listen on; 0 takes a free one.")
    ] = 8642
    allow_open: Annotated[
        bool,
        Meta(
            description="Start on an address that other machines reach though the box has no API "
            "keys: whoever reaches it may then ask it and read everything."
        ),
    ] = False
    tls_certificate: Annotated[
        str,
        Meta(
            description="A PEM file with the certificate and those between it and its root; "
            "relative to this file's folder. Empty: plain HTTP."
        ),
    ] = ""
    tls_key: Annotated[
        str,
        Meta(
            description="The PEM file with the certificate's private key. Empty: it is in the file "
            "of the certificate."
        ),
    ] = ""
    body_bytes_max: Annotated[
        int, Meta(ge=KIB, description="Largest request body; a larger one is answered 413.")
    ] = 16 * MIB
    body_timeout_s: Annotated[
        float, Meta(gt=0, description="Longest time a request body may take to arrive.")
    ] = 60.0
    drain_timeout_s: Annotated[
        float, Meta(ge=0, description="At a stop, how long running generations may still take.")
    ] = 30.0

    def __post_init__(self) -> None:
        if self.tls_key and not self.tls_certificate:
            raise Fault("server.tls_key needs server.tls_certificate")
