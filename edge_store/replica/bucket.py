"""What we need of a store, whichever it is: small objects by key, ranges of them, and listings.

The calls block, with short timeouts and one retry, on a thread of the caller's: obstore's own
threads, behind its asynchronous calls, abort a process that ends soon after them.
"""

import fcntl
import os
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import timedelta
from pathlib import Path
from typing import Any, Protocol

import msgspec
import obstore
from obstore.exceptions import (
    AlreadyExistsError,
    BaseError,
    NotFoundError,
    PermissionDeniedError,
    PreconditionError,
    UnauthenticatedError,
)
from obstore.store import AzureStore, GCSStore, LocalStore, S3Store

from edge_store.errors import ReplicaNotFound
from edge_store.replica.explain import ABSENT as ABSENT_BUCKETS
from edge_store.replica.explain import code_of, status_of
from edge_store.replica.location import Credentials, Location, Scheme
from edge_store.result import Record

__all__ = ["REFUSALS", "Bucket", "Entry", "Found", "Precondition", "open_bucket", "shared_buckets"]

CONNECT_TIMEOUT, REQUEST_TIMEOUT = "3s", "10s"
DOWNLOAD_TIMEOUT = "1h"  # of one request; a read that stalls ends after REQUEST_TIMEOUT
RETRY_TIMEOUT = timedelta(seconds=10)
LISTS_AT_A_TIME = 32
QUOTE = '"'
REFUSALS = (PermissionDeniedError, UnauthenticatedError, PermissionError)
ABSENT = (NotFoundError, FileNotFoundError)

_shared: ContextVar["dict[Any, Bucket] | None"] = ContextVar("shared", default=None)

# "overwrite", "create" (only if there is none), or the version that must still be there
Precondition = str | dict[str, str]


class Found(Record, frozen=True, kw_only=True):
    """An object as it was read. ``written_at``: UTC ms by the store's clock."""

    content: bytes
    written_at: int
    version: dict[str, str]  # what the store knows this state of it by


class Entry(Record, frozen=True, kw_only=True):
    """An object as it is listed. ``written_at``: UTC ms by the store's clock."""

    key: str
    size: int
    written_at: int
    version: str | None  # what the store knows this state of it by


class Bucket(Protocol):
    """Keys have no slash at either end. ``put`` tells whether the precondition held, as far as the
    store can tell; one that cannot writes over what is there. ``folders`` are those in each prefix,
    or why they cannot be listed.
    """

    def get(self, key: str) -> Found | None: ...

    def get_range(self, key: str, start: int, length: int) -> bytes: ...

    def stream(
        self, key: str, start: int, chunk_bytes: int, version: str | None
    ) -> Iterator[bytes]: ...

    def put(self, key: str, content: bytes, precondition: Precondition) -> bool: ...

    def delete(self, key: str) -> None: ...

    def entries(self, prefix: str | None) -> Iterator[Entry]: ...

    def folders(
        self, prefixes: Sequence[str | None], timeout_s: float
    ) -> list[list[str] | Exception]: ...


def open_bucket(
    location: Location,
    credentials: Credentials | None,
    *,
    make_folder: bool = False,
    for_download: bool = False,
) -> Bucket:
    """The store of a location. No request is made yet. ``for_download`` a request has no bound but
    of each read, and is not tried again: what has arrived is the caller's to keep.

    Raises:
        ReplicaNotFound: its folder on this machine is not there, and is not to be made.
        ConfigError: its library is not installed.
    """
    if location.scheme is Scheme.SFTP:
        from edge_store.replica.sftp import SftpBucket  # noqa: PLC0415  (few boxes need it)

        return SftpBucket(location, make_folder=make_folder)
    if location.scheme is Scheme.FILE:
        if make_folder:  # as Litestream makes it
            Path(location.path).mkdir(mode=0o750, parents=True, exist_ok=True)
        store = _open_store(location, credentials, for_download=for_download)
        return FolderBucket(store, Path(location.path))
    shared, which = _shared.get(), (location, credentials, for_download)
    if shared is None or which not in shared:
        bucket = StoreBucket(_open_store(location, credentials, for_download=for_download))
        if shared is None:
            return bucket
        shared[which] = bucket
    return shared[which]


@contextmanager
def shared_buckets() -> Iterator[None]:
    """Within it a store is opened once, and its connections are used again: for who asks it
    thousands of times in a row. To make a client costs 5 ms of CPU, most of it for certificates; a
    connection that has long been idle may be dead, so who asks now and then makes a new one.
    """
    kept = _shared.set({})
    try:
        yield
    finally:
        _shared.reset(kept)


