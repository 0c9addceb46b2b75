"""`AnalyticsEngineBackend`: Cloudflare Workers Analytics Engine as a backend, to write, to ask, or both."""

from __future__ import annotations

import os
import re
from functools import partial
from importlib.util import find_spec
from logging import getLogger
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, urlsplit

from usagekit.backends.analytics_engine.client import API_URL, SqlClient
from usagekit.backends.analytics_engine.layout import DEFAULT_DATASET, Layout
from usagekit.backends.analytics_engine.reader import AnalyticsEngineReader
from usagekit.backends.analytics_engine.sink import IngestSink
from usagekit.errors import ConfigurationError, MissingDependencyError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Literal

    from usagekit.query import UsageQuery, UsageReport

__all__ = ["AnalyticsEngineBackend"]

_DATASET = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_-]{0,95}")


class AnalyticsEngineBackend:
    """Writes events to Analytics Engine through the ingest Worker, and asks for them through its SQL API.

    It can be written to (it has `write`) where the Worker's URL and key are set, and asked (it has `read`) where
    account and token are; with neither it does nothing, and a recorder leaves it out. Made once and given to a
    `Recorder`, whose ledger is the spool: nothing waits for Cloudflare but one background thread.

    Args:
        dataset: its name, or what gives it, called once; None = `USAGEKIT_DATASET`, else `"usagekit"`.
        layout: which field lies where; None = `Layout.default` with the dimensions that the recorder declares.
        ingest_url: of the ingest Worker; None = `USAGEKIT_INGEST_URL`.
        ingest_key: the Worker's secret; None = `USAGEKIT_INGEST_KEY`.
        account_id: for asking; None = `CLOUDFLARE_ACCOUNT_ID`.
        api_token: for asking, with the permission Account Analytics: Read; None = `CLOUDFLARE_API_TOKEN`.
        api_url: where the SQL API is; a local engine answers as Cloudflare's does.
        unset: what to do where none of these four is set: `"warn"` = do nothing and say so once, `"raise"`.

    Attributes:
        dataset: its name.
        idle: whether it can neither be written to nor asked.
        name: under which the ledger keeps how far it has come.

    Raises:
        ConfigurationError: something that cannot work, or only one of two that belong together.
        MissingDependencyError: the extra is not installed.
    """

    write: Callable[..., None]
    read: Callable[[UsageQuery], UsageReport]
    max_batch: int

    def __init__(
        self,
        *,
        dataset: str | Callable[[], str] | None = None,
        layout: Layout | None = None,
        ingest_url: str | None = None,
        ingest_key: str | None = None,
        account_id: str | None = None,
        api_token: str | None = None,
        api_url: str = API_URL,
        unset: Literal["warn", "raise"] = "warn",
    ) -> None:
        if unset not in {"warn", "raise"}:
            raise ConfigurationError(f"unset={unset!r} is unknown; use 'warn' or 'raise'")
        self.dataset = _checked_dataset(_dataset_of(dataset))
        self.name = f"analytics-engine:{self.dataset}"
        self._given = layout
        self._layout = layout or Layout.default()
        ingest = _pair(
            ("USAGEKIT_INGEST_URL", ingest_url or os.environ.get("USAGEKIT_INGEST_URL")),
            ("USAGEKIT_INGEST_KEY", ingest_key or os.environ.get("USAGEKIT_INGEST_KEY")),
        )
        account = _pair(
            ("CLOUDFLARE_ACCOUNT_ID", account_id or os.environ.get("CLOUDFLARE_ACCOUNT_ID")),
            ("CLOUDFLARE_API_TOKEN", api_token or os.environ.get("CLOUDFLARE_API_TOKEN")),
        )
        self._sink: IngestSink | None = None
        self._client: SqlClient | None = None
        self.idle = ingest is None and account is None
        if self.idle:
            self._say_unset(unset)
            return
        _check_extra()
        if ingest is not None:
            self._sink = IngestSink(*ingest, self.dataset, lambda: self._layout)
            self.write, self.max_batch = self._sink.write, self._sink.max_batch
        if account is not None:
            self._client = SqlClient(*account, url=api_url)
            self.read = partial(self._read, self._client)

    @classmethod
    def from_url(cls, url: str) -> AnalyticsEngineBackend:
        """Make it of `analytics-engine://` or `analytics-engine://dataset`.

        `?unset=raise&api_url=…&layout=layout.json` as the options; the layout is a file for `Layout.from_file`.
        """
        parts = urlsplit(url)
        options: dict[str, Any] = dict(parse_qsl(parts.query, keep_blank_values=True))
        if parts.path.strip("/") or options.keys() - {"unset", "api_url", "layout"}:
            raise ConfigurationError(
                f"cannot use {url!r}; use analytics-engine://dataset, with ?unset=raise, ?layout=FILE or without"
            )
        if "layout" in options:
            options["layout"] = Layout.from_file(options["layout"])
        return cls(dataset=parts.netloc or None, **options)

    def __repr__(self) -> str:
        return f"AnalyticsEngineBackend(dataset={self.dataset!r})"

    @property
    def layout(self) -> Layout:
        """Which field lies where: as given, or the default one with what the recorder declared."""
        return self._layout

    @property
    def dimensions(self) -> tuple[str, ...]:
        """The app's own dimensions that lie in its points."""
        return self._layout.dimensions

    def declare(self, dimensions: Iterable[str]) -> None:
        """Take the names declared on the recorder; raises `ConfigurationError` where the layout does not know one."""
        if self._given is None:
            self._layout = Layout.default(dimensions)
        else:
            self._given.check_dimensions(dimensions)

    def close(self) -> None:
        """Close the connections of this process."""
        for part in (self._sink, self._client):
            if part is not None:
                part.close()

    def _read(self, client: SqlClient, query: UsageQuery, /) -> UsageReport:
        return AnalyticsEngineReader(client.ask, dataset=self.dataset, layout=self._layout).read(query)

    def _say_unset(self, unset: str) -> None:
        message = (
            "Analytics Engine is not set up; set USAGEKIT_INGEST_URL and USAGEKIT_INGEST_KEY to write to it, "
            "CLOUDFLARE_ACCOUNT_ID and CLOUDFLARE_API_TOKEN to ask it"
        )
        if unset == "raise":
            raise ConfigurationError(message)
        getLogger("usagekit").warning("%s; until then nothing is sent there", message)


def _dataset_of(given: str | Callable[[], str] | None) -> str:
    if given is None:
        return os.environ.get("USAGEKIT_DATASET") or DEFAULT_DATASET
    return given if isinstance(given, str) else given()


def _checked_dataset(name: object) -> str:
    if not isinstance(name, str) or not _DATASET.fullmatch(name):
        raise ConfigurationError(f"dataset={name!r} is no dataset's name; use letters, digits, _ and -, at most 96")
    return name


def _pair(first: tuple[str, str | None], second: tuple[str, str | None]) -> tuple[str, str] | None:
    if first[1] and second[1]:
        return first[1], second[1]
    if first[1] or second[1]:
        there, missing = (first, second) if first[1] else (second, first)
        raise ConfigurationError(f"{there[0]} is set and {missing[0]} is not; set both, or neither")
    return None


def _check_extra() -> None:
    if find_spec("httpx2") is None:
        raise MissingDependencyError("Analytics Engine needs the extra: pip install 'usagekit[analytics-engine]'")
