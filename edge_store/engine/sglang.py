"""SGLang in this process: its engine, and its own HTTP application behind our recorder.

So chat templates, parsers of tools and reasoning, and constrained decoding are SGLang's. The model
loads on a thread while the daemon already answers; its scheduler may die, and the daemon lives to
record that. What is private to SGLang is in ``sglang_private``.
"""

import asyncio
import multiprocessing
import os
import shutil
import signal
import tempfile
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import msgspec
from prometheus_client import REGISTRY, CollectorRegistry, Metric, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector

from edge_store.config import EngineKind
from edge_store.engine import sglang_private as private
from edge_store.engine.protocol import ASGIMessage, Receive, Scope, Send
from edge_store.engine.sglang_ollama import with_counts
from edge_store.errors import (
    AdmissionClosed,
    ConfigError,
    EdgeStoreError,
    EngineCrashed,
    EngineStartFailed,
    InvalidRequest,
)
from edge_store.ids import ResultId
from edge_store.loggers import get_logger

__all__ = ["SGLangEngine", "find_sglang"]

log = get_logger(__name__)

KILLED_WITHIN_S = 5.0
ANSWER_BYTES_SHOWN = 500
READ_OF_A_MODEL = (".json", ".safetensors", ".bin", ".model", ".gguf")
WEIGHTS = (".safetensors", ".bin", ".pt", ".gguf")
WEIGHTS_IN_FOLDER = ("auto", "safetensors", "pt", "npcache")  # of SGLang's values of load_format
LFS_POINTER = b"version https://git-lfs"
LAST_WORDS_S = 10.0  # from a process's death while it loads until SGLang says why
# the warm-up
GENERATION = {"text": "warm-up", "sampling_params": {"max_new_tokens": 4, "temperature": 0}}
EMBEDDING = {"input": "warm-up"}


