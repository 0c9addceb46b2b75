"""The ids of what repeats among events: shapes and subjects, as `record` explains, and what these are made of."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from usagekit._store import record as records
from usagekit._store.steps import columns_of

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable, Iterable, Sequence

LIMIT = 65_536  # ids remembered of each kind

_SHAPE = ("kind", "event", "status", "route", "provider", "model", "cost_source", "aborted")
_EXTRA = ("weight", "quantity", "other_output", "attributes")


class Dictionaries:
    """Finds and makes ids over one connection, in the caller's transaction.

    Attributes:
        shapes: ids by text, of those that were learned.
        subjects: likewise.
    """

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self.shapes = _Known(self._shapes)
        self.subjects = _Known(self._subjects)

    def forget_subjects(self) -> None:
        """Look all subjects up again, as somebody was erased."""
        self.subjects.clear()

    def settle(self, *, committed: bool) -> None:
        """End a transaction: what a rolled-back one made is forgotten."""
        self.shapes.settle(committed=committed)
        self.subjects.settle(committed=committed)

    def _shapes(self, texts: Sequence[str]) -> list[int]:
        rows = []
        for text in texts:
            kind, event, status, route, provider, model, cost_source, aborted = text.split(records.SEPARATOR)
            rows.append((kind, event, int(status), route, provider, model, cost_source, int(bool(aborted))))
        return self._ids("shapes", _SHAPE, rows)

    def _subjects(self, texts: Sequence[str]) -> list[int]:
        parts = [text.split(records.SEPARATOR) for text in texts]
        users = self._names("users", (user for user, *_ in parts))
        orgs = self._names("orgs", (org for _, org, *_ in parts))
        extras = list(dict.fromkeys(extra for _, _, *extras in parts for extra in extras))
        extra_ids = dict(zip(extras, self._ids("extras", _EXTRA, list(map(records.parse_extra, extras))), strict=True))
        rows = [(users[user], orgs[org], extra_ids[extra[0]] if extra else 0) for user, org, *extra in parts]
        return self._ids("subjects", ("user", "org", "extra"), rows)

    def _names(self, table: str, names: Iterable[str]) -> dict[str, int]:
        rows = [(name,) for name in dict.fromkeys(names)]
        return {name: number for (name,), number in zip(rows, self._ids(table, ("name",), rows), strict=True)}

    def _ids(self, table: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> list[int]:
        """Give the ids of entries with these values, in order; made where there are none. Names are literals."""
        if not rows:
            return []
        parts = [f"json_extract(l.value, '$[{place}]')" for place in range(len(columns))]
        same = " AND ".join(f"t.{column} = {part}" for column, part in zip(columns, parts, strict=True))

        def found(wanted: Sequence[Sequence[Any]]) -> dict[int, int]:
            listed = f"FROM json_each(:rows) l CROSS JOIN {table} t ON {same}"
            places, ids = columns_of(self._connection, ("l.key", "t.id"), listed, {"rows": _as_json(wanted)})
            return dict(zip(places, ids, strict=True))

        known = found(rows)
        missing = [place for place in range(len(rows)) if place not in known]
        if missing:
            # Only these: an insertion uses an id up, also where it finds that the entry is there.
            new = [rows[place] for place in missing]
            self._connection.execute(
                f"INSERT INTO {table} ({', '.join(columns)}) SELECT {', '.join(parts)} FROM json_each(?) l WHERE true"
                " ON CONFLICT DO NOTHING",
                (_as_json(new),),
            )
            made = found(new)
            known |= {place: made[number] for number, place in enumerate(missing)}
        return [known[place] for place in range(len(rows))]


def _as_json(rows: Sequence[Sequence[Any]]) -> str:
    # Raises a ValueError for numbers that SQLite does not know; it would only say that the JSON is malformed.
    return json.dumps(rows, ensure_ascii=False, allow_nan=False)


class _Known(dict[str, int]):
    """Ids of texts, remembered as long as they are true."""

    def __init__(self, find: Callable[[Sequence[str]], list[int]]) -> None:
        super().__init__()
        self._find = find
        self._fresh: list[str] = []

    def learn(self, texts: Iterable[str]) -> None:
        """Know all of these from here on; when others are learned, these may be forgotten.

        Raises:
            ValueError: a text that SQLite cannot hold, which no event of ours has.
        """
        wanted = dict.fromkeys(texts)
        if len(self) + len(wanted) > LIMIT:
            self.clear()
        missing = [text for text in wanted if text not in self]
        if any("\0" in text for text in missing):
            msg = "SQLite ends a text at its first NUL, and would take it for another one"
            raise ValueError(msg)
        if missing:
            self.update(zip(missing, self._find(missing), strict=True))
            self._fresh += missing

    def settle(self, *, committed: bool) -> None:
        """End a transaction."""
        if not committed:
            for text in self._fresh:
                self.pop(text, None)
        self._fresh.clear()
