r"""One event as one line: how a journal writes it and how the ledger reads it.

A record is `"\n" crc payload "\n"`: the CRC-32 of the payload as eight hex digits, and the payload, a JSON list in
ASCII. Both newlines are there so that a damaged one costs only the record it belongs to. The payload is

    [number, time_us, shape, subject, latency_us, tail_us, output]
    [number, time_us, shape, subject, latency_us, tail_us, output, input, cost_nano, cache_read, cache_write, reasoning]
    [... all of the above, key]

- number: counts the journal's records; with the journal's name it is the event's id.
- shape: what repeats among events, joined by tabs (clean text holds none): kind, event, status, route, provider,
  model, cost source, `1` when aborted.
- subject: user and org, joined by a tab; a third part holds `[weight, quantity_millionths, other_output, attributes]`
  as JSON where any of them is not the default.
- tail_us: latency minus the time to the first byte: for most answers a very small number.
- output: what came out: tokens of a model call, body bytes of anything else. An event that has both keeps the other
  one in the subject's third part.
- key: the caller's idempotency key, hashed.

Shapes and subjects are strings so that the importer finds their ids with one dictionary look-up each.
"""

from __future__ import annotations

import struct
from binascii import unhexlify
from zlib import crc32

from usagekit import _clean

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from decimal import Decimal
    from typing import Any

    from usagekit.event import UsageEvent

SHORT = 7  # fields of a record without tokens
LONG = 12  # and with them
KEYED = 13  # and with a key
BODY_LIMIT = 512 * 1024  # bytes; only hundreds of attributes are longer
SEPARATOR = "\t"
_LENGTHS = frozenset({SHORT, LONG, KEYED})

_FRAGMENTS = 4096  # entries kept per cache; above it the cache starts afresh


def quoted(value: str) -> str:
    """Give `value` as a JSON string in ASCII."""
    from json.encoder import encode_basestring_ascii

    return encode_basestring_ascii(value)


def shape_of(  # noqa: PLR0917 # the eight parts of a shape, in their order
    kind: str,
    event: str,
    status: int,
    route: str,
    provider: str,
    model: str,
    cost_source: str,
    aborted: bool,  # noqa: FBT001
) -> str:
    """Join clean values into the text that stands for what repeats."""
    return f"{kind}\t{event}\t{status}\t{route}\t{provider}\t{model}\t{cost_source}\t{'1' if aborted else ''}"


def subject_of(  # noqa: PLR0917 # likewise
    user: str,
    org: str,
    attributes: Mapping[str, str] | None = None,
    weight: int = 1,
    quantity: int = _clean.MICRO,
    other_output: int = 0,
) -> str:
    """Join clean values into the text that stands for whom an event counts."""
    if not attributes and weight == 1 and quantity == _clean.MICRO and not other_output:
        return f"{user}\t{org}"
    from json import dumps

    extra = dumps([weight, quantity, other_output, dict(attributes or {})], separators=(",", ":"), sort_keys=True)
    return f"{user}\t{org}\t{extra}"


class RequestShapes(dict[tuple[str, int, str, bool], str]):
    """The quoted shapes of requests, by event, status, route and whether aborted; made when first asked for.

    Emptied when it is full: memory stays bounded, and no lock is needed.
    """

    def __missing__(self, key: tuple[str, int, str, bool]) -> str:
        event, status, route, aborted = key
        event = _clean.text(event, _clean.EVENT_LIMIT)
        route = _clean.text(route, _clean.ROUTE_LIMIT)
        status = _clean.whole(status, _clean.STATUS_LIMIT)
        made = quoted(shape_of("request", event, status, route, "", "", "", aborted))
        if (event, route) == (key[0], key[2]):  # what had to be cleaned may be huge, and is seldom seen twice
            if len(self) >= _FRAGMENTS:
                self.clear()
            self[key] = made
        return made


class CallShapes(dict[tuple[object, int, str, object, object, str, bool], str]):
    """The quoted shapes of model calls, by event, status, route, provider, model, cost source and whether aborted."""

    def __missing__(self, key: tuple[object, int, str, object, object, str, bool]) -> str:
        event, status, route, provider, model, cost_source, aborted = key
        clean = (
            _clean.text(event, _clean.EVENT_LIMIT),
            _clean.whole(status, _clean.STATUS_LIMIT),
            _clean.text(route, _clean.ROUTE_LIMIT),
            _clean.text(provider, _clean.MODEL_LIMIT),
            _clean.text(model, _clean.MODEL_LIMIT),
        )
        made = quoted(shape_of("llm", *clean, cost_source, aborted))
        if clean == key[:5]:
            if len(self) >= _FRAGMENTS:
                self.clear()
            self[*clean, cost_source, aborted] = made  # of plain strings, whatever kind of string was given
        return made


