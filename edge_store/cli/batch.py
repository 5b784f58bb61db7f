"""``edge-store batch``: batches, through the daemon's API as any other client."""

import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from edge_store.cli.output import chosen_format, output_options, time_text, write_json, write_rows
from edge_store.cli.values import WRITTEN_FILE

if TYPE_CHECKING:
    import httpx

__all__ = ["KEY_VARIABLE", "asked", "batch", "daemon_at", "daemon_options"]

F = TypeVar("F", bound=Callable[..., Any])

KEY_VARIABLE = "EDGE_STORE_API_KEY"
TIMEOUT_S = 60.0
POLL_S = 0.5
UNAUTHORIZED = 401
ENDED = ("completed", "failed", "expired", "cancelled")
SHOWN_MAX = 100


def daemon_options(command: F) -> F:
    """Add ``--config`` and ``--url``."""
    command = click.option("--config", help="The box's edge-store.toml, or its folder.")(command)
    return click.option(
        "--url", metavar="URL", help="The daemon's address, if it is not the configured one."
    )(command)


@click.group()
def batch() -> None:
    """Batches: a file of requests, answered while nobody else asks.

    The daemon is asked over HTTP, with the API key in EDGE_STORE_API_KEY if it needs one.

    \b
    Example:
      edge-store batch submit requests.jsonl --wait
      edge-store batch ls
    """


