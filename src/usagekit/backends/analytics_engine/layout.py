"""`Layout`: what lies where in a data point of Analytics Engine, and the limits of one.

A data point has one index, twenty blobs (strings) and twenty doubles (64-bit floats), and no names. The limits are
those of https://developers.cloudflare.com/analytics/analytics-engine/limits/; they are kept here, on our side, since
local runtimes drop a point that breaks them without a word and production throws.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from hashlib import blake2b
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Any

from usagekit.errors import ConfigurationError, QueryError, Rejected
from usagekit.event import to_microseconds
from usagekit.query.algebra import BUCKETS, DIMENSIONS, MEASURES, UsageQuery, dimension_value

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from usagekit.event import UsageEvent

__all__ = [
    "DEFAULT_DATASET",
    "INDEX_BYTES",
    "LAYOUT_VERSION",
    "POINT_BLOB_BYTES",
    "SLOTS",
    "Layout",
    "check_point",
    "default_datasets",
    "index_of",
]

DEFAULT_DATASET = "usagekit"
"""The dataset's name where an app gives none."""

LAYOUT_VERSION = 1
"""What the field `version` holds; raised when the default layout changes its meaning."""

SLOTS = 20  # blobs, and doubles, of one point
INDEX_BYTES = 96
POINT_BLOB_BYTES = 16_000  # over all blobs of one point; the runtime's constant, not 16 KiB

_HASH_DIGITS = 16

_DEFAULT_BLOBS = ("id", "kind", "event", "user", "org", "route", "provider", "model", "cost_source", None)
_DEFAULT_DOUBLES = (
    "time",
    "weight",
    "latency_ms",
    "first_token_ms",
    "input_tokens",
    "output_tokens",
    "cache_read_tokens",
    "cache_write_tokens",
    "reasoning_tokens",
    "cost_usd",
    "response_bytes",
    "quantity",
    "status",
    "aborted",
    "latency_known",
    "first_token_known",
    None,
    None,
    None,
    "version",
)

TEXTS: Mapping[str, Callable[[UsageEvent], str]] = {
    name: lambda event, name=name: getattr(event, name)
    for name in ("id", "kind", "event", "user", "org", "route", "provider", "model", "cost_source")
} | {
    "status": lambda event: str(event.status),
    "status_class": lambda event: str(dimension_value(event, "status_class")),
    "aborted": lambda event: "true" if event.aborted else "false",
    "time": lambda event: event.time.strftime("%Y-%m-%d %H:%M:%S"),
}
"""What a blob or the index can hold besides an app's own dimensions; `time` is UTC, `YYYY-MM-DD hh:mm:ss`."""

