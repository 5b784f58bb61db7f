"""Every name of SGLang that this package uses, the private ones above all. Nothing else imports it.

``sglang.Engine`` starts the model; SGLang's own HTTP application is then mounted on it in this
process, which SGLang itself does only behind its own server. So the names below are not promised to
stay: ``check`` looks for each before the model is loaded, and says which one a version lacks.
"""

# ruff: noqa: SLF001  (private names are what this file is for)

import asyncio
import logging
import re
from collections import UserDict
from collections.abc import Awaitable, Callable, Iterable, Mapping
from contextvars import ContextVar
from functools import reduce
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import Any, TypeVar

from edge_store.ebnf import GrammarRefused, endless_rule, parse
from edge_store.engine.references import endless_in_tag, endless_reference
from edge_store.engine.sglang_ollama import METER, metered
from edge_store.engine.turns import Turns
from edge_store.errors import ConfigError
from edge_store.ids import ResultId

__all__ = [
    "CURRENT",
    "METRICS_VARIABLE",
    "SUPPORTED_VERSIONS",
    "UPSTREAM_HINT",
    "Mounted",
    "installed_version",
    "launch",
    "refuse_ours",
]

SUPPORTED_VERSIONS = ("0.5.17", "0.5.23")
OLDEST = (0, 5, 17)  # before it the application cannot be mounted

HTTP = "sglang.srt.entrypoints.http_server"
ENGINE = "sglang.srt.entrypoints.engine"
ARGUMENTS = "sglang.srt.server_args"
MANAGER = "sglang.srt.managers.tokenizer_manager"
NAMES = (
    (ENGINE, "Engine"),
    (ENGINE, "Engine.shutdown"),
    (ARGUMENTS, "ServerArgs"),
    (HTTP, "app"),
    (HTTP, "set_global_state"),
    (HTTP, "_GlobalState"),
    (HTTP, "_wait_and_warmup"),
    (MANAGER, "ServerStatus.Up"),
    (MANAGER, "print_exception_wrapper"),
    (MANAGER, "TokenizerManager.abort_request"),
    (MANAGER, "TokenizerManager.auto_create_handle_loop"),
    (MANAGER, "TokenizerManager.create_abort_task"),
    (MANAGER, "TokenizerManager.freeze_gc"),
    (MANAGER, "TokenizerManager.generate_request"),
)

UPSTREAM_HINT = (
    "install sglang " + " or ".join(SUPPORTED_VERSIONS) + ", or run `python -m "
    'sglang.launch_server` and set engine.kind = "upstream", engine.upstream.base_url = '
    '"http://127.0.0.1:30000"'
)

# What an appliance wants where its owner says nothing. With whitespace left to the model, a JSON
# answer may be nothing but tabs until its tokens run out.
DEFAULTS = {
    "constrained_json_disable_any_whitespace": True,
    "grammar_backend": "xgrammar",
    "enable_metrics": True,
    "log_level": "warning",
}
OURS = {
    "host": "server.host",
    "port": "server.port",
    "api_key": "a proxy that checks callers",
    "admin_api_key": "a proxy that checks callers",
}

GRAMMAR_CHARS_MAX = 16 * 1024  # beyond that an `ebnf` is not looked through
METRICS_VARIABLE = "PROMETHEUS_MULTIPROC_DIR"  # names the folder where its processes leave them

CURRENT: ContextVar[ResultId | None] = ContextVar("result_id", default=None)

T = TypeVar("T")


def installed_version() -> str:
    """SGLang's version, without importing it.

    Raises:
        ConfigError: it is not installed, or too old to run inside the daemon.
    """
    try:
        found = version("sglang")
    except PackageNotFoundError:
        raise ConfigError(
            'engine.kind = "sglang", and SGLang is not installed',
            hint="install it, in a checkout of edge-store: `pip install '.[sglang]'`",
        ) from None
    numbers = tuple(int(number) for number in re.findall(r"\d+", found)[:3])
    if numbers < OLDEST:
        raise ConfigError(f"SGLang {found} cannot run inside the daemon", hint=UPSTREAM_HINT)
    return found


def refuse_ours(arguments: Mapping[str, Any]) -> None:
    """Raises ``ConfigError`` at an argument of the server that SGLang does not run here."""
    for name, ours in OURS.items():
        if name in arguments:
            raise ConfigError(
                f"engine.sglang.{name}: SGLang's own server does not run here",
                hint=f"drop it; what you may want is {ours}",
            )


