"""The settings of the engines."""

from enum import StrEnum
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from edge_store.config.section import Fault, Section

__all__ = ["DemoSection", "EngineKind", "EngineSection", "UpstreamSection"]


class DemoSection(Section, frozen=True, kw_only=True):
    """The embedded demo engine."""

    token_delay_ms: Annotated[
        float, Meta(ge=0, description="Time the demo engine takes for each token.")
    ] = 0.0


class UpstreamSection(Section, frozen=True, kw_only=True):
    """An OpenAI-compatible server elsewhere."""

    base_url: Annotated[
        str, Meta(description="Its address without /v1, as in http://127.0.0.1:30000.")
    ] = ""
    connect_timeout_s: Annotated[float, Meta(gt=0, description="Longest time to connect.")] = 5.0
    read_timeout_s: Annotated[
        float, Meta(gt=0, description="Longest silence between two pieces of an answer.")
    ] = 120.0
    connections_max: Annotated[int, Meta(ge=1, description="Connections kept to it.")] = 1024
    send_rid: Annotated[
        bool,
        Meta(
            description="Pass our id as SGLang's `rid`. Turn it off for a server that refuses "
            "fields it does not know."
        ),
    ] = True


class EngineKind(StrEnum):
    """Which engine answers."""

    DEMO = "demo"
    UPSTREAM = "upstream"
    SGLANG = "sglang"


class EngineSection(Section, frozen=True, kw_only=True):
    """What generates the answers."""

    kind: Annotated[
        EngineKind,
        Meta(
            description="demo (no model: canned, deterministic answers), upstream "
            "(another server) or sglang."
        ),
    ] = EngineKind.DEMO
    timeout_s: Annotated[float, Meta(gt=0, description="Longest time one generation may take.")] = (
        600.0
    )
    demo: DemoSection = DemoSection()
    upstream: UpstreamSection = UpstreamSection()
    sglang: Annotated[
        dict[str, Any],
        Meta(
            description="Passed to SGLang's ServerArgs as it is: model_path and what "
            "`python -m sglang.launch_server --help` lists, with _ for -."
        ),
    ] = msgspec.field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.kind is EngineKind.UPSTREAM and not self.upstream.base_url:
            raise Fault(
                'engine.upstream.base_url is empty, but engine.kind is "upstream": set it to the '
                "server's address, as in http://127.0.0.1:30000"
            )
        if self.kind is EngineKind.SGLANG and not self.sglang.get("model_path"):
            raise Fault(
                'engine.sglang.model_path is empty, but engine.kind is "sglang": set it to the '
                "folder of a model in Hugging Face's format"
            )
        url = self.upstream.base_url
        if url and not url.startswith(("http://", "https://")):
            raise Fault(
                "engine.upstream.base_url = {url!r} is not an http:// or https:// address", url=url
            )