NUMBERS: Mapping[str, Callable[[UsageEvent], float]] = {
    name: lambda event, name=name: float(getattr(event, name) or 0)
    for name in (
        "weight",
        "latency_ms",
        "first_token_ms",
        "input_tokens",
        "output_tokens",
        "cache_read_tokens",
        "cache_write_tokens",
        "reasoning_tokens",
        "cost_usd",
        "response_bytes",
        "quantity",
        "status",
        "aborted",
    )
} | {
    "time": lambda event: to_microseconds(event.time) / 1_000_000,
    "total_tokens": lambda event: float(event.input_tokens + event.output_tokens),
    "latency_known": lambda event: float(event.latency_ms is not None),
    "first_token_known": lambda event: float(event.first_token_ms is not None),
    "version": lambda _: float(LAYOUT_VERSION),
}
"""What a double can hold; unknown durations and unpriced costs are 0."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """Which field of an event lies in which slot of a data point, and which events become points at all.

    Immutable, and checked when it is made. `Layout.default()` has everything an event has; an app that writes its own
    SQL may prefer a smaller one.

        Layout(index="user", blobs=["user", "skill", "agent", "model"], doubles=["input_tokens", "output_tokens"])

    Texts, for the index and the blobs: `id kind event user org route provider model cost_source status status_class
    aborted time`, and any dimension the app declared. Numbers, for the doubles: `time` (seconds since 1970 UTC, to the
    microsecond), `weight latency_ms first_token_ms input_tokens output_tokens cache_read_tokens cache_write_tokens
    reasoning_tokens total_tokens cost_usd response_bytes quantity status aborted`, `latency_known` and
    `first_token_known` (1 or 0: what is unknown is 0 in its own double), and `version`.

    Analytics Engine stamps a point with the time of writing and knows nothing of an event's weight, so a layout that is
    written there should hold `time`, `weight` and `id`. Where the local engine answers, `timestamp` is the event's own
    time, and `_sample_interval` its weight, unless the layout holds `weight`: then it is 1, as it is in production.

    Args:
        index: the text to sample by, `index1`; None = none. Longer than 96 bytes, it is replaced by its beginning and
            a hash (see `index_of`); the whole then lies in its blob, or, where the layout has none, in `spill`.
        blobs: up to twenty texts; None leaves a slot empty.
        doubles: up to twenty numbers; None leaves a slot empty.
        where: the events it takes, as in `usage`: `{"kind": "llm"}`, by dimension the value or list of values. Others
            become no point. None = all events.

    Raises:
        ConfigurationError: more slots than there are, a name that is no text or number, a name twice, or an index that
            could not be kept whole because all blobs are taken.
    """

    index: str | None = None
    blobs: Sequence[str | None] = ()
    doubles: Sequence[str | None] = ()
    where: Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        put = object.__setattr__
        put(self, "blobs", _slots("blobs", self.blobs))
        put(self, "doubles", _slots("doubles", self.doubles))
        _check_texts("index", (self.index,))
        _check_texts("blobs", self.blobs)
        for name in self.doubles:
            if name is not None and name not in NUMBERS:
                raise ConfigurationError(f"a double cannot hold {name!r}; use one of {', '.join(NUMBERS)}")
        if self.index is not None and self.index not in self.blobs and len(self.blobs) == SLOTS:
            raise ConfigurationError(
                f"index {self.index!r} is in no blob, and all {SLOTS} are taken: an id longer than {INDEX_BYTES} bytes "
                "would be lost; leave one blob free, or put it into one"
            )
        put(self, "where", _where(self.where))

    @classmethod
    def default(cls, dimensions: Iterable[str] = ()) -> Layout:
        """Give the layout that holds all of an event, with up to ten of the app's own dimensions.

        `index1` is the user. Blobs 1 to 9 are id, kind, event, user, org, route, provider, model and cost_source, 11 to
        20 the dimensions, in the order given. Doubles 1 to 16 are time, weight, latency_ms, first_token_ms,
        input_tokens, output_tokens, cache_read_tokens, cache_write_tokens, reasoning_tokens, cost_usd, response_bytes,
        quantity, status, aborted, latency_known and first_token_known; 20 is the version. Raises `ConfigurationError`
        for more than ten dimensions.
        """
        return cls(index="user", blobs=(*_DEFAULT_BLOBS, *dimensions), doubles=_DEFAULT_DOUBLES)

    @classmethod
    def from_json(cls, text: str) -> Layout:
        """Make a layout of a JSON object with `index`, `blobs`, `doubles` and `where`; raises `ConfigurationError`."""
        try:
            given = json.loads(text)
        except ValueError as error:
            raise ConfigurationError(f"the layout is not JSON: {error}") from error
        known = ("index", "blobs", "doubles", "where")
        if not isinstance(given, dict) or set(given) - set(known):
            raise ConfigurationError(f"a layout is a JSON object with {', '.join(known)}; got {text[:80]!r}")
        return cls(**given)

    @classmethod
    def from_file(cls, path: str | os.PathLike[str]) -> Layout:
        """Make a layout of a file with such JSON, in UTF-8; raises `ConfigurationError`, also for no such file."""
        try:
            text = Path(path).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigurationError(f"the layout cannot be read: {error}; give a file with JSON in UTF-8") from error
        return cls.from_json(text)

    def to_json(self) -> str:
        """Give what `from_json` takes."""
        where = None if self.where is None else {name: list(values) for name, values in self.where.items()}
        return json.dumps({"index": self.index, "blobs": self.blobs, "doubles": self.doubles, "where": where})

    @property
    def spill(self) -> str | None:
        """The blob that holds the whole index of points whose index had to be hashed, `"blob5"`; None = its own."""
        return None if self.index is None or self.index in self.blobs else f"blob{len(self.blobs) + 1}"

    @property
    def columns(self) -> dict[str, str]:
        """Which field lies in which column: `{"index1": "user", "blob1": "id", "double1": "time"}`; no empty slots."""
        found = {} if self.index is None else {"index1": self.index}
        found |= {f"blob{n}": name for n, name in enumerate(self.blobs, 1) if name is not None}
        return found | {f"double{n}": name for n, name in enumerate(self.doubles, 1) if name is not None}

    def blob(self, field: str) -> str | None:
        """Give the column that holds a text, `"blob4"`; None where no blob does."""
        return f"blob{self.blobs.index(field) + 1}" if field in self.blobs else None

    def double(self, field: str) -> str | None:
        """Give the column that holds a number, `"double1"`; None where no double does."""
        return f"double{self.doubles.index(field) + 1}" if field in self.doubles else None

    @property
    def dimensions(self) -> tuple[str, ...]:
        """The app's own dimensions it names, in index, blobs and `where`, each once."""
        used = (self.index, *self.blobs, *(self.where or ()))
        return tuple(dict.fromkeys(name for name in used if name and name not in TEXTS and name not in DIMENSIONS))

    def check_dimensions(self, declared: Iterable[str]) -> None:
        """Raise `ConfigurationError` where it names something that is neither a field nor a declared dimension."""
        known = tuple(declared)
        for name in self.dimensions:
            if name not in known:
                raise ConfigurationError(
                    f"the layout names {name!r}, which no event has; use one of {', '.join((*TEXTS, *known))}, "
                    f"or declare it: Recorder(dimensions=[{name!r}])"
                )

    def takes(self, event: UsageEvent) -> bool:
        """Tell whether `event` becomes a point."""
        return self.where is None or all(
            dimension_value(event, name) in allowed for name, allowed in self.where.items()
        )

    def point(self, event: UsageEvent) -> dict[str, list[Any]]:
        """Give the data point of `event`, as `writeDataPoint` takes it: `{"indexes", "blobs", "doubles"}`.

        Empty slots are `""` and 0. Whether the layout `takes` the event is not asked here.

        Raises:
            Rejected: the texts come to more than 16,000 bytes; see `check_point`.
        """
        whole = "" if self.index is None else _text(event, self.index)
        index = index_of(whole)
        blobs = ["" if name is None else _text(event, name) for name in self.blobs]
        if self.spill is not None and index != whole:
            blobs.append(whole)
        doubles = [0.0 if name is None else NUMBERS[name](event) for name in self.doubles]
        point: dict[str, list[Any]] = {
            "indexes": [] if self.index is None else [index],
            "blobs": blobs,
            "doubles": doubles,
        }
        check_point(point)
        return point