class SGLangEngine:
    """``engine.kind = "sglang"``. ``arguments`` are those of SGLang's ``ServerArgs``.

    Raises:
        ConfigError: SGLang is not installed or too old, or the model is not there.
    """

    name = EngineKind.SGLANG.value
    takes_rid = True
    gives_partial = True

    def __init__(self, arguments: Mapping[str, Any], on_sigterm: Callable[[], None]) -> None:
        self.version, self._is_tested = find_sglang(arguments)
        self.model: str | None = None
        self._arguments = dict(arguments)
        self._on_sigterm = on_sigterm
        self._thread = ThreadPoolExecutor(1, "sglang")  # its end would kill SGLang's processes
        self._launched: asyncio.Future[Any]
        self._died: asyncio.Future[EngineCrashed]
        self._mounted: private.Mounted | None = None
        self._is_ready = False
        self._metrics_folder = ""

    async def __aenter__(self) -> Self:
        """Begin to load the model."""
        if not self._is_tested:
            log.warning(
                "sglang_not_tested", version=self.version, tested=private.SUPPORTED_VERSIONS
            )
        loop = asyncio.get_running_loop()
        self._died = loop.create_future()
        # the default action would end this process; SGLang installs its own on a main thread only
        loop.add_signal_handler(signal.SIGQUIT, self._on_death)
        self._metrics_folder = tempfile.mkdtemp(prefix="edge-store-sglang-")
        os.environ[private.METRICS_VARIABLE] = self._metrics_folder  # for SGLang's processes
        self._launched = loop.run_in_executor(self._thread, private.launch, self._arguments)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Kill SGLang's processes, loaded or not. By now every other child has ended."""
        self._is_ready = False
        if self._mounted is not None:
            try:
                await self._mounted.stop()
            except Exception:  # a foreign program's: how we end must not depend on it
                log.exception("sglang_did_not_stop")
        await asyncio.to_thread(_kill_children)
        os.environ.pop(private.METRICS_VARIABLE, None)
        shutil.rmtree(self._metrics_folder, ignore_errors=True)

    async def until_ready(self) -> None:
        """Return once the model is loaded and has generated.

        Raises:
            ConfigError: SGLang refuses an argument.
            EngineStartFailed: the model did not load, or did not generate.
        """
        await asyncio.wait({self._launched, self._died}, return_when=asyncio.FIRST_COMPLETED)
        if self._died.done():
            await asyncio.wait({self._launched}, timeout=LAST_WORDS_S)
        if not self._launched.done():
            raise EngineStartFailed("a process of SGLang died while the model was loaded")
        try:
            engine = self._launched.result()
        except EdgeStoreError:
            raise
        except Exception as exc:  # a foreign program: what it raises is its fault
            raise EngineStartFailed(
                f"SGLang {self.version} did not load {self._arguments['model_path']}: {exc}",
                hint="its own lines are above in the log",
            ) from exc
        try:
            await self._mount(engine)
        except EdgeStoreError:
            raise
        except Exception as exc:
            raise EngineStartFailed(
                f"SGLang {self.version} could not be mounted: {type(exc).__name__}: {exc}",
                hint=private.UPSTREAM_HINT,
            ) from exc

    async def _mount(self, engine: Any) -> None:
        mounted = private.Mounted(engine, self._on_sigterm, self._on_death)
        self._mounted = mounted
        await mounted.start()
        await self._warm_up(mounted)
        self.model = mounted.model
        self._is_ready = True

    async def _warm_up(self, mounted: private.Mounted) -> None:
        if mounted.is_generation:
            request = _post(mounted.app, "/generate", GENERATION)
        else:
            request = _post(mounted.app, "/v1/embeddings", {**EMBEDDING, "model": mounted.model})
        answering = asyncio.ensure_future(request)
        waiting: set[asyncio.Future[Any]] = {answering, self._died}
        try:
            await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        finally:
            answering.cancel()  # unless it is done
            await asyncio.wait({answering})
        if answering.cancelled():
            raise EngineStartFailed("SGLang's scheduler died at the warm-up generation")
        status, answer = answering.result()
        if status != 200:
            text = answer[:ANSWER_BYTES_SHOWN].decode(errors="replace")
            raise EngineStartFailed(f"SGLang answered the warm-up with {status}: {text}")
        await mounted.settle()

    async def until_dead(self) -> EdgeStoreError:
        """Return when a process of SGLang has died, with what to tell those who wait."""
        return await asyncio.shield(self._died)

    def _on_death(self) -> None:
        """SIGQUIT: how SGLang's processes, or its watch over them, say that one has died."""
        self._is_ready = False
        if not self._died.done():
            self._died.set_result(
                EngineCrashed("SGLang's scheduler died", hint="the daemon restarts; try again")
            )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self._died.done():
            raise self._died.result().with_traceback(None)
        if self._mounted is None or not self._is_ready:
            raise AdmissionClosed("the engine is loading its model")
        private.CURRENT.set(scope.get("result_id"))
        try:
            await self._mounted.app(scope, receive, with_counts(scope, send))
        except ValueError as exc:  # what SGLang raises at a bad request, where a route lets it pass
            if isinstance(exc, UnicodeError) or "result_id" not in scope:
                raise
            raise InvalidRequest(str(exc)) from exc

    def abort(self, result_id: ResultId) -> None:
        # a dead scheduler takes no message
        if self._mounted is not None and not self._died.done():
            self._mounted.abort(result_id)

    async def is_ready(self) -> bool:
        return self._is_ready

    def metrics(self) -> bytes:
        """SGLang's metrics: of its part in this process, and of its own processes."""
        if self._mounted is None:
            return b""
        families: dict[str, Metric] = {}
        processes = MultiProcessCollector(None, self._metrics_folder)  # type: ignore[no-untyped-call]
        for family in (*REGISTRY.collect(), *processes.collect()):  # type: ignore[no-untyped-call]
            known = families.setdefault(family.name, family)
            if known is not family:  # each process has its own samples of it
                known.samples += family.samples
        merged = CollectorRegistry()
        merged.register(Collected(families.values()))
        return generate_latest(merged)


