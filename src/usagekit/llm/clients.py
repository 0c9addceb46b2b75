"""Watching the clients of known SDKs while a tracked function runs, and only then.

Most functions that call a model return its text, not its response. So the one method through which every request of
these clients goes is replaced by one that looks whether a scope is open; where none is, it only passes on. No SDK is
imported for it: what an app did not import, it does not call.

Chat streams of OpenAI's own client are asked for their usage on the way (`stream_options.include_usage`), and the extra
chunk that tells it is kept from the caller, unless the caller asked. A server that refuses it is asked again without.
It refuses where the same request is answered once that is left out; most bad requests are bad for other reasons.
"""

from __future__ import annotations

import copy
import os
import re
import sys
from functools import wraps
from threading import Lock
from typing import TYPE_CHECKING

from usagekit.llm import calls, streams
from usagekit.llm.bodies import watch_body
from usagekit.llm.failures import status_of
from usagekit.llm.scopes import active

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from usagekit.llm.bodies import Body
    from usagekit.llm.scopes import Scope

__all__ = ["watch_clients"]

_CLIENTS = {
    "anthropic": ("Anthropic", "AsyncAnthropic"),
    "groq": ("Groq", "AsyncGroq"),
    "openai": ("OpenAI", "AsyncOpenAI"),
    "together": ("Together", "AsyncTogether"),
}
_PROVIDERS = {"anthropic": "anthropic", "groq": "groq", "openai": "openai", "together": "together"}

_PATH = re.compile(
    r"^(?:/?openai)?/?(?:v1/)?"
    r"(?:chat/completions|completions|responses(?:/compact)?|embeddings|rerank|messages|complete"
    r"|images/(?:generations|edits|variations)|audio/(?:transcriptions|translations|speech))(?:\?|$)"
)
_LOOKUP = re.compile(r"^/?(?:v1/)?responses/[^/?]+(?:\?|$)")

_HOSTS = (
    ("azure.com", "azure"),
    ("azure-api.net", "azure"),
    ("openrouter.ai", "openrouter"),
    ("deepseek.com", "deepseek"),
    ("api.x.ai", "x-ai"),
    ("groq.com", "groq"),
    ("together.xyz", "together"),
    ("together.ai", "together"),
    ("mistral.ai", "mistral"),
    ("googleapis.com", "google"),
    ("perplexity.ai", "perplexity"),
    ("fireworks.ai", "fireworks"),
    ("cerebras.ai", "cerebras"),
    ("moonshot.ai", "moonshotai"),
    ("moonshot.cn", "moonshotai"),
    ("amazonaws.com", "aws"),
    ("huggingface.co", "huggingface"),
    ("cohere.com", "cohere"),
    ("api.anthropic.com", "anthropic"),
    ("api.openai.com", "openai"),
)
_CLASSES = (("Azure", "azure"), ("Foundry", "azure"), ("Bedrock", "aws"), ("AWS", "aws"), ("Vertex", "google"))

_lock = Lock()
loaded = -1
"""How many modules there were when they were last looked through."""

_watched: set[str] = set()
refusing: set[tuple[str, str]] = set()
"""Hosts and their models that answered only when `include_usage` was left out."""
taking: set[tuple[str, str]] = set()
"""Those that answered when asked for it: what they refuse, they refuse for something else."""
_REMEMBERED = 256


def watch_clients() -> None:
    """Watch the clients that have been imported by now. Cheap when nothing was; any thread may call it."""
    global loaded  # noqa: PLW0603  one process, one set of modules
    present = len(sys.modules)
    if present == loaded:
        return
    with _lock:
        for name, kinds in _CLIENTS.items():
            module = sys.modules.get(name)
            if module is None or name in _watched or not all(hasattr(module, kind) for kind in kinds):
                continue  # not imported, or just being so
            for kind, watched in zip(kinds, (_watched_request, _watched_request_async), strict=True):
                owner = next((base for base in getattr(module, kind).__mro__ if "request" in vars(base)), None)
                if owner is not None and not hasattr(owner.request, "_usagekit"):
                    owner.request = watched(owner.request, name)
            _watched.add(name)
        loaded = present