def launch(arguments: dict[str, Any]) -> Any:
    """Load the model: minutes. Returns the ``sglang.Engine``.

    Its processes are killed when the calling thread ends (SGLang asks the kernel for that), so call
    it on one that lives as long as the engine.

    Raises:
        ConfigError: an argument that SGLang does not take, or a version that lacks a name.
        Exception: SGLang's own, as it is.
    """
    _check()
    server_args = _named(ARGUMENTS, "ServerArgs")
    with_defaults = {**DEFAULTS, **arguments}
    try:
        parsed = server_args(**with_defaults)
        return _keeping_the_log(lambda: _named(ENGINE, "Engine")(server_args=parsed))
    except (TypeError, ValueError, AssertionError) as exc:
        raise ConfigError(
            f"engine.sglang: {exc}",
            hint="its keys are the fields of SGLang's ServerArgs: `python -m sglang.launch_server "
            "--help` describes them, with - for _",
        ) from exc


def _named(module: str, name: str) -> Any:
    return reduce(getattr, name.split("."), import_module(module))


def _check() -> None:
    for module, name in NAMES:
        try:
            _named(module, name)
        except (ImportError, AttributeError) as exc:
            raise ConfigError(
                f"SGLang {version('sglang')} cannot run inside the daemon: {module}.{name}: {exc}",
                hint=UPSTREAM_HINT,
            ) from exc


def _keeping_the_log(call: Callable[[], T]) -> T:
    """SGLang takes the root logger for itself; give it back."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    try:
        return call()
    finally:
        root.handlers = handlers
        root.setLevel(level)


class Requests(UserDict[str, Any]):
    """SGLang's table of what runs, by its ``rid``; it also notes for which of our results that is,
    and lets what runs take turns.

    One request may run as several, and SGLang names those itself. Not a ``dict``: its ``update``
    would pass ``__setitem__`` by.
    """

    def __init__(self, running: Mapping[str, Any]) -> None:
        self._turns = Turns()
        super().__init__(running)

    def __setitem__(self, rid: str, state: Any) -> None:
        state.result_id = CURRENT.get()
        state.event = self._turns.event()  # nobody waits for SGLang's own yet
        super().__setitem__(rid, state)

    def of(self, result_id: ResultId) -> list[str]:
        """The rids that run for one result."""
        return [rid for rid, state in self.items() if state.result_id == result_id]


def _refuse_deadly(request: Any, manager: Any) -> None:
    """Raise ``ValueError``, which SGLang answers with 400, at what would kill its scheduler."""
    if hasattr(request, "stream") and not manager.is_generation:
        raise ValueError("this model makes embeddings; it does not generate")
    texts = request.text if isinstance(request.text, list) else [request.text]
    has_image = manager.model_config.is_multimodal and getattr(request, "image_data", None)
    if "" in texts and not has_image:
        raise ValueError("an input is empty")
    vocabulary = manager.model_config.vocab_size
    for ids in _lists_of_ids(request.input_ids):
        if not ids or min(ids) < 0 or max(ids) >= vocabulary:
            raise ValueError(f"`input_ids` must be token ids from 0 to {vocabulary - 1}, not empty")
    _refuse_deadly_logprobs(request, vocabulary)
    for params in _sampling_params(request):
        _refuse_endless(params)


def _refuse_deadly_logprobs(request: Any, vocabulary: int) -> None:
    """The scheduler looks these up in rows as long as the vocabulary, for all that run at once."""
    most = getattr(request, "top_logprobs_num", None)
    for number in most if isinstance(most, list) else [most]:
        if number is not None and not 0 <= number <= vocabulary:
            raise ValueError(f"`top_logprobs_num` must be from 0 to {vocabulary}, not {number}")
    asked = getattr(request, "token_ids_logprob", None)
    lists = {
        "token_ids_logprob": asked if asked and isinstance(asked[0], list) else [asked],
        "stop_token_ids": [one.get("stop_token_ids") for one in _sampling_params(request)],
    }
    for name, given in lists.items():
        if not all(_are_tokens(ids, vocabulary) for ids in given):
            raise ValueError(f"`{name}` must be token ids from 0 to {vocabulary - 1}")


def _refuse_endless(params: Mapping[str, Any]) -> None:
    """No token is allowed where it leads: 0.5.17's scheduler dies, 0.5.23 says 500."""
    schema, tag, grammar = map(params.get, ("json_schema", "structural_tag", "ebnf"))
    endless = endless_reference(schema) if isinstance(schema, str) else None
    if endless is None and isinstance(tag, str):
        endless = endless_in_tag(tag)
    if endless is not None:
        raise ValueError(
            f"nothing is valid under the JSON schema: {endless!r} refers to nothing but itself"
        )
    if not isinstance(grammar, str) or len(grammar) > GRAMMAR_CHARS_MAX:
        return
    try:
        endless = endless_rule(parse(grammar))
    except (GrammarRefused, RecursionError):
        return  # SGLang's to refuse
    if endless is not None:
        raise ValueError(f"no text follows the rule {endless!r} of the `ebnf`: it comes to no end")