def default_datasets(dimensions: Sequence[str]) -> dict[str, Layout]:
    """Give the tables there are where an app names none: one, with the first ten of its own dimensions."""
    return {DEFAULT_DATASET: Layout.default(dimensions[: SLOTS - len(_DEFAULT_BLOBS)])}


def index_of(text: str) -> str:
    """Give `text` as it may be an index: longer than 96 bytes in UTF-8, its beginning, `~` and 16 hex digits.

    The digits are BLAKE2b of the whole, so that the same id has the same index everywhere and two ids have two.
    """
    encoded = text.encode("utf-8", "surrogatepass")
    if len(encoded) <= INDEX_BYTES:
        return text
    start = encoded[: INDEX_BYTES - _HASH_DIGITS - 1].decode("utf-8", "ignore")
    return f"{start}~{blake2b(encoded, digest_size=_HASH_DIGITS // 2).hexdigest()}"


def check_point(point: Mapping[str, Sequence[Any]]) -> None:
    """Raise `Rejected`, which says why, for a data point that Analytics Engine would drop or garble.

    At most one index of 96 bytes, 20 blobs of 16,000 bytes together, 20 doubles; strings that UTF-8 can carry, and
    finite numbers.
    """
    indexes, blobs, doubles = (point.get(name, ()) for name in ("indexes", "blobs", "doubles"))
    if len(indexes) > 1 or len(blobs) > SLOTS or len(doubles) > SLOTS:
        raise Rejected(
            f"a data point has at most 1 index, {SLOTS} blobs and {SLOTS} doubles; "
            f"this has {len(indexes)}, {len(blobs)} and {len(doubles)}"
        )
    index_bytes, blob_bytes = _bytes_of(indexes), _bytes_of(blobs)
    if index_bytes > INDEX_BYTES:
        raise Rejected(f"an index has at most {INDEX_BYTES} bytes; this has {index_bytes}")
    if blob_bytes > POINT_BLOB_BYTES:
        raise Rejected(f"the blobs of a point have at most {POINT_BLOB_BYTES:,} bytes; these have {blob_bytes:,}")
    for value in doubles:
        if (type(value) is not float and type(value) is not int) or not isfinite(value):
            raise Rejected(f"a double is a finite number; this is {value!r}")


