"""``edge-store logs show``: one result, for people, as JSON, or its exact bytes."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import click

from edge_store.cli.logs_text import one_line, opened, printable, tokens_text
from edge_store.cli.output import time_text, write_json
from edge_store.cli.target import target_options

if TYPE_CHECKING:
    from collections.abc import Iterator

    from edge_store.receipt import Receipt
    from edge_store.result import Output, Recorded, Result
    from edge_store.sqlite import Connection

__all__ = ["show"]


class Section(NamedTuple):
    """A heading and the text below it."""

    title: str
    text: str


@click.command()
@click.argument("result_id", metavar="ID")
@click.option("--json", "as_json", is_flag=True, help="One JSON object, as the API gives it.")
@click.option(
    "--raw", type=click.Choice(["request", "response"]),
    help="The exact bytes of that body, and nothing else.",
)  # fmt: skip
@target_options
def show(
    result_id: str, db: Path | None, config: str | None, *, as_json: bool, raw: str | None
) -> None:
    """Show one result: what was asked, what was answered, repairs, times, and its receipt.

    ID is an id or the beginning of one. Of what a model wrote, control characters are shown as �.
    JSON is shown as the newest repair has it.

    \b
    Example:
      edge-store logs show 0190d3e1-7c1f
      edge-store logs show 0190d3e1-7c1f --raw request > request.json
    """
    from edge_store.logs.find import find_id, load

    if as_json and raw is not None:
        raise click.UsageError("give --json or --raw, not both")
    with opened(db, config) as connection:
        recorded = load(connection, find_id(connection, result_id))
        if raw is not None:
            _write_body(recorded.result, raw)
        elif as_json:
            write_json(_as_json(connection, recorded), sys.stdout)
        else:
            _write(list(_sections(connection, recorded)))


def _write_body(result: "Result", part: str) -> None:
    from edge_store.errors import NotFound

    content = result.content
    body = content.request_body if part == "request" else content.response_body
    if not body:
        raise NotFound(f"the {part} of {result.id!r} is not stored")
    sys.stdout.flush()
    sys.stdout.buffer.write(body)


def _as_json(connection: "Connection", recorded: "Recorded") -> dict[str, object]:
    import msgspec

    from edge_store.api.pages import public
    from edge_store.logs.find import is_pinned, repaired
    from edge_store.stored import newest_metadata

    result = msgspec.structs.replace(
        recorded.result,
        outputs=repaired(connection, recorded.result),
        metadata=newest_metadata(connection, recorded.result),
    )
    shown = public(msgspec.structs.replace(recorded, result=result), with_content=True)
    receipt = _receipt(connection, result.id)
    return {**shown, "pinned": is_pinned(connection, result.id), "receipt": receipt}


def _receipt(connection: "Connection", result_id: str) -> "Receipt":
    from edge_store.receipt import ReplicaUnknown, read_receipt

    return read_receipt(connection, result_id, ReplicaUnknown("see `edge-store receipt`"))


def _sections(connection: "Connection", recorded: "Recorded") -> "Iterator[Section]":
    from edge_store.logs.find import is_pinned, repaired
    from edge_store.logs.turns import turns_of

    result = recorded.result
    pinned = is_pinned(connection, result.id)
    yield Section(result.id, "\n".join(_head(recorded, is_pinned=pinned)))
    turns = turns_of(result)
    for turn in turns:
        yield Section(turn.role, turn.text)
    if not turns:
        yield Section("prompt", "(not stored)")
    outputs = repaired(connection, result)
    for output in outputs:
        yield from _choice(output, f" {output.choice_index}" if len(outputs) > 1 else "")
    if result.error_type is not None:
        text = f"{result.error_type} (HTTP {result.http_status}): {result.error_message or ''}"
        yield Section("error", text)
    yield Section("receipt", "\n".join(_receipt_lines(_receipt(connection, result.id))))


def _receipt_lines(receipt: "Receipt") -> "Iterator[str]":
    from edge_store.cli.receipt_text import described

    for name, text in described(receipt):
        if name != "receipt":  # its id: shown above
            yield f"{name:<10} {text}"


def _head(recorded: "Recorded", *, is_pinned: bool) -> "Iterator[str]":
    result = recorded.result
    model = one_line(result.response_model or result.request_model) or "(no model)"
    if result.request_model not in (None, result.response_model, model):
        model += f" (asked for: {one_line(result.request_model)})"
    stream = ", streamed" if result.stream else ""
    yield f"{time_text(result.created_at)}  {model}  {result.status}{stream}"
    yield f"{result.operation} at {result.endpoint}, engine {result.engine}"
    times = [f"{result.latency_ms:.1f} ms"]
    if result.ttft_ms is not None:
        times.append(f"first token after {result.ttft_ms:.1f}")
    times.append(f"waited {result.queue_ms:.1f}")
    is_known = (result.input_tokens, result.output_tokens) != (None, None)
    tokens = tokens_text(result.input_tokens, result.output_tokens) if is_known else "not known"
    more = [
        f"{count} {what}"
        for count, what in (
            (result.cached_tokens, "cached"),
            (result.reasoning_tokens, "of reasoning"),
        )
        if count
    ]
    yield f"{', '.join(times)}; tokens {', '.join([tokens, *more])}"
    for name, value in (
        ("params", None if result.params == "{}" else result.params),
        ("tenant", result.tenant),
        ("user", result.user_id),
        ("conversation", result.conversation_id),
        ("continues", result.previous_id),
        ("batch", result.batch_id),
        ("line", result.custom_id),
        ("metadata", result.metadata),
        ("privacy", result.privacy),
        ("pinned", "yes" if is_pinned else None),
    ):
        if value is not None:
            yield f"{name}: {one_line(str(value))}"


def _choice(output: "Output", number: str) -> "Iterator[Section]":
    if output.reasoning:
        yield Section(f"reasoning{number}", output.reasoning)
    if output.tool_calls:
        yield Section(f"tool calls{number}", _indented(output.tool_calls))
    if output.output_text or not output.tool_calls:
        title = f"answer{number}"
        if output.finish_reason not in (None, "stop"):
            title += f" ({output.finish_reason})"
        yield Section(title, output.output_text)
    if output.json_state != "text" or output.constraint_kind is not None:
        yield Section(f"json{number}", "\n".join(_json_lines(output)))


def _json_lines(output: "Output") -> "Iterator[str]":
    if output.json_state != "text":
        yield f"state: {output.json_state}"
    if output.schema_valid is not None:
        why = f": {output.schema_error}" if output.schema_error else ""
        yield f"schema: {'satisfied' if output.schema_valid else 'violated'}{why}"
    if output.constraint_kind is not None:
        holds = {True: "holds", False: "does not hold", None: "was not checked"}
        yield f"{output.constraint_kind}: {holds[output.constraint_holds]}"
    if output.repairer is not None:
        yield f"by {output.repairer}"
    if output.repair_log:
        yield f"repairs: {output.repair_log}"
    if output.output_json is not None and output.output_json.strip() != output.output_text.strip():
        yield _indented(output.output_json)


def _indented(text: str) -> str:
    import msgspec

    return msgspec.json.format(text, indent=2)


def _write(sections: list[Section]) -> None:
    from rich.console import Console
    from rich.text import Text

    class Whole(Console):
        def on_broken_pipe(self) -> None:
            raise BrokenPipeError  # as any other command ends: rich would exit with 1

    console = Whole(highlight=False, markup=False, emoji=False, soft_wrap=True)
    for place, (title, text) in enumerate(sections):
        if place:
            console.print()
        console.print(Text(printable(title), style="bold" if place else "bold cyan"))
        console.print(Text(printable(text)))
