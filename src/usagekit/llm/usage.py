"""What model responses tell about their usage, brought to one meaning; and how extractors of it are found.

An extractor is a function of a response, or of one chunk of a stream, and a `Usage`. It writes what it finds into the
`Usage` and returns whether the object was an answer of a model at all:

    def extract(response: object, usage: Usage) -> bool: ...

Extractors are found by the entry point group `usagekit.extractors`. An entry's name is the top-level module of the
response types it reads, `"openai"` or `"builtins"` (plain dictionaries), and it is loaded when the first such object
comes by. No SDK is imported for that: what is read is what the object holds.
"""

from __future__ import annotations

from functools import wraps
from sys import modules

from usagekit import _clean
from usagekit._loading import loading

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from importlib.metadata import EntryPoint
    from typing import Any

__all__ = ["Plain", "Usage", "count", "extractor_of", "fields_of", "installed_extractors", "readers"]

GROUP = "usagekit.extractors"
BYTES_PER_TOKEN = 4  # UTF-8 bytes: English text has about four per token, Chinese three quarters of a token per sign


class Usage:
    """What one model call used, as far as its response, or the chunks of its stream, tell.

    Counts are None while nobody reported them; a reported 0 is 0. Lives as long as its call.

    Attributes:
        provider: as price lists name it, `"openai"`; `""` = unknown.
        model: as the response names it; `""` = the response names none.
        input_tokens: tokens read, cached ones included.
        uncached_tokens: tokens read without those read from or written to a cache, for providers that report the
            three apart; `input_tokens` follows from it then.
        output_tokens: tokens written, reasoning included.
        cache_read_tokens: those of the input that came from a cache.
        cache_write_tokens: those of the input that were written to a cache.
        cache_write_1h_tokens: those of `cache_write_tokens` that are kept for an hour instead of minutes.
        reasoning_tokens: those of the output that were reasoning.
        details: what is priced apart, by the names of genai-prices: `"input_audio_tokens"`, `"web_searches"`, …
        context: what chooses among a model's prices: `{"service_tier": "flex"}`, `{"speed": "fast"}`.
        cost_usd: US dollars as the provider or its gateway reported them; None = it did not.
        quantity: metered units other than tokens: seconds, pages, images; None = none.
        aside: tokens of the same call that its totals leave out; None = none.
        requests: how many requests are summed up, whose prompts' sizes are not known apart; 1 = it is one.
        written_bytes: UTF-8 bytes of the text seen in chunks, for estimates.
        response_id: tells responses apart where one block sees several; `""` = unknown.
        is_wrapped: the object stands for a call some other SDK made; it may have been seen there already.
        is_pending: the answer is still being made and will be counted when it is retrieved.
        key: an idempotency key, where the same answer can be retrieved again; `""` = none.
        created: when the answer was begun, seconds since 1970, where it is retrieved later; None = now.
    """

    # Class attributes are the defaults: most calls fill four of these, and making one costs nothing.
    provider: str = ""
    model: str = ""
    input_tokens: int | None = None
    uncached_tokens: int | None = None
    output_tokens: int | None = None
    cache_read_tokens: int | None = None
    cache_write_tokens: int | None = None
    cache_write_1h_tokens: int | None = None
    reasoning_tokens: int | None = None
    details: Mapping[str, float] | None = None
    context: Mapping[str, str] | None = None
    cost_usd: Any = None
    quantity: float | None = None
    aside: Usage | None = None
    requests: int = 1
    written_bytes: int = 0
    response_id: str = ""
    is_wrapped: bool = False
    is_pending: bool = False
    key: str = ""
    created: float | None = None

    def __init__(self, **values: Any) -> None:
        if values:
            for name in values:
                if not hasattr(Usage, name) or name.startswith("_"):
                    msg = f"Usage has no {name!r}; see its attributes"
                    raise TypeError(msg)
            self.__dict__.update(values)

    @property
    def is_reported(self) -> bool:
        """Whether the provider told any count at all."""
        return not (self.input_tokens is None and self.output_tokens is None and self.uncached_tokens is None)

    def totals(self) -> tuple[int, int, int, int, int]:
        """Give input, output, cache read, cache write and reasoning tokens; 0 where nothing was reported.

        Input is never less than its cached parts, and output never less than the reasoning in it.
        """
        read = self.cache_read_tokens or 0
        write = self.cache_write_tokens or 0
        uncached = self.uncached_tokens
        input_tokens = (self.input_tokens or 0) if uncached is None else uncached + read + write
        output_tokens, reasoning = self.output_tokens or 0, self.reasoning_tokens or 0
        if self.aside is not None:
            more_input, more_output, more_read, more_write, more_reasoning = self.aside.totals()
            input_tokens, output_tokens = input_tokens + more_input, output_tokens + more_output
            read, write, reasoning = read + more_read, write + more_write, reasoning + more_reasoning
        if input_tokens < read + write:  # noqa: PLR1730  max() costs twice as much
            input_tokens = read + write
        if output_tokens < reasoning:  # noqa: PLR1730  likewise
            output_tokens = reasoning
        return input_tokens, output_tokens, read, write, reasoning

    def clean(self) -> None:
        """Bring counts to ones that can be, where they are of somebody else's making; what is no number is unknown."""
        told = self.__dict__
        for name in _COUNTS & told.keys():
            if told[name] is not None:
                number = _clean.whole(told[name], default=-1)
                told[name] = None if number < 0 else number
        if self.aside is not None:
            self.aside.clean()

    def wrote(self, text: object) -> None:
        """Add the text of a chunk to what estimates are made of; only its length is kept."""
        if type(text) is str:
            self.written_bytes += len(text) if text.isascii() else len(text.encode("utf-8", "replace"))

    def __repr__(self) -> str:
        input_tokens, output_tokens, *_ = self.totals()
        return f"Usage({self.provider}/{self.model}: {input_tokens} in, {output_tokens} out)"