class Subjects(dict[tuple[str, str], str]):
    """The quoted subjects of users and orgs without attributes; made when first asked for, bounded likewise."""

    def __missing__(self, key: tuple[str, str]) -> str:
        user, org = _clean.text(key[0]), _clean.text(key[1])
        made = quoted(subject_of(user, org))
        if (user, org) == key:
            if len(self) >= _FRAGMENTS:
                self.clear()
            self[key] = made
        return made


NOBODY = r'"\t"'
"""The subject of what counts for nobody known."""


def body_of(event: UsageEvent, key: str = "") -> str:
    """Give everything of `event`'s payload that follows its number, `key` being an idempotency key."""
    from usagekit.event import to_microseconds

    shape = shape_of(
        event.kind,
        event.event,
        event.status,
        event.route,
        event.provider,
        event.model,
        event.cost_source,
        event.aborted,
    )
    is_call = event.kind == "llm"
    output = event.output_tokens if is_call else event.response_bytes
    other_output = event.response_bytes if is_call else event.output_tokens
    subject = subject_of(
        event.user,
        event.org,
        event.attributes,
        event.weight,
        _clean.millionths(event.quantity),
        other_output,
    )
    latency = _clean.microseconds(event.latency_ms)
    first = _clean.microseconds(event.first_token_ms)
    tail = None if first is None else (latency or 0) - first
    parts = [
        str(to_microseconds(event.time)),
        quoted(shape),
        quoted(subject),
        _optional(latency),
        _optional(tail),
        str(output),
    ]
    tokens = (event.input_tokens, event.cache_read_tokens, event.cache_write_tokens, event.reasoning_tokens)
    if key or event.cost_usd is not None or any(tokens):
        cost = _optional(nano_of(event.cost_usd))
        parts += [str(tokens[0]), cost, *map(str, tokens[1:])]
    if key:
        parts.append(quoted(hashed_key(key)))
    return ",".join(parts)


def nano_of(cost: Decimal | None) -> int | None:
    """Give exact dollars as nano-dollars."""
    return None if cost is None else int(cost.scaleb(9))