@batch.command()
@click.argument("file", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.option(
    "--endpoint", default="/v1/chat/completions", show_default=True, help="What its lines call.",
)  # fmt: skip
@click.option("--window", default="24h", show_default=True, help="How long it may take.")
@click.option("--wait", is_flag=True, help="Wait for its end. Exits 1 unless it is completed.")
@daemon_options
def submit(
    file: Path, endpoint: str, window: str, *, wait: bool, url: str | None, config: str | None
) -> None:
    """Upload a file of requests, one a line, and begin a batch. Prints its id.

    \b
    Example:
      edge-store batch submit requests.jsonl
      edge-store batch submit texts.jsonl --endpoint /v1/embeddings --wait
    """
    with daemon_at(url, config) as daemon:
        with file.open("rb") as opened:
            uploaded = asked(
                daemon.post("/v1/files", files={"file": opened}, data={"purpose": "batch"})
            )
        body = {
            "input_file_id": uploaded["id"],
            "endpoint": endpoint,
            "completion_window": window,
        }
        found = asked(daemon.post("/v1/batches", json=body))
        click.echo(found["id"])
        while wait and found["status"] not in ENDED:
            time.sleep(POLL_S)
            found = asked(daemon.get(f"/v1/batches/{found['id']}"))
    if wait:
        click.echo(_line(found), err=True)
        for error in (found["errors"] or {}).get("data", ()):
            place = "" if error["line"] is None else f"line {error['line']}: "
            click.echo(f"  {place}{error['message']} ({error['code']})", err=True)
        sys.exit(0 if found["status"] == "completed" else 1)


@batch.command()
@daemon_options
@output_options
def ls(url: str | None, config: str | None, fmt: str | None) -> None:
    """List the newest batches.

    \b
    Example:
      edge-store batch ls
    """
    from edge_store.query import QueryResult

    with daemon_at(url, config) as daemon:
        found = asked(daemon.get("/v1/batches", params={"limit": SHOWN_MAX}))
    rows = [
        (
            one["id"],
            one["status"],
            *(one["request_counts"][name] for name in ("completed", "failed", "total")),
            time_text(one["created_at"] * 1000),
            one["endpoint"],
        )
        for one in found["data"]
    ]
    columns = ("id", "status", "completed", "failed", "total", "created_at", "endpoint")
    shown = QueryResult(columns=columns, rows=rows, is_cut=found["has_more"])
    write_rows(shown, chosen_format(fmt, sys.stdout), sys.stdout)


@batch.command()
@click.argument("batch_id", metavar="ID")
@daemon_options
def show(batch_id: str, url: str | None, config: str | None) -> None:
    """Show one batch as JSON, as the API does.

    \b
    Example:
      edge-store batch show batch_0190d3e1-7c1f-7a5e-9d4c-0a4b6f2f7c55
    """
    with daemon_at(url, config) as daemon:
        write_json(asked(daemon.get(f"/v1/batches/{batch_id}")), sys.stdout)


@batch.command()
@click.argument("batch_id", metavar="ID")
@daemon_options
def cancel(batch_id: str, url: str | None, config: str | None) -> None:
    """End a batch early; what is completed stays.

    \b
    Example:
      edge-store batch cancel batch_0190d3e1-7c1f-7a5e-9d4c-0a4b6f2f7c55
    """
    with daemon_at(url, config) as daemon:
        click.echo(_line(asked(daemon.post(f"/v1/batches/{batch_id}/cancel"))))


@batch.command()
@click.argument("batch_id", metavar="ID")
@click.option("--errors", is_flag=True, help="The file of what was not completed instead.")
@click.option(
    "--to", "target", type=WRITTEN_FILE,
    help="Write to this file, not to standard output.",
)  # fmt: skip
@daemon_options
def fetch(
    batch_id: str, *, errors: bool, target: Path | None, url: str | None, config: str | None
) -> None:
    """Print the output of a batch that has ended: one answer a line. Exits 1 where it has none.

    \b
    Example:
      edge-store batch fetch batch_0190d3e1-7c1f-7a5e-9d4c-0a4b6f2f7c55 --to answers.jsonl
    """
    with daemon_at(url, config) as daemon:
        found = asked(daemon.get(f"/v1/batches/{batch_id}"))
        file_id = found["error_file_id" if errors else "output_file_id"]
        if file_id is None:
            click.echo(f"no such file: {_line(found)}", err=True)
            sys.exit(1)
        with daemon.stream("GET", f"/v1/files/{file_id}/content") as answer:
            if answer.is_error:
                answer.read()
                asked(answer)
            if target is None:
                sys.stdout.flush()
                for piece in answer.iter_bytes():
                    sys.stdout.buffer.write(piece)
                return
            unfinished = target.with_name(f".{target.name}.unfinished")
            with unfinished.open("wb") as opened:
                for piece in answer.iter_bytes():
                    opened.write(piece)
            shutil.move(unfinished, target)


def _line(found: dict[str, Any]) -> str:
    counts = found["request_counts"]
    return (
        f"{found['id']} {found['status']}: {counts['completed']} completed, "
        f"{counts['failed']} failed, of {counts['total']}"
    )


@contextmanager
def daemon_at(
    url: str | None, config: str | None, *, key: str | None = None, timeout_s: float = TIMEOUT_S
) -> "Iterator[httpx.Client]":
    """A client of the daemon, with this API key, else the environment's. Without ``url`` it is
    this box's own: another box's, on the same port, is sent nothing.

    Raises:
        StoreError: it does not answer.
    """
    import httpx

    from edge_store.errors import StoreError

    if url is None:
        from edge_store.config import load
        from edge_store.status import require_daemon

        url = require_daemon(load(config).config)
    key = key or os.environ.get(KEY_VARIABLE)
    headers = {"authorization": f"Bearer {key}"} if key else {}
    try:
        with httpx.Client(
            base_url=url, headers=headers, timeout=timeout_s, trust_env=False
        ) as client:
            yield client
    except httpx.TransportError as exc:
        raise StoreError(
            f"the daemon at {url} does not answer: {exc}", hint="see `edge-store status`"
        ) from exc


def asked(answer: "httpx.Response") -> Any:
    """The decoded answer.

    Raises:
        EdgeStoreError: what it says went wrong.
    """
    from edge_store.errors import EdgeStoreError

    if answer.is_error:
        try:
            error = answer.json()["error"]
            hint = error.get("hint") or ""
            if answer.status_code == UNAUTHORIZED:  # the daemon cannot know where the key is from
                hint = f"give the API key in {KEY_VARIABLE}: `edge-store keys create` makes one"
            raise EdgeStoreError(error["message"], hint=hint)
        except (ValueError, LookupError, TypeError):
            raise EdgeStoreError(f"{answer.url} answered {answer.status_code}") from None
    return answer.json()