_COUNTS = frozenset(name for name in vars(Usage) if name.endswith("_tokens"))


def count(value: object) -> int | None:
    """Give a reported number as a whole count; None for anything that is no number (SDKs have several kinds)."""
    if type(value) is int:
        return value if 0 <= value <= _clean.COUNT_LIMIT else _clean.whole(value)
    if isinstance(value, (int, float)):
        return _clean.whole(value)
    return None


_NOTHING: Mapping[str, Any] = {}


def fields_of(part: Any) -> Mapping[str, Any]:
    """Give what an object holds, by name: a mapping itself, a model's fields and extras, an object's attributes.

    Nothing is computed or fetched for it: no property and no `__getattr__` is asked.
    """
    kind = type(part)
    if kind is dict:
        return part  # type: ignore[no-any-return]
    if part is None:
        return _NOTHING
    if isinstance(part, dict):
        return part
    try:
        fields: Mapping[str, Any] = part.__dict__
    except AttributeError:
        slots = getattr(kind, "__slots__", ())
        return {name: getattr(part, name, None) for name in ((slots,) if isinstance(slots, str) else slots)}
    extra = getattr(part, "__pydantic_extra__", None)
    return {**fields, **extra} if extra else fields


extractors: dict[type, Callable[[Any, Usage], bool]] = {}
"""Found extractors by type."""

Plain = tuple[str, str, "Mapping[str, str] | None", tuple[int, int, int, int, int]]
"""Provider, model, context and totals, as of a `Usage`: all that most responses tell."""

readers: dict[type, Callable[[Any], Plain | None]] = {}
"""Quicker ways to read whole responses, by type, of those types that have one; found with the extractor."""


def _extract_own(told: Usage, usage: Usage) -> bool:
    usage.__dict__.update(told.__dict__)
    usage.clean()
    return True