def hashed_key(key: object) -> str:
    """Give the form in which an idempotency key is kept: long enough never to collide, and not the key itself."""
    from hashlib import blake2b

    return blake2b(_clean.plain(key).encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()


def _optional(value: int | None) -> str:
    return "null" if value is None else str(value)


def split(data: bytes) -> tuple[list[bytes], int, int]:
    """Take the whole records out of `data`, which starts at a record's beginning.

    Returns the payloads, the number of corrupt records among them, and how many bytes of `data` they span. What
    follows is the beginning of a record that is not complete (yet).
    """
    consumed = data.rfind(b"\n") + 1
    pieces = [piece for piece in data[:consumed].split(b"\n") if piece]
    payloads = [piece[8:] for piece in pieces]
    try:
        sums = struct.unpack(f">{len(pieces)}I", unhexlify(b"".join([piece[:8] for piece in pieces])))
    except (ValueError, struct.error):
        sums = ()
    if sums == tuple(map(crc32, payloads)):
        return payloads, 0, consumed
    sound = [piece[8:] for piece in pieces if _is_intact(piece)]
    return sound, len(pieces) - len(sound), consumed


def last_of(piece: bytes) -> bytes | None:
    """Give the payload of what follows the last newline of a file that nobody writes to any more; None = it is torn."""
    return piece[8:] if _is_intact(piece) else None


def _is_intact(piece: bytes) -> bool:
    try:
        return len(piece) > 8 and int(piece[:8], 16) == crc32(piece[8:])
    except ValueError:
        return False


def decode(payloads: list[bytes]) -> tuple[list[list[object]], int]:
    """Read payloads back into lists of fields; returns them and how many were no records after all."""
    from json import loads

    try:
        records = loads(b"[" + b",".join(payloads) + b"]")
        if set(map(type, records)) == {list} and set(map(len, records)) <= _LENGTHS:
            return records, 0
    except (ValueError, RecursionError):
        pass
    records = []
    for payload in payloads:
        try:
            record = loads(payload)
        except (ValueError, RecursionError):
            continue
        if _is_record(record):
            records.append(record)
    return records, len(payloads) - len(records)


def is_sound(record: list[object]) -> bool:
    """Check everything about a record that passed its CRC: false only for what usagekit did not write."""
    number, time_us, shape, subject, latency, tail, *measures = record
    keys = [measures.pop()] if len(record) == KEYED else []
    cost = measures.pop(2) if len(record) >= LONG else None
    return (
        all(_in_range(value) for value in (number, time_us, *measures))
        and all(value is None or _in_range(value) for value in (latency, cost))
        and (tail is None or (type(tail) is int and abs(tail) <= _clean.COUNT_LIMIT))
        and _is_text(shape)
        and _is_shape(str(shape).split(SEPARATOR))
        and _is_text(subject)
        and _is_subject(str(subject).split(SEPARATOR))
        and all(isinstance(key, str) and len(key) == 32 and set(key) <= _HEX_DIGITS for key in keys)
    )


_HEX_DIGITS = frozenset("0123456789abcdef")


def _is_text(value: object) -> bool:
    # SQLite's text holds no lone surrogates, and its functions end at the first NUL.
    return isinstance(value, str) and "\0" not in value and value == value.encode("utf-8", "replace").decode()


def _in_range(value: object) -> bool:
    return type(value) is int and 0 <= value <= _clean.TIME_LIMIT_US


def _is_shape(parts: list[str]) -> bool:
    return len(parts) == 8 and parts[2].isdecimal() and len(parts[2]) <= 3


def _is_subject(parts: list[str]) -> bool:
    if len(parts) == 2:
        return True
    if len(parts) != 3:
        return False
    try:
        weight, quantity, other_output, attributes = parse_extra(parts[2])
    except (ValueError, TypeError, RecursionError):
        return False
    return all(map(_in_range, (weight, quantity, other_output))) and _is_text(attributes)


def parse_extra(extra: str) -> tuple[int, int, int, str]:
    """Take weight, quantity in millionths, other output and the attributes (as JSON) out of a subject's third part."""
    from json import dumps, loads

    weight, quantity, other_output, attributes = loads(extra)
    return (
        weight,
        quantity,
        other_output,
        dumps(dict(attributes), separators=(",", ":"), sort_keys=True, ensure_ascii=False),
    )


def _is_record(record: object) -> bool:
    return isinstance(record, list) and len(record) in _LENGTHS


def event_of(journal: str, fields: list[object]) -> UsageEvent:
    """Give the event that a sound record stands for."""
    from json import loads

    number, time_us, shape, subject, latency, tail, output = fields[:SHORT]
    kind, event, status, route, provider, model, cost_source, aborted = str(shape).split(SEPARATOR)
    user, org, *extra = str(subject).split(SEPARATOR)
    weight, quantity, other_output, attributes = parse_extra(extra[0]) if extra else (1, _clean.MICRO, 0, "{}")
    row = (
        f"{journal}-{number}",
        time_us,
        *(kind, event, int(status), route, provider, model, cost_source, bool(aborted)),
        *(user, org, weight, quantity, other_output, loads(attributes)),
        *(latency, tail, output),
        *(fields[SHORT:LONG] or (0, None, 0, 0, 0)),
    )
    return event_of_row(row)


def event_of_row(row: tuple[Any, ...]) -> UsageEvent:
    """Give the event of its parts, in the order that `fields_of_row` takes."""
    from usagekit.event import UsageEvent

    return UsageEvent(**fields_of_row(row))


def fields_of_row(row: tuple[Any, ...]) -> dict[str, Any]:
    """Give the fields of a `UsageEvent`, by name, of an event's parts, in this order.

    id, time_us; kind, event, status, route, provider, model, cost source, aborted; user, org, weight, quantity,
    other output, attributes; latency_us, tail_us, output, input, cost_nano, cache read, cache write, reasoning.
    """
    from usagekit.event import dollars, from_microseconds

    event_id, time_us, kind, event, status, route, provider, model, cost_source, aborted = row[:10]
    user, org, weight, quantity, other_output, attributes = row[10:16]
    latency, tail, output, input_tokens, cost, cache_read, cache_write, reasoning = row[16:]
    output_tokens, response_bytes = (output, other_output) if kind == "llm" else (other_output, output)
    return {
        "id": event_id,
        "time": from_microseconds(time_us),
        "kind": kind,
        "event": event,
        "user": user,
        "org": org,
        "status": status,
        "latency_ms": None if latency is None else latency / 1000,
        "route": route,
        "provider": provider,
        "model": model,
        "input_tokens": input_tokens,
        "output_tokens": output_tokens,
        "cache_read_tokens": cache_read,
        "cache_write_tokens": cache_write,
        "reasoning_tokens": reasoning,
        "first_token_ms": None if tail is None else ((latency or 0) - tail) / 1000,
        "cost_usd": None if cost is None else dollars(cost),
        "cost_source": cost_source,
        "response_bytes": response_bytes,
        "aborted": bool(aborted),
        "quantity": quantity / _clean.MICRO,
        "weight": weight,
        "attributes": attributes,
    }