def _sampling_params(request: Any) -> list[dict[str, Any]]:
    """Of each run that the request asks for; one for all if they share it."""
    params = getattr(request, "sampling_params", None) or {}
    several = params if isinstance(params, list) else [params]
    return [one for one in several if isinstance(one, dict)]


def _are_tokens(ids: Any, vocabulary: int) -> bool:
    if ids is None:
        return True
    return isinstance(ids, list | tuple | set) and all(
        isinstance(token, int) and 0 <= token < vocabulary for token in ids
    )


def _is_single(request: Any) -> bool:
    """Whether it runs once: then its rid may be named, and SGLang names no other."""
    sampling = getattr(request, "sampling_params", None) or {}
    is_one = isinstance(request.text, str) or (
        request.text is None and bool(request.input_ids) and isinstance(request.input_ids[0], int)
    )
    return is_one and isinstance(sampling, dict) and sampling.get("n", 1) == 1


def _lists_of_ids(given: Any) -> Iterable[list[int]]:
    if not given:
        return [] if given is None else [[]]
    return given if isinstance(given[0], list) else [given]


class Mounted:
    """SGLang's HTTP application on a running engine, in this event loop."""

    def __init__(
        self, engine: Any, on_sigterm: Callable[[], None], on_death: Callable[[], None]
    ) -> None:
        self._engine = engine
        self._manager = engine.tokenizer_manager
        self._requests = Requests(self._manager.rid_to_state)
        self._manager.rid_to_state = self._requests
        # After each stream it would wait 2 s, to abort what its caller has left, before the
        # application returns: so long each end would be held. Aborting is what ``abort`` does.
        self._manager.create_abort_task = lambda _request: None
        generate_request = self._manager.generate_request

        def guarded(request: Any, *args: Any, **kwargs: Any) -> Any:
            if isinstance(request.input_ids, Mapping):  # 0.5.17's /api/chat with transformers 5
                request.input_ids = request.input_ids["input_ids"]
            _refuse_deadly(request, self._manager)
            if request.rid is None and _is_single(request) and CURRENT.get() not in self._requests:
                request.rid = CURRENT.get()
            answer, meter = generate_request(request, *args, **kwargs), METER.get()
            return answer if meter is None else metered(answer, meter)

        self._manager.generate_request = guarded
        self._lifespan: Any = None
        self._on_death = on_death

        class Signals:
            """What SGLang installs on our loop in place of its own, which kill everything."""

            def __init__(self, _manager: Any) -> None:
                self.sigterm_handler = on_sigterm
                self.running_phase_sigquit_handler = on_death

        self._manager.signal_handler_class = Signals
        self.app = _named(HTTP, "app")

    @property
    def model(self) -> str:
        """The name that answers carry."""
        return str(self._engine.server_args.served_model_name)

    @property
    def is_generation(self) -> bool:
        """Whether the model generates; else it embeds."""
        return bool(self._manager.is_generation)

    async def start(self) -> None:
        """Make the application's parts; from here on it answers."""
        engine = self._engine
        http: Any = import_module(HTTP)
        http.set_global_state(
            http._GlobalState(
                tokenizer_manager=self._manager,
                template_manager=engine.template_manager,
                scheduler_info=engine._scheduler_init_result.scheduler_infos[0],
            )
        )
        http._wait_and_warmup = lambda **_: None  # it would call a server that does not run
        self.app.is_single_tokenizer_mode = True
        self.app.server_args = engine.server_args
        self.app.warmup_thread_kwargs = {"server_args": engine.server_args}
        self._manager.server_status = _named(MANAGER, "ServerStatus.Up")
        manager: Any = import_module(MANAGER)
        manager.print_exception_wrapper = self._watched  # SGLang's kills this process
        self._manager.auto_create_handle_loop()
        self._lifespan = self.app.router.lifespan_context(self.app)
        await self._lifespan.__aenter__()  # left by the end of the process alone

    async def _watched(self, task: Callable[[], Awaitable[None]]) -> None:
        """Run one of SGLang's endless tasks on our loop. Without it no answer arrives any more."""
        try:
            await task()
        except Exception:
            logging.getLogger(__name__).exception("a task of SGLang's in this process failed")
            self._on_death()

    async def settle(self) -> None:
        """After the warm-up: what exists by now is not garbage, in any of its processes."""
        await self._manager.freeze_gc()

    def abort(self, result_id: ResultId) -> None:
        """Stop the GPU's work for one result."""
        for rid in self._requests.of(result_id):
            self._manager.abort_request(rid=rid)

    async def stop(self) -> None:
        """Kill SGLang's processes: every child that this process still has."""
        await asyncio.to_thread(self._engine.shutdown)
