"""The settings of what the daemon does by itself: the queue, the repair of JSON, responses in the
background, the search index.
"""

from typing import Annotated

from msgspec import Meta

from edge_store.config.section import KIB, MIB, Section

__all__ = ["QueueSection", "RepairSection", "ResponsesSection", "SearchSection"]


class QueueSection(Section, frozen=True, kw_only=True):
    """Batches, and requests that are answered later. What callers wait for has priority."""

    slots_max: Annotated[
        int,
        Meta(
            ge=1,
            le=4096,
            description="Lines of batches in flight while nobody else asks. They take recorder "
            "slots, but never the last quarter of them.",
        ),
    ] = 128
    slots_beside: Annotated[
        int, Meta(ge=0, le=4096, description="The same while others ask; 0: none.")
    ] = 4
    attempts_max: Annotated[
        int,
        Meta(ge=1, le=100, description="Attempts of a line whose engine fails before it is dead."),
    ] = 5
    retry_pause_s: Annotated[
        float,
        Meta(gt=0, description="Pause before the second attempt; it doubles, up to a minute."),
    ] = 1.0
    requests_max: Annotated[
        int,
        Meta(ge=0, description="Requests with `Prefer: respond-async` that may wait."),
    ] = 1000
    lines_max: Annotated[int, Meta(ge=1, description="Most lines of a batch.")] = 50_000
    file_bytes_max: Annotated[
        int, Meta(ge=KIB, description="Largest uploaded file; a larger one is answered 413.")
    ] = 200 * MIB


class RepairSection(Section, frozen=True, kw_only=True):
    """Parsing, repairing and validating the JSON that callers asked for."""

    deadline_s: Annotated[
        float,
        Meta(
            gt=0,
            description="Longest time for one choice; then its worker is killed and "
            "the row says `invalid`. All choices of a request together get 16 times that.",
        ),
    ] = 2.0
    input_bytes_max: Annotated[int, Meta(ge=KIB, description="Longer texts are not repaired.")] = (
        MIB
    )
    memory_bytes_max: Annotated[
        int, Meta(ge=64 * MIB, description="Address space of a repair worker.")
    ] = 512 * MIB
    workers: Annotated[int, Meta(ge=1, le=16, description="Repair workers.")] = 1


class ResponsesSection(Section, frozen=True, kw_only=True):
    """OpenAI's Responses."""

    background_tasks: Annotated[
        int,
        Meta(ge=1, le=1024, description="Responses in the background that run at once."),
    ] = 8
    background_max: Annotated[
        int, Meta(ge=1, description="Responses in the background that run or wait; more get 503.")
    ] = 10_000


class SearchSection(Section, frozen=True, kw_only=True):
    """The full-text index of prompts and answers: docs/search.md."""

    enabled: Annotated[
        bool,
        Meta(
            description="Keep `search.db` beside the database. It takes at most a third of a core, "
            "and about as much disk as the texts themselves. Without it a search reads the results "
            "through."
        ),
    ] = True