class StoreBucket:
    """What obstore reaches."""

    def __init__(self, store: Any) -> None:
        self._store = store

    def get(self, key: str) -> Found | None:
        try:
            answer = obstore.get(self._store, key)
        except ABSENT as exc:
            if code_of(str(exc)) in ABSENT_BUCKETS:
                raise
            return None
        meta = answer.meta
        return Found(
            content=bytes(answer.bytes()),
            written_at=round(meta["last_modified"].timestamp() * 1000),
            version={name: str(meta[name]) for name in ("e_tag", "version") if meta[name]},
        )

    def get_range(self, key: str, start: int, length: int) -> bytes:
        return bytes(obstore.get_range(self._store, key, start=start, length=length))

    def stream(
        self, key: str, start: int, chunk_bytes: int, version: str | None
    ) -> Iterator[bytes]:
        options: Any = {}
        if start:
            options["range"] = {"offset": start}
        if version is not None:
            options["if_match"] = self._as_condition(version)
        answer = obstore.get(self._store, key, options=options)
        if answer.meta["size"] - start <= chunk_bytes:  # one call for three
            yield bytes(answer.bytes())
            return
        for chunk in answer.stream(min_chunk_size=chunk_bytes):
            yield bytes(chunk)

    def _as_condition(self, listed: str) -> str:
        """An ETag in quotes: Azure lists it without them."""
        if isinstance(self._store, AzureStore):
            return f'"{listed.strip(QUOTE)}"'
        return listed

    def put(self, key: str, content: bytes, precondition: Precondition) -> bool:
        mode: Any = precondition or "overwrite"
        try:
            obstore.put(self._store, key, content, mode=mode, use_multipart=False)
        except (AlreadyExistsError, PreconditionError):
            return False
        except ABSENT as exc:  # it is gone; a bucket that is has its own meaning
            if isinstance(mode, dict) and code_of(str(exc)) not in ABSENT_BUCKETS:
                return False
            raise
        except BaseError as exc:
            if mode == "overwrite" or status_of(str(exc)) != "501":  # as B2 answers a condition
                raise
            obstore.put(self._store, key, content, use_multipart=False)
        return True

    def delete(self, key: str) -> None:
        try:
            obstore.delete(self._store, key)
        except ABSENT:
            return

    def entries(self, prefix: str | None) -> Iterator[Entry]:
        for chunk in obstore.list(self._store, prefix=prefix):
            for each in chunk:
                written_at = round(each["last_modified"].timestamp() * 1000)
                yield Entry(
                    key=each["path"],
                    size=each["size"],
                    written_at=written_at,
                    version=each["e_tag"],
                )

    def folders(
        self, prefixes: Sequence[str | None], timeout_s: float
    ) -> list[list[str] | Exception]:
        ends_at = time.monotonic() + timeout_s

        def below(prefix: str | None) -> list[str] | Exception:
            if time.monotonic() > ends_at:
                return TimeoutError()
            try:
                found = obstore.list_with_delimiter(self._store, prefix=prefix)["common_prefixes"]
            except (BaseError, OSError) as exc:
                return exc
            return [str(each).rstrip("/") for each in found]

        with ThreadPoolExecutor(LISTS_AT_A_TIME) as threads:
            return list(threads.map(below, prefixes))


class FolderBucket(StoreBucket):
    """A folder on this machine. It knows no condition on what is replaced; the boxes that share it
    lock it for each other.
    """

    def __init__(self, store: Any, folder: Path) -> None:
        super().__init__(store)
        self._folder = folder

    def put(self, key: str, content: bytes, precondition: Precondition) -> bool:
        if not isinstance(precondition, dict):
            return super().put(key, content, precondition)
        lock = os.open((self._folder / key).parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            found = self.get(key)
            if found is None or found.version != precondition:
                return False
            return super().put(key, content, "overwrite")
        finally:
            os.close(lock)


def _open_store(location: Location, credentials: Credentials | None, *, for_download: bool) -> Any:
    if location.scheme is Scheme.FILE:
        if not Path(location.path).is_dir():
            raise ReplicaNotFound(
                f"{location}: there is no such folder",
                hint="check the address, and that the disk is mounted",
            )
        return LocalStore(location.path, automatic_cleanup=True)  # of a folder that is empty
    assert credentials is not None, "read_credentials comes before open_bucket"
    common: dict[str, Any] = {
        "client_options": {
            "allow_http": bool(location.endpoint and location.endpoint.startswith("http://")),
            "timeout": DOWNLOAD_TIMEOUT if for_download else REQUEST_TIMEOUT,
            "read_timeout": REQUEST_TIMEOUT,
            "connect_timeout": CONNECT_TIMEOUT,
        },
        "retry_config": {"max_retries": 0 if for_download else 1, "retry_timeout": RETRY_TIMEOUT},
    }
    match location.scheme:
        case Scheme.GCS:
            if credentials.emulator:  # there is no other way to ask for no token before a write
                account = {"gcs_base_url": credentials.emulator, "disable_oauth": True}
                account |= dict.fromkeys(("client_email", "private_key", "private_key_id"), "")
                key = msgspec.json.encode(account).decode()
                return GCSStore(location.bucket, service_account_key=key, **common)
            return GCSStore(location.bucket, service_account=credentials.file, **common)
        case Scheme.AZURE:
            return _open_container(location, credentials, common)
    if location.kms_key:
        common |= {"server_side_encryption": "aws:kms", "sse_kms_key_id": location.kms_key}
    if (endpoint := _endpoint(location)) is not None:  # None is refused; without one it is AWS
        common["endpoint"] = endpoint
    return S3Store(
        bucket=location.bucket,
        region=location.region,
        access_key_id=credentials.access_key_id,
        secret_access_key=credentials.secret_access_key,
        virtual_hosted_style_request=not location.is_path_style,
        **common,
    )


def _open_container(
    location: Location, credentials: Credentials, options: dict[str, Any]
) -> AzureStore:
    """Azure's. A SAS is handed over by a function, which obstore asks before it looks for a key in
    the environment: that may be another account's.
    """
    if location.endpoint:
        options["endpoint"] = location.endpoint
    if credentials.sas_token:
        options["credential_provider"] = lambda: {
            "sas_token": credentials.sas_token,
            "expires_at": None,
        }
    else:
        options["account_key"] = credentials.account_key
    return AzureStore(location.bucket, account_name=location.account, **options)


def _endpoint(location: Location) -> str | None:
    """As obstore wants it: with the bucket in the host's name where that is the style."""
    if location.endpoint is None or location.is_path_style:
        return location.endpoint
    scheme, _, host = location.endpoint.partition("://")
    return f"{scheme}://{location.bucket}.{host}"
