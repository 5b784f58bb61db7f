"""Stands before fake-gcs-server, which answers Google's JSON API and of the XML API only reads.

Litestream's requests are of the JSON API and are passed on as they are. Those of our client
(obstore) are of the XML API: its writes, removals and lists are asked for in JSON, conditions
included, and answered as the XML API does (https://cloud.google.com/storage/docs/xml-api). As a
program: ``gcsfront.py PORT PORT-OF-THE-SERVER``. It says ``ready``.
"""

import re
import socket
import sys
from typing import Any
from urllib.parse import quote, unquote
from xml.sax.saxutils import escape

import httpx
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

__all__: list[str] = []

OBJECT = re.compile(r"/(?!storage/|upload/|download/|batch/|_internal/)([^/?]+)/([^?]+)")
BUCKET = re.compile(r"/([^/?]+)/?")
HOP_BY_HOP = ("connection", "transfer-encoding", "content-length", "content-encoding", "date")
TIMEOUT_S = 60.0
CODES = {404: "NoSuchKey", 412: "PreconditionFailed"}


class Front:
    """Answers one request after the other's arrival, in any order."""

    def __init__(self, port: int) -> None:
        base_url = f"http://127.0.0.1:{port}"
        self._client = httpx.AsyncClient(base_url=base_url, timeout=TIMEOUT_S, trust_env=False)

    async def answer(self, request: Request) -> Response:
        path = request.scope["raw_path"].decode()
        found = OBJECT.fullmatch(path)
        if found and request.method == "PUT":
            return await self._put(request, found[1], unquote(found[2]))
        if found and request.method == "DELETE":
            where = f"/storage/v1/b/{found[1]}/o/{quote(unquote(found[2]), safe='')}"
            return _xml(await self._client.delete(where), done=204)
        if BUCKET.fullmatch(path) and "list-type" in request.query_params:
            return await self._list(request, path.strip("/"))
        return await self._forward(request, path)

    async def _forward(self, request: Request, path: str) -> Response:
        headers = {n: v for n, v in request.headers.items() if n not in HOP_BY_HOP}
        where = httpx.URL(f"{self._client.base_url}").copy_with(
            raw_path=path.encode() + b"?" + request.scope["query_string"]
        )
        reply = await self._client.request(
            request.method, where, content=await request.body(), headers=headers
        )
        kept = {n: v for n, v in reply.headers.items() if n not in HOP_BY_HOP}
        if request.method == "HEAD":
            kept["content-length"] = reply.headers.get("content-length", "0")
        return Response(reply.content, reply.status_code, kept)

    async def _put(self, request: Request, bucket: str, key: str) -> Response:
        asked = {"uploadType": "multipart", "name": key}
        generation = request.headers.get("x-goog-if-generation-match")
        if generation is not None:
            asked["ifGenerationMatch"] = generation
        head = b"--part\r\ncontent-type: application/json\r\n\r\n{}\r\n--part\r\n"
        head += b"content-type: application/octet-stream\r\n\r\n"
        reply = await self._client.post(
            f"/upload/storage/v1/b/{bucket}/o",
            params=asked,
            headers={"content-type": "multipart/related; boundary=part"},
            content=head + await request.body() + b"\r\n--part--\r\n",
        )
        answer = _xml(reply, absent="NoSuchBucket")
        if reply.status_code == 200:
            made = reply.json()
            answer.headers["etag"] = f'"{made["etag"]}"'
            answer.headers["x-goog-generation"] = made["generation"]
        return answer

    async def _list(self, request: Request, bucket: str) -> Response:
        names = {"prefix": "prefix", "delimiter": "delimiter", "max-keys": "maxResults"}
        names["continuation-token"] = "pageToken"
        asked = {names[n]: v for n, v in request.query_params.items() if n in names}
        reply = await self._client.get(f"/storage/v1/b/{bucket}/o", params=asked)
        if reply.status_code != 200:
            return _xml(reply, absent="NoSuchBucket")
        found = reply.json()
        next_token = found.get("nextPageToken", "")
        parts = [f"<Name>{bucket}</Name><IsTruncated>{str(bool(next_token)).lower()}</IsTruncated>"]
        if next_token:
            parts.append(f"<NextContinuationToken>{escape(next_token)}</NextContinuationToken>")
        parts.extend(map(_entry, found.get("items", ())))
        for prefix in map(escape, found.get("prefixes", ())):
            parts += ("<CommonPrefixes><Prefix>", prefix, "</Prefix></CommonPrefixes>")
        content = f"<ListBucketResult>{''.join(parts)}</ListBucketResult>"
        return Response(content, media_type="application/xml")


def _entry(item: dict[str, Any]) -> str:
    return (
        f"<Contents><Key>{escape(item['name'])}</Key><Generation>{item['generation']}</Generation>"
        f"<LastModified>{item['updated']}</LastModified><ETag>&quot;{item['etag']}&quot;</ETag>"
        f"<Size>{item['size']}</Size></Contents>"
    )


def _xml(reply: httpx.Response, *, done: int = 200, absent: str = "NoSuchKey") -> Response:
    if reply.is_success:
        return Response(status_code=done)
    code = absent if reply.status_code == 404 else CODES.get(reply.status_code, "InternalError")
    content = f"<Error><Code>{code}</Code><Message>as JSON: {escape(reply.text)}</Message></Error>"
    return Response(content, reply.status_code, media_type="application/xml")


def main() -> None:
    port, behind = map(int, sys.argv[1:])
    front = Front(behind)
    methods = ["GET", "HEAD", "PUT", "POST", "DELETE", "PATCH"]
    application = Starlette(routes=[Route("/{path:path}", front.answer, methods=methods)])
    listening = socket.create_server(("127.0.0.1", port))
    print("ready", flush=True)
    config = uvicorn.Config(application, log_level="warning", server_header=False)
    uvicorn.Server(config).run(sockets=[listening])


if __name__ == "__main__":
    main()