class Collected(Collector):
    """Metrics that have been read already."""

    def __init__(self, families: Iterable[Metric]) -> None:
        self._families = families

    def collect(self) -> Iterable[Metric]:
        return self._families


def find_sglang(arguments: Mapping[str, Any]) -> tuple[str, bool]:
    """SGLang's version, and whether this package was tested with it. Imports nothing of it.

    Raises:
        ConfigError: it is not installed or too old, or the model is not there.
    """
    version = private.installed_version()
    private.refuse_ours(arguments)
    _require_model(str(arguments["model_path"]), str(arguments.get("load_format", "auto")))
    return version, version in private.SUPPORTED_VERSIONS


def _require_model(path: str, load_format: str) -> None:
    """What looks like a path must be a model that can be read; a name is SGLang's to resolve."""
    model = Path(path).expanduser()
    is_name = "://" in path or (path.count("/") <= 1 and not path.startswith((".", "/", "~")))
    try:
        if is_name and not model.exists():
            return
        files = _files_of(model)
        pointer = next((file for file in files if _is_pointer(file)), None)
    except OSError as exc:
        raise ConfigError(
            f"engine.sglang.model_path = {path!r}: {exc.filename} cannot be read: {exc.strerror}",
            hint="give the folder of a model in Hugging Face's format, readable by this user",
        ) from exc
    if load_format not in WEIGHTS_IN_FOLDER:
        return
    if pointer is not None:
        raise ConfigError(
            f"engine.sglang.model_path = {path!r}: {pointer.name} is a pointer of Git LFS, not "
            "what it points to",
            hint=f"get the files themselves: `git -C {model} lfs pull`",
        )
    if model.is_dir() and not any(file.suffix in WEIGHTS for file in model.iterdir()):
        raise ConfigError(
            f"engine.sglang.model_path = {path!r}: the folder has no weights: none of "
            + ", ".join(f"*{suffix}" for suffix in WEIGHTS),
            hint='get all files of the model; with load_format = "dummy" SGLang makes weights up',
        )


def _files_of(model: Path) -> list[Path]:
    """What SGLang will read of it; each of its processes would fail on its own at one it cannot."""
    if not model.is_dir():
        return [model]
    files = [file for file in model.iterdir() if file.suffix in READ_OF_A_MODEL]
    return [model / "config.json", *sorted(files)]


def _is_pointer(file: Path) -> bool:
    """Whether it has been cloned without Git LFS. Raises ``OSError`` where it cannot be read."""
    with file.open("rb") as opened:
        return opened.read(len(LFS_POINTER)) == LFS_POINTER


async def _post(app: Any, path: str, request: Mapping[str, Any]) -> tuple[int, bytes]:
    """One request of our own, straight to the application: its status and body."""
    body = msgspec.json.encode(request)
    scope = {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": "POST",
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "root_path": "",
        "headers": [
            (b"host", b"localhost"),
            (b"content-type", b"application/json"),
            (b"content-length", str(len(body)).encode()),
        ],
        "client": ("127.0.0.1", 0),
        "server": ("127.0.0.1", 0),
    }
    waiting = [body]
    status, chunks = 0, []

    async def receive() -> ASGIMessage:
        if waiting:
            return {"type": "http.request", "body": waiting.pop(), "more_body": False}
        await asyncio.Event().wait()  # the caller never leaves
        raise AssertionError

    async def send(message: ASGIMessage) -> None:
        nonlocal status
        if message["type"] == "http.response.start":
            status = message["status"]
        else:
            chunks.append(message.get("body", b""))

    await app(scope, receive, send)
    return status, b"".join(chunks)


def _kill_children() -> None:
    """What a load that was interrupted leaves; SGLang's own shutdown needs a loaded engine."""
    for child in multiprocessing.active_children():
        child.kill()
        child.join(KILLED_WITHIN_S)