extractors[Usage] = _extract_own
_TYPES = 1024  # as many are remembered
_installed: dict[str, EntryPoint] | None = None


def installed_extractors() -> dict[str, EntryPoint]:
    """Give the entry points of all installed extractors by top-level module of what they read; loads none."""
    global _installed  # noqa: PLW0603  distributions are looked through once
    if _installed is None:
        from importlib.metadata import entry_points

        _installed = {point.name: point for point in entry_points(group=GROUP)}
    return _installed


def extractor_of(kind: type) -> Callable[[Any, Usage], bool]:
    """Give the extractor for objects of a type: that of its own module, else of a base's, else the one by shape."""
    known = extractors.get(kind)
    if known is not None:
        return known
    with loading:
        return _find_extractor(kind)


def _find_extractor(kind: type) -> Callable[[Any, Usage], bool]:
    if len(extractors) >= _TYPES:
        # Types may be made at run time, and are kept alive here.
        for types in (extractors, readers):
            types.clear()
        extractors[Usage] = _extract_own
    installed = installed_extractors()
    names = (base.__module__.partition(".")[0] for base in kind.__mro__[:-1] or (kind,))
    point = next((installed[name] for name in names if name in installed), None)
    if point is None:
        from usagekit.llm.shapes.mapping import extract

        extractors[kind] = extract
        return extract
    found: Callable[[Any, Usage], bool] = point.load()
    if not found.__module__.startswith("usagekit."):
        found = _cleaned(found)
    reader = _own_way(found, "READERS", kind)
    if reader is not None:
        readers[kind] = reader
    extractors[kind] = found = _own_way(found, "EXTRACTORS", kind) or found
    return found


def _cleaned(extract: Callable[[Any, Usage], bool]) -> Callable[[Any, Usage], bool]:
    @wraps(extract)
    def extract_and_clean(response: Any, usage: Usage) -> bool:
        found = extract(response, usage)
        usage.clean()
        return found

    return extract_and_clean


def _own_way(extract: Callable[..., Any], table: str, kind: type) -> Any:
    """Give what an extractor's module has for one type alone, in a table by the names of types; None = nothing.

    `EXTRACTORS` are quicker extractors. `READERS` are quicker ways to read whole responses: they give exactly what the
    extractor would find, or None where the response holds more than they read.
    """
    if extract.__module__ != f"usagekit.llm.shapes.{kind.__module__.partition('.')[0]}":
        return None
    return getattr(modules[extract.__module__], table, {}).get(kind.__name__)


def is_known(kind: type) -> bool:
    """Tell whether an installed extractor says that it reads objects of this type, or of one of its bases."""
    installed = installed_extractors()
    return any(base.__module__.partition(".")[0] in installed for base in kind.__mro__[:-1] if base is not dict)


_PROVIDERS = {
    "aws.bedrock": "aws",
    "az.ai.inference": "azure",
    "az.ai.openai": "azure",
    "azure.ai.inference": "azure",
    "azure.ai.openai": "azure",
    "azure_ai": "azure",
    "azure_openai": "azure",
    "bedrock": "aws",
    "bedrock_converse": "aws",
    "cohere_chat": "cohere",
    "gcp.gemini": "google",
    "gcp.gen_ai": "google",
    "gcp.vertex_ai": "google",
    "gemini": "google",
    "google-gla": "google",
    "google-vertex": "google",
    "google_genai": "google",
    "google_vertexai": "google",
    "moonshot_ai": "moonshotai",
    "mistral_ai": "mistral",
    "mistralai": "mistral",
    "together_ai": "together",
    "vertex_ai": "google",
    "x_ai": "x-ai",
    "xai": "x-ai",
}


def provider_named(name: object) -> str:
    """Give the one name for a provider that goes by several; unknown names stay as they are."""
    name = _clean.text(name, _clean.MODEL_LIMIT) if name else ""
    return _PROVIDERS.get(name, name)
