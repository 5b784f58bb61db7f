"""An upload: ``multipart/form-data`` with one file, which goes to the disk as it arrives."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any, NamedTuple

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.requests import ClientDisconnect, Request

from edge_store.errors import (
    ClientDisconnected,
    InvalidRequest,
    PayloadTooLarge,
    RequestTimeout,
)
from edge_store.queue.files import FileStore, NewFile

__all__ = ["Upload", "receive"]

FIELD_BYTES_MAX = 4096
FIELDS_MAX = 16
FORM_BYTES = 64 * 1024  # of an upload beside its file
WRITE_BYTES = 1024 * 1024  # at a time, on another thread


class Upload(NamedTuple):
    """A file that is whole on the disk and not published, and the fields that came with it."""

    file: NewFile
    filename: str
    fields: dict[str, str]


class Parts:
    """Takes the parser's calls: bytes of the file gather until they are written."""

    def __init__(self) -> None:
        self.pending = bytearray()
        self.filename: str | None = None
        self.fields: dict[str, bytes] = {}
        self.is_ended = False
        self._header = b""
        self._value = b""
        self._name = ""
        self._is_file = False

    def callbacks(self) -> Any:
        """As the parser names them."""
        return {
            "on_part_begin": self._begin,
            "on_header_field": self._field,
            "on_header_value": self._header_value,
            "on_header_end": self._header_end,
            "on_part_data": self._data,
            "on_end": self._end,
        }

    def _begin(self) -> None:
        self._name, self._is_file = "", False
        self._header = self._value = b""

    def _field(self, data: bytes, start: int, end: int) -> None:
        self._header += data[start:end]

    def _header_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def _header_end(self) -> None:
        if self._header.lower() == b"content-disposition":
            _, options = parse_options_header(self._value)
            self._name = options.get(b"name", b"").decode(errors="replace")
            if self._name == "file":
                if self.filename is not None:
                    raise InvalidRequest("the form has two fields `file`", param="file")
                self._is_file = True
                self.filename = options.get(b"filename", b"").decode(errors="replace") or "upload"
            elif len(self.fields) == FIELDS_MAX:
                raise InvalidRequest(f"the form has over {FIELDS_MAX} fields")
        self._header = self._value = b""

    def _data(self, data: bytes, start: int, end: int) -> None:
        if self._is_file:
            self.pending += data[start:end]
            return
        value = self.fields.get(self._name, b"") + data[start:end]
        if len(value) > FIELD_BYTES_MAX:
            raise InvalidRequest(f"the field {self._name!r} has over {FIELD_BYTES_MAX} bytes")
        self.fields[self._name] = value

    def _end(self) -> None:
        self.is_ended = True


async def receive(request: Request, store: FileStore, bytes_max: int, silence_s: float) -> Upload:
    """Read a form with a field ``file``. The caller publishes the file, or discards it.

    Raises:
        InvalidRequest, PayloadTooLarge, RequestTimeout, ClientDisconnected: its sender's fault.
        DiskFull, StoreError: the disk's. Of the file nothing is left.
    """
    kind, options = parse_options_header(request.headers.get("content-type"))
    boundary = options.get(b"boundary")
    if kind != b"multipart/form-data" or not boundary:
        raise InvalidRequest(
            "the body must be multipart/form-data",
            hint="with the fields `file` and `purpose`, as OpenAI's SDK sends it",
        )
    announced = int(request.headers.get("content-length", "0"))  # the server has checked it
    if announced > bytes_max + FORM_BYTES:
        raise _too_large(bytes_max)
    parts = Parts()
    file = await asyncio.to_thread(store.create, announced)
    try:
        parser = MultipartParser(boundary, parts.callbacks())
        async for chunk in _chunks(request, silence_s):
            parser.write(chunk)
            if file.bytes + len(parts.pending) > bytes_max:
                raise _too_large(bytes_max)
            if len(parts.pending) >= WRITE_BYTES:
                await asyncio.to_thread(file.write, bytes(parts.pending))
                parts.pending.clear()
        parser.finalize()
        if not parts.is_ended or parts.filename is None:
            raise InvalidRequest("the form has no field `file`, or no end", param="file")
        await asyncio.to_thread(file.write, bytes(parts.pending))
        await asyncio.to_thread(file.finish)
    except FormParserError as exc:
        file.discard()
        raise InvalidRequest(f"the body is no multipart/form-data: {exc}") from exc
    except BaseException:
        file.discard()
        raise
    fields = {name: value.decode(errors="replace") for name, value in parts.fields.items()}
    return Upload(file, parts.filename, fields)


async def _chunks(request: Request, silence_s: float) -> AsyncIterator[bytes]:
    stream = request.stream()
    while True:
        try:
            async with asyncio.timeout(silence_s):
                chunk = await anext(stream)
        except StopAsyncIteration:
            return
        except ClientDisconnect:
            raise ClientDisconnected("the sender left before the end of the file") from None
        except TimeoutError:
            raise RequestTimeout(
                f"nothing of the body came for {silence_s:g} s",
                hint="send it faster, or raise server.body_timeout_s",
            ) from None
        yield chunk


def _too_large(bytes_max: int) -> PayloadTooLarge:
    return PayloadTooLarge(
        f"the file has over {bytes_max} bytes", hint="send less, or raise queue.file_bytes_max"
    )
