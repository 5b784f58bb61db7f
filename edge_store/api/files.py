"""/v1/files, as OpenAI has them: uploaded ones, and those that batches make."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Literal
from urllib.parse import quote

import msgspec
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import BaseRoute, Route

from edge_store.api.answers import as_json, read_json
from edge_store.api.described import Form, described, text
from edge_store.api.lists import KEPT_S, kept_s, list_of, paged, paging_of
from edge_store.api.protocols import Listed
from edge_store.api.services import Services
from edge_store.api.upload import receive
from edge_store.clock import now_ms
from edge_store.errors import InvalidRequest, NotFound
from edge_store.paging import Paging
from edge_store.queue.batches import new_file_id
from edge_store.queue.records import StoredFile
from edge_store.queue.room import Queue
from edge_store.queue.store import add_file, drop_file, find_file, find_files
from edge_store.recorder.caller import Caller, caller_of, require_full
from edge_store.recorder.sharing import Shares
from edge_store.sqlite import Connection

__all__ = ["file_routes"]

PURPOSES = ("batch", "user_data", "assistants", "vision", "fine-tune", "evals")
LIST_MAX = 10_000
UPLOADS_MAX = 16  # a tenant alone leaves one to others
PIECE_BYTES = 256 * 1024  # of a file that is sent
FILENAME_CHARS_MAX = 255


UPLOAD = Form(
    "multipart/form-data",
    {
        "type": "object",
        "required": ["purpose", "file"],
        "properties": {
            "purpose": {"type": "string", "enum": [*PURPOSES]},
            "file": {"type": "string", "contentMediaType": "application/octet-stream"},
        },
    },
)


class File(msgspec.Struct, forbid_unknown_fields=True):
    """As OpenAI shows it."""

    id: str
    object: Literal["file"]
    bytes: int
    created_at: int
    expires_at: int | None
    filename: str
    purpose: str
    status: Literal["processed"]
    status_details: None


class Deleted(msgspec.Struct, forbid_unknown_fields=True):
    id: str
    object: Literal["file"]
    deleted: bool


def file_routes(services: Services) -> list[BaseRoute]:
    """/v1/files and what is below it; nothing where there is no queue."""
    queue = services.queue
    if queue is None:
        return []
    files = Files(services, queue)
    return [
        Route("/v1/files", files.create, methods=["POST"]),
        Route("/v1/files", files.listed),
        Route("/v1/files/{file_id}", files.delete, methods=["DELETE"]),
        Route("/v1/files/{file_id}", files.retrieve),
        Route("/v1/files/{file_id}/content", files.content),
    ]


class Files:
    """The handlers."""

    def __init__(self, services: Services, queue: Queue) -> None:
        self._reader = services.reader
        self._change = services.change
        self._queue = queue
        hint = "send one after the other"
        self._uploads = Shares(UPLOADS_MAX, "files are being uploaded", hint)

    @described("Take an upload", takes=UPLOAD, gives=(File,))
    async def create(self, request: Request) -> Response:
        """Take an upload."""
        require_full(request.scope)
        with self._uploads.place(caller_of(request.scope).tenant):
            return await self._receive(request)

    async def _receive(self, request: Request) -> Response:
        config = self._queue.config
        upload = await receive(
            request,
            self._queue.store,
            config.queue.file_bytes_max,
            config.server.body_timeout_s,
        )
        try:
            purpose = upload.fields.get("purpose", "")
            if purpose not in PURPOSES:
                problem = f"`purpose` = {purpose!r} is none of {', '.join(PURPOSES)}"
                raise InvalidRequest(problem, param="purpose")
            now = now_ms()
            keep_s = self._keep_s(upload.fields)
            filename = await self._queue.redacting.text(upload.filename)
            file = StoredFile(
                file_id=new_file_id(),
                created_at=now,
                expires_at=None if keep_s is None else now + keep_s * 1000,
                tenant=caller_of(request.scope).tenant,
                purpose=purpose,
                filename=filename[-FILENAME_CHARS_MAX:],
                bytes=upload.file.bytes,
                sha256=upload.file.sha256,
            )
            await self._queue.store.publish([upload.file], lambda: self._enter(file))
        finally:
            upload.file.discard()
        return as_json(_public(file))

    def _keep_s(self, fields: dict[str, str]) -> int | None:
        """How long it is kept: where there are rules of redaction no longer than they say, as its
        bytes stay as they were sent.
        """
        asked, redacting = _kept_s(fields), self._queue.redacting
        if not redacting.is_on:
            return asked
        return min(asked or KEPT_S[1], redacting.config.uploads_kept_s)

    async def _enter(self, file: StoredFile) -> None:
        await self._change(add_file, file)

    @described("Files", query=(*paged(LIST_MAX), text("purpose")), gives=(Listed,))
    async def listed(self, request: Request) -> Response:
        """A page of them, the newest first unless ``order=asc``."""
        page = paging_of(request, default=LIST_MAX, most=LIST_MAX)
        caller, purpose = caller_of(request.scope), request.query_params.get("purpose")
        return await read_json(self._reader, _listed, caller, page, purpose)

    @described("A file", gives=(File,))
    async def retrieve(self, request: Request) -> Response:
        """One of them."""
        return as_json(_public(await self._find(request)))

    @described("Take a file out of the list", gives=(Deleted,))
    async def delete(self, request: Request) -> Response:
        """Take one out of the list; its bytes go when nobody needs them."""
        file = await self._find(request)
        caller_of(request.scope).require_own(file.tenant, f"the file {file.file_id}")
        await self._change(drop_file, file.file_id)
        await self._queue.runner.sweep([file.sha256])
        return as_json({"id": file.file_id, "object": "file", "deleted": True})

    @described("The bytes of a file", gives=(Form("application/octet-stream", {}),))
    async def content(self, request: Request) -> Response:
        """Its bytes."""
        file = await self._find(request)
        path = self._queue.store.path(file.sha256)
        if not path.exists():
            raise NotFound(
                f"the bytes of {file.file_id} are not on this box",
                hint="uploaded files are not replicated: after a restore they are gone",
            )
        name = quote(file.filename)
        return StreamingResponse(
            _pieces(path),
            media_type="application/octet-stream",
            headers={
                "content-length": str(file.bytes),
                "content-disposition": f"attachment; filename*=utf-8''{name}",
            },
        )

    async def _find(self, request: Request) -> StoredFile:
        file_id = request.path_params["file_id"]
        return await self._reader.run(find_file, file_id, caller_of(request.scope))


def _listed(
    connection: Connection, caller: Caller, page: Paging, purpose: str | None
) -> dict[str, Any]:
    found, has_more = find_files(connection, caller, page, purpose)
    return list_of([_public(file) for file in found], has_more=has_more)


def _kept_s(fields: dict[str, str]) -> int | None:
    """The seconds of ``expires_after``."""
    text = fields.get("expires_after[seconds]")
    if text is None:
        return None
    seconds = int(text) if text.isascii() and text.isdigit() and len(text) < 10 else text
    return kept_s("expires_after[{}]", fields.get("expires_after[anchor]"), seconds)


def _public(file: StoredFile) -> dict[str, Any]:
    """As OpenAI shows it."""
    return {
        "id": file.file_id,
        "object": "file",
        "bytes": file.bytes,
        "created_at": file.created_at // 1000,
        "expires_at": None if file.expires_at is None else file.expires_at // 1000,
        "filename": file.filename,
        "purpose": file.purpose,
        "status": "processed",
        "status_details": None,
    }


async def _pieces(path: Path) -> AsyncIterator[bytes]:
    file = await asyncio.to_thread(path.open, "rb")
    try:
        while piece := await asyncio.to_thread(file.read, PIECE_BYTES):
            yield piece
    finally:
        file.close()