def _watched_request(request: Callable[..., Any], name: str) -> Callable[..., Any]:
    @wraps(request)
    def watched(self: Any, cast_to: Any, options: Any, *args: Any, **kwargs: Any) -> Any:
        scope = active.get()
        attempt = None if scope is None else _begun(scope, self, options, name)
        if attempt is None:
            return request(self, cast_to, options, *args, **kwargs)
        try:
            result = request(self, cast_to, attempt.options, *args, **kwargs)
        except BaseException as error:
            if not attempt.is_refused(error):
                attempt.failed(error)
                raise
        else:
            attempt.gave(result)
            return result
        try:
            result = request(self, cast_to, attempt.without_asking(), *args, **kwargs)
        except BaseException as error:
            attempt.failed(error)
            raise
        attempt.gave(result)
        return result

    watched._usagekit = True  # type: ignore[attr-defined]  # noqa: SLF001  our own mark
    return watched


def _watched_request_async(request: Callable[..., Any], name: str) -> Callable[..., Any]:
    @wraps(request)
    async def watched(self: Any, cast_to: Any, options: Any, *args: Any, **kwargs: Any) -> Any:
        scope = active.get()
        attempt = None if scope is None else _begun(scope, self, options, name)
        if attempt is None:
            return await request(self, cast_to, options, *args, **kwargs)
        try:
            result = await request(self, cast_to, attempt.options, *args, **kwargs)
        except BaseException as error:
            if not attempt.is_refused(error):
                attempt.failed(error)
                raise
        else:
            await attempt.gave_async(result)
            return result
        try:
            result = await request(self, cast_to, attempt.without_asking(), *args, **kwargs)
        except BaseException as error:
            attempt.failed(error)
            raise
        await attempt.gave_async(result)
        return result

    watched._usagekit = True  # type: ignore[attr-defined]  # noqa: SLF001  our own mark
    return watched


def _begun(scope: Scope, client: Any, options: Any, name: str) -> _Attempt | None:
    """Begin to watch a request, if it calls a model; None = pass it on. Never raises."""
    try:
        method, url = str(options.method).lower(), str(options.url)
        if method == "post" and _PATH.match(url):
            return _Attempt(scope, client, options, name, is_lookup=False)
        if method == "get" and _LOOKUP.match(url):
            return _Attempt(scope, client, options, name, is_lookup=True)
    except Exception as error:  # noqa: BLE001  an SDK may change
        scope.recorder.guard.caught("llm: client", error)
    return None