def _bytes_of(texts: Sequence[Any]) -> int:
    for value in texts:
        if not isinstance(value, str):
            raise Rejected(f"an index or a blob is a string; this is {value!r}")
    try:
        return len("".join(texts).encode())
    except UnicodeEncodeError:
        wrong = next(value for value in texts if not _is_utf8(value))
        raise Rejected(f"an index or a blob is a string without lone surrogates; this is {wrong!r}") from None


def _is_utf8(text: str) -> bool:
    return not any("\ud800" <= character <= "\udfff" for character in text)


def _text(event: UsageEvent, name: str) -> str:
    read = TEXTS.get(name)
    return event.attributes.get(name, "") if read is None else read(event)


def _slots(option: str, given: object) -> tuple[str | None, ...]:
    if isinstance(given, (str, bytes)) or not hasattr(given, "__iter__"):
        raise ConfigurationError(f"{option}={given!r} is no list of names; give one: {option}=['user']")
    names = tuple(given)
    if len(names) > SLOTS:
        raise ConfigurationError(f"{option} has {len(names)} slots; a data point has {SLOTS}")
    used = [name for name in names if name is not None]
    for name in used:
        if used.count(name) > 1:
            raise ConfigurationError(f"{option} names {name!r} more than once; each field lies in one slot")
    return names


def _check_texts(option: str, names: Iterable[object]) -> None:
    for name in names:
        if name is None or name in TEXTS:
            continue
        if not isinstance(name, str) or not name.isidentifier():
            raise ConfigurationError(f"{option} names {name!r}, which is no name of a field or dimension")
        if name in NUMBERS or name in MEASURES or name in BUCKETS:
            why = "it is a number: put it into doubles" if name in NUMBERS else "no event has it"
            raise ConfigurationError(f"{option} cannot hold {name!r}, {why}; texts are {', '.join(TEXTS)}")


def _where(given: object) -> Mapping[str, tuple[str | int | bool, ...]] | None:
    if given is None:
        return None
    names = given if isinstance(given, dict) else ()
    own = [name for name in names if isinstance(name, str) and name.isidentifier() and name not in MEASURES]
    try:
        query = UsageQuery.build(where=given, dimensions=own)  # type: ignore[arg-type] # it says what is wrong
    except QueryError as error:
        raise ConfigurationError(f"bad where of a layout: {error}") from error
    if query.spans is not None:
        raise ConfigurationError(f"where={given!r} names a time bucket; a layout takes events by dimension")
    return query.where