class _Attempt:
    """One request of a watched client, with whatever retries the client makes of it."""

    __slots__ = ("_asked", "_body", "_client", "_given", "_is_seen", "call", "options", "scope")

    def __init__(self, scope: Scope, client: Any, options: Any, name: str, *, is_lookup: bool) -> None:
        self.scope = scope
        self.call = call = calls.Call(scope)
        call.is_watched = True
        call.is_lookup = is_lookup
        if scope.tapped is None:
            scope.tapped = []
        self._client = client
        self._given = options
        self._asked: tuple[str, str] | None = None  # the host and model that are asked for their usage
        self._body: Body | None = None
        self._is_seen = False
        self.options = copy.copy(options)
        self._watch_parsing()
        body = options.json_data
        if isinstance(body, dict):
            call.request = body
            if type(body.get("model")) is str:
                call.usage.model = body["model"]
        call.usage.provider = provider_of(client, name)
        if name == "openai" and scope.settings.stream_usage and self._may_ask(body):
            self._ask(body)

    def _ask(self, body: dict[str, Any]) -> None:
        """Ask for the usage, in a way that lets us keep it from the caller."""
        headers: Any = getattr(self._given, "headers", None)
        names = {name.lower() for name in headers} if hasattr(headers, "items") else set()
        if _RAW in names:  # the body may be read by hand, where nothing can be cut out of a compressed one
            if "accept-encoding" in names:
                return
            self.options.headers = {**headers, "Accept-Encoding": "identity"}
        self.call.hides = True
        self._asked = str(self._client.base_url), self.call.usage.model
        self.options.json_data = {**body, "stream_options": {**(body.get("stream_options") or {}), **_ASKED}}

    def _may_ask(self, body: Any) -> bool:
        """Tell whether to ask for the usage of a chat stream that would not tell it."""
        return (
            isinstance(body, dict)
            and body.get("stream") is True
            and "include_usage" not in (body.get("stream_options") or {})
            and str(self._given.url).rstrip("/").endswith("completions")
            and "stream_options" not in (getattr(self._given, "extra_json", None) or {})
            and (str(self._client.base_url), self.call.usage.model) not in refusing
            and os.environ.get("USAGEKIT_STREAM_USAGE") != "0"
        )

    def _watch_parsing(self) -> None:
        # Here everything comes by that the client makes of an answer, also for raw responses, when they are parsed;
        # and before the caller's own parser, which may raise after the tokens are spent.
        parser = self._given.post_parser

        def parsed(answer: Any) -> Any:
            self.saw(answer)
            return parser(answer) if callable(parser) else answer

        self.options.post_parser = parsed

    def is_refused(self, error: BaseException) -> bool:
        """Tell whether the server may have refused just what we asked for."""
        if not self.call.hides or status_of(error) not in {400, 422}:
            return False
        parameter = getattr(error, "param", None)
        told = str(parameter or error)
        if "stream_options" in told or "include_usage" in told:
            return True
        return not parameter and self._asked not in taking

    def without_asking(self) -> Any:
        """Give the request as the caller made it."""
        self.call.hides = False
        self.options = copy.copy(self._given)
        self._watch_parsing()
        return self.options

    def _learn(self, asked: tuple[str, str]) -> None:
        """Remember what an answer shows: whether who was asked for the usage takes that."""
        known = taking if self.call.hides else refusing
        if len(known) < _REMEMBERED:
            known.add(asked)

    def failed(self, error: BaseException) -> None:
        """Record a request that failed, unless it was answered and only parsing it failed."""
        if self._is_seen or self.call.is_lookup:
            self.scope.remember(error)
            return
        self._guarded(self.call.failed, error)

    def saw(self, answer: Any) -> None:
        """Take what the client made of the answer: a response, or a stream."""
        if not self._is_seen:
            self._is_seen = True
            self._guarded(self._take, answer)

    def _take(self, answer: Any) -> None:
        call = self.call
        calls.forget(call)
        if self._body is not None:
            self._body.is_parsed()
        if hasattr(answer, "__next__") or hasattr(answer, "__anext__"):
            if streams.watch(answer, call) is not answer:
                call.left()
            return
        body = call.request
        call.raw = None
        if isinstance(body, dict) and type(body.get("input")) is str and "speech" in str(self._given.url):
            call.usage.quantity = len(body["input"])  # speech is paid by the character, and its answer tells nothing
            call.usage.details = {"input_characters": len(body["input"])}
        call.answered(answer)

    def gave(self, result: Any) -> None:
        """Take what the request gave, where it is a raw response that nobody parsed yet."""
        if self._asked is not None:
            self._learn(self._asked)
        if not self._is_seen:
            self._guarded(self._parse, result)

    async def gave_async(self, result: Any) -> None:
        """Do the same where parsing may have to be awaited."""
        if self._asked is not None:
            self._learn(self._asked)
        if self._is_seen:
            return
        try:
            parsing = self._parse(result)
            if hasattr(parsing, "__await__"):
                await parsing
        except Exception as error:  # noqa: BLE001  an SDK may change
            self.scope.recorder.guard.caught("llm: client", error)

    def _parse(self, result: Any) -> Any:
        http = getattr(result, "http_response", None)
        if http is None:
            return None
        self.scope.came_to_light()
        if http.is_closed:
            return result.parse()  # it has the body already, and gives the caller the same
        if "text/event-stream" in http.headers.get("content-type", ""):
            self._body = watch_body(http, self.call)
            return result.parse() if self._body is None else None  # which makes a stream of it
        self.call.raw = http
        return streams.watch(result, self.call)

    def _guarded(self, step: Callable[[Any], object], value: Any) -> None:
        try:
            step(value)
        except Exception as error:  # noqa: BLE001  an SDK may change
            self.scope.recorder.guard.caught("llm: client", error)


_RAW = "x-stainless-raw-response"
_ASKED = {"include_usage": True}


def provider_of(client: Any, name: str) -> str:
    kind = type(client).__name__
    for part, provider in _CLASSES:
        if part in kind:
            return provider
    host = str(getattr(client.base_url, "host", ""))
    for ending, provider in _HOSTS:
        if host.endswith(ending):
            return provider
    return _PROVIDERS[name]
